"""Cells over the machine's cores: one process per core, each of which trains whole runs one after the other.

A run that fails is named and the others go on; a process that dies takes its run with it and is replaced. A finished
run is never trained twice, and a half-written one goes on from its last round.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.utility.cells import RUNS
from benchmarks.utility.data import lend
from secfed.config import RunConfig
from secfed.errors import SecfedError
from secfed.experiment.job_process import EngineName
from secfed.experiment.scheduler import single_threaded
from secfed.lifeline import stop_with_parent
from secfed.results import FILE_NAME, RunRecord

MEMORY = "memory.json"
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """One run to train: its key, and the key of the run whose model it starts from."""

    key: str
    config: RunConfig
    needs: str | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended; `reason` is None for a run that is complete."""

    key: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Callbacks: a run was started by a worker, a run ended, and a moment passed in which these runs are at work."""

    started: Callable[[int, RunOrder], None]
    ended: Callable[[int, Outcome], None]
    working: Callable[[dict[int, RunOrder]], None]


def train_all(
    orders: Sequence[RunOrder], *, study: Path, cores: int, engine: EngineName, watch: Watch
) -> dict[str, Outcome]:
    """Train what is not complete, in order; whoever needs another run waits for it.

    In process, `cores` runs work at a time. Under Ray they come one by one, and the sites of each have the cores.
    """
    slots = 1 if engine == "ray" else cores
    outcomes = {order.key: Outcome(key=order.key, reason=None) for order in orders if completed(study, order.key)}
    waiting = [order for order in orders if order.key not in outcomes]
    pools: dict[int, ProcessPoolExecutor] = {}
    busy: dict[Future[Outcome], tuple[int, RunOrder]] = {}
    try:
        while waiting or busy:
            idle = [slot for slot in range(slots) if slot not in {taken for taken, _ in busy.values()}]
            for slot in idle:
                unfinished = {one.key for one in (*waiting, *(taken for _, taken in busy.values()))}
                order = next((one for one in waiting if one.needs not in unfinished), None)
                if order is None:
                    break
                waiting.remove(order)
                if order.needs is not None and not completed(study, order.needs):
                    reason = f"the run that it starts from, {order.needs}, failed or is no part of this study"
                    outcomes[order.key] = Outcome(key=order.key, reason=reason)
                    watch.ended(slot, outcomes[order.key])
                    continue
                if slot not in pools:
                    pools[slot] = _pool()
                watch.started(slot, order)
                busy[pools[slot].submit(train_one, order, study, engine, cores)] = (slot, order)
            done, _ = wait(busy, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                slot, order = busy.pop(future)
                outcomes[order.key] = _outcome(future, order)
                if isinstance(future.exception(), BrokenProcessPool):
                    pools.pop(slot).shutdown(wait=False, cancel_futures=True)
                watch.ended(slot, outcomes[order.key])
            watch.working(dict(busy.values()))
    finally:
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
    return outcomes


def _outcome(future: "Future[Outcome]", order: RunOrder) -> Outcome:
    error = future.exception()
    if error is None:
        return future.result()
    return Outcome(key=order.key, reason=f"its process died: {type(error).__name__}: {error}")


def train_one(order: RunOrder, study: Path, engine: EngineName = "in_process", cores: int = 1) -> Outcome:
    """Train and test one run in this process; whatever goes wrong becomes the outcome's reason."""
    from secfed.experiment.run import run_in_this_process

    # Paths in a cell's configuration are relative to the study.
    os.chdir(study)
    reset_peak()
    folder = study / RUNS / order.key
    try:
        run_in_this_process(
            order.config,
            out=folder,
            engine=engine,
            workers=cores if engine == "ray" else 1,
            before=lambda run: lend(order.config, run, study=study),
        )
    except SecfedError as error:
        return Outcome(key=order.key, reason=str(error))
    except Exception as error:
        return Outcome(key=order.key, reason=f"{type(error).__name__}: {error}")
    peak = peak_bytes()
    if peak is not None and not (folder / MEMORY).exists():
        (folder / MEMORY).write_text(str(peak), encoding="utf-8")
    return Outcome(key=order.key, reason=None)


def peak_bytes() -> int | None:
    """The largest resident size of this process since `reset_peak`; None where the kernel does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)


def reset_peak() -> None:
    """Forget the former peak, where the kernel lets a process do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def completed(study: Path, key: str) -> bool:
    """Whether the run was trained, tested and recorded."""
    folder = study / RUNS / key
    if not (folder / FILE_NAME).exists():
        return False
    try:
        RunRecord.load(folder)
    except SecfedError:
        return False
    return True


def _pool() -> ProcessPoolExecutor:
    with single_threaded():
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_start)
        # Started while the environment says one thread: a child reads it before it imports torch.
        pool.submit(time.monotonic).result()
    return pool


def _start() -> None:
    stop_with_parent()
