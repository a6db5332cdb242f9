"""The processes of a round on several devices: started, watched and ended, whatever happens to one of them.

Runs at a site, in the process that was asked for the round. It trains nothing itself, so that it can tell who died:

    start     one process a device, which is told the round and where to meet (clients.replica)
    steps     the first replica reports each; a process that ends without a result ends the round
    result    the first replica's weights; optimiser state, too, is kept by the first alone
    end       no process is left, whether there was a result, an error or an interrupt, or this process was killed

Processes are started for every round, which takes them some seconds: several devices are for rounds of minutes.
"""

import dataclasses
import mmap
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clients.training import RoundOrder, RoundOutcome, TrainingSource, carry_out
from secfed.data.preprocessing import PreparedCase
from secfed.errors import SecfedError
from secfed.lifeline import stop_with_parent

if TYPE_CHECKING:
    import torch

PATIENCE_SECONDS = 1800.0
"""For how long no step may be reported, and no replica may let the others wait: reading the cases counts, too."""
PARTING_SECONDS = 5.0
"""For how long, after one replica failed, the others may say what they saw, and after a round may take to end."""
NAME = "secfed-replica"
_STEP, _DONE = "step", "done"


class ReplicaFailed(SecfedError):  # noqa: N818 - like TrainingDiverged, an event
    """A round on several devices could not be finished; nothing of it was kept."""


@dataclass(frozen=True)
class _Trouble:
    """An error of the program's own, in the words of the process that met it."""

    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """What a process is told."""

    order: RoundOrder
    index: int
    devices: "tuple[torch.device, ...]"
    meeting: Path
    threads: int
    patience_seconds: float


def train_on_replicas(
    order: RoundOrder, *, devices: "tuple[torch.device, ...]", on_step: Callable[[], None] | None
) -> RoundOutcome:
    """Train a round on all of these devices; `on_step` is called here after every step of the first.

    Raises:
        ReplicaFailed: a replica died, fell silent or met an error of its own.
        SecfedError, ValueError: what `clients.training.train_one_round` raises.
    """
    import torch

    if devices[0].type == "cuda":
        # What validation left in this process's hands is the first replica's to use.
        torch.cuda.empty_cache()
    context = multiprocessing.get_context("spawn")
    order = dataclasses.replace(order, sources=tuple(_handed(source) for source in order.sources))
    threads = max(1, torch.get_num_threads() // len(devices))
    processes: list[SpawnProcess] = []
    connections: list[Connection] = []
    # Readable by its owner alone, as everything of tempfile's.
    with tempfile.TemporaryDirectory(prefix="secfed-replicas-") as folder:
        try:
            for index in range(len(devices)):
                part = _Part(
                    order=order,
                    index=index,
                    devices=devices,
                    meeting=Path(folder) / "meeting",
                    threads=threads,
                    patience_seconds=PATIENCE_SECONDS,
                )
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(part, theirs), name=f"{NAME}-{index}")
                processes.append(process)
                connections.append(ours)
                process.start()
                # Only with the process's own end may the pipe have no writer any more.
                theirs.close()
            return _Watch(processes, connections, devices, server_round=order.server_round, on_step=on_step).result()
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
            for connection in connections:
                connection.close()


class _Watch:
    """Listens to all replicas until every one has done its part, or one has not."""

    def __init__(
        self,
        processes: list[SpawnProcess],
        connections: list[Connection],
        devices: "Sequence[torch.device]",
        *,
        server_round: int,
        on_step: Callable[[], None] | None,
    ) -> None:
        self._processes = processes
        self._devices = devices
        self._server_round = server_round
        self._on_step = on_step
        self._open = dict(zip(connections, range(len(connections)), strict=True))
        self._running = {process.sentinel: index for index, process in enumerate(processes)}
        self._outcome: RoundOutcome | None = None
        self._done: set[int] = set()
        self._errors: list[tuple[int, Exception | _Trouble]] = []
        self._dead: list[int] = []

    def result(self) -> RoundOutcome:
        """The outcome of the first replica, when all have done their part and ended."""
        while self._running and not (self._errors or self._dead):
            if not self._listen(PATIENCE_SECONDS if len(self._done) < len(self._processes) else PARTING_SECONDS):
                break
        if len(self._done) == len(self._processes) and self._outcome is not None:
            return self._outcome
        if not (self._errors or self._dead):
            raise ReplicaFailed(
                f"round {self._server_round} on {len(self._devices)} devices: no step within {PATIENCE_SECONDS:g} s, "
                "and no replica ended; one of them hangs. All were ended and nothing was kept. With devices = 1 "
                "(site.toml; --devices of `secfed run`) one device trains alone"
            )
        until = time.monotonic() + PARTING_SECONDS
        while self._running and (left := until - time.monotonic()) > 0:
            self._listen(left)
        raise self._reason()

    def _listen(self, seconds: float) -> bool:
        """Take what there is to hear; False where there was nothing within the time."""
        ready = wait([*self._open, *self._running], timeout=seconds)
        # What a process said is heard before its end is.
        for source in sorted(ready, key=lambda one: not isinstance(one, Connection)):
            if isinstance(source, Connection):
                self._hear(source)
            elif isinstance(source, int):
                self._note_end(source)
        return bool(ready)

    def _hear(self, connection: Connection) -> None:
        index = self._open[connection]
        try:
            said: Any = connection.recv()
        except (EOFError, OSError):
            del self._open[connection]
            return
        if isinstance(said, Exception | _Trouble):
            self._errors.append((index, said))
        elif said == _STEP:
            if self._on_step is not None:
                self._on_step()
        else:
            self._done.add(index)
            if isinstance(said, RoundOutcome):
                self._outcome = said

    def _note_end(self, sentinel: int) -> None:
        index = self._running.pop(sentinel)
        for connection in [one for one, whose in self._open.items() if whose == index]:
            while connection in self._open and connection.poll():
                self._hear(connection)
        if index not in self._done and all(index != whose for whose, _ in self._errors):
            self._dead.append(index)

    def _reason(self) -> Exception:
        """Why the round failed. Who loses another replica fails too, so what explains itself goes before the rest."""
        known = [error for _, error in self._errors if isinstance(error, Exception)]
        if known:
            return known[0]
        if self._dead:
            index = self._dead[0]
            process = self._processes[index]
            process.join()
            return ReplicaFailed(
                f"{self._named(index)} {_end_of(process.exitcode)}. The other replicas were ended and nothing of the "
                "round was kept. If memory ran out, which the system's log would say, give it fewer devices "
                "(site.toml; --devices of `secfed run`); devices = 1 trains without replicas"
            )
        index, trouble = self._errors[0]
        return ReplicaFailed(
            f"{self._named(index)} failed: {trouble.text if isinstance(trouble, _Trouble) else trouble}. The other "
            "replicas were ended and nothing of the round was kept; devices = 1 trains without replicas"
        )

    def _named(self, index: int) -> str:
        return (
            f"round {self._server_round}: replica {index + 1} of {len(self._devices)} "
            f"({self._devices[index]}, process {self._processes[index].pid})"
        )


def _end_of(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code} and no result"


def _serve(part: _Part, connection: Connection) -> None:
    """A replica's process, from its start to its result."""
    stop_with_parent()
    # Ctrl-C reaches every process of the terminal; the one that waits for this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    from clients.replica import Replica

    torch.set_num_threads(part.threads)
    first = part.index == 0
    try:
        order = dataclasses.replace(part.order, sources=tuple(_taken(source) for source in part.order.sources))
        with Replica.joined(
            index=part.index,
            count=len(part.devices),
            device=part.devices[part.index],
            meeting=part.meeting,
            patience_seconds=part.patience_seconds,
        ) as replica:
            outcome = carry_out(
                order,
                device=part.devices[part.index],
                replica=replica,
                on_step=(lambda: connection.send(_STEP)) if first else None,
            )
        connection.send(outcome if first else _DONE)
    except (SecfedError, ValueError) as error:
        connection.send(error)
        sys.exit(1)
    except Exception as error:
        # By its words, because not every error can be sent. Said before the others lose this process, and say so too.
        connection.send(_Trouble(f"{type(error).__name__}: {error}"))
        sys.exit(1)


@dataclass(frozen=True, kw_only=True)
class _Map:
    """A map of a file of the cache, which every process makes for itself: cases are not to be copied."""

    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    order: str

    @classmethod
    def of(cls, array: Any) -> Any:
        """The map that an array is, or the array itself."""
        # A view of a map has its file, but begins elsewhere in it.
        if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap) or array.filename is None:
            return array
        return cls(
            file=Path(array.filename),
            dtype=array.dtype,
            shape=array.shape,
            offset=array.offset,
            order="C" if array.flags.c_contiguous else "F",
        )

    def opened(self) -> Any:
        """The same map in this process."""
        return np.memmap(
            self.file,
            dtype=self.dtype,
            mode="r",
            offset=self.offset,
            shape=self.shape,
            order=self.order,  # type: ignore[call-overload]
        )


def _handed(source: TrainingSource) -> TrainingSource:
    return _with_arrays(source, _Map.of)


def _taken(source: TrainingSource) -> TrainingSource:
    return _with_arrays(source, lambda array: array.opened() if isinstance(array, _Map) else array)


def _with_arrays(source: TrainingSource, change: Callable[[Any], Any]) -> TrainingSource:
    def changed(case: PreparedCase) -> PreparedCase:
        return dataclasses.replace(case, image=change(case.image), label=change(case.label))

    return dataclasses.replace(source, cases=tuple(changed(case) for case in source.cases))
