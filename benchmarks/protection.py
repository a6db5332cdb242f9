"""What protection costs a whole federation: one short training, plain, masked and encrypted, to one and the same model.

The demo's sites, data and U-Net over a few rounds, from one seed, each protection in a process of its own. Seconds of
protection are CPU seconds beyond what the plain run spends outside training and encoding; bytes are those of all
messages. Exits with 1 unless all runs end on one model. `--quick` trains a tiny network and leaves the memory out.

    python -m benchmarks.protection --json bench/protection.json --figure bench/protection.svg
"""

import itertools
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.bars import Panel, draw_bars
from benchmarks.rows import Row, parser, publish
from benchmarks.timed_federation import (
    PROTECTIONS,
    Answer,
    Protection,
    TimedRun,
    demo_config,
    peak_of_aggregator,
    prepare,
    run,
)
from secfed.config import RunConfig
from secfed.messages import Stage

ROUNDS, QUICK_ROUNDS = 8, 4

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a run: exchanges, bytes over all sites, and CPU seconds at the sites and between their answers."""

    exchanges: int
    bytes_up: int
    bytes_down: int
    at_sites: float
    at_aggregator: float

    @classmethod
    def of(cls, answers: Sequence[Answer], *, begins: float, ends: float) -> "Phase":
        """The phase that these answers fall into."""
        at_sites = sum(answer.ended - answer.started for answer in answers)
        return cls(
            exchanges=len({(answer.stage, answer.server_round) for answer in answers}),
            bytes_up=sum(answer.bytes_up for answer in answers),
            bytes_down=sum(answer.bytes_down for answer in answers),
            at_sites=at_sites,
            at_aggregator=ends - begins - at_sites,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run cost: `setup` is all before the first training, without the seconds in which sites join."""

    run: TimedRun
    setup: Phase
    round: Phase
    end: Phase
    peak: int | None


def main() -> None:
    """Train, compare and publish."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="draw the costs as bars (SVG)")
    arguments.add_argument("--scheme", choices=("bfv", "ckks"), default="bfv", help="ckks: train under CKKS too")
    arguments.add_argument("--rounds", type=int, help=f"rounds of each run (default {ROUNDS})")
    arguments.add_argument("--seed", type=int, default=0, help="the one seed of all runs")
    given = arguments.parse_args()
    wanted = [name for name in PROTECTIONS if given.scheme == "ckks" or name != "encrypted, CKKS"]
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    if rounds < 3:
        arguments.error(f"--rounds {rounds}: at least 3 are needed, because the first and the last one are special")
    config = demo_config(rounds=rounds, seed=given.seed, tiny=given.quick)
    with tempfile.TemporaryDirectory(prefix="protection-") as name:
        folder = Path(name)
        prepare(config, folder=folder)
        costs = [measure(config, protection, folder=folder, memory=not given.quick) for protection in wanted]
    found = rows(costs)
    publish(found, path=given.json)
    if given.figure is not None:
        draw(costs, path=given.figure)
    if any(row.met is False for row in found):
        sys.exit(1)


def measure(config: RunConfig, protection: Protection, *, folder: Path, memory: bool) -> Cost:
    """The run on a clock, and where asked once more for the aggregator's memory.

    Raises:
        RuntimeError: the two runs ended on different models.
    """
    timed = _alone(run, config, protection, folder)
    peak = None
    if memory:
        peak, model_hash = _alone(peak_of_aggregator, config, protection, folder)
        if model_hash != timed.model_hash:
            raise RuntimeError(f"{protection}: {model_hash} with sites in other processes, {timed.model_hash} without")
    return cost_of(timed, peak=peak)


def cost_of(timed: TimedRun, *, peak: int | None) -> Cost:
    """Cut a run into set-up, rounds and end; a round lasts from one first request to train to the next one.

    The first round is left out, because sites have no sum to step on before it.
    """
    answers = timed.answers
    starts = [
        next(index for index, answer in enumerate(answers) if _trains(answer, number))
        for number in range(1, len(timed.training) + 1)
    ]
    rounds = []
    for number, (first, last) in list(enumerate(itertools.pairwise(starts)))[1:]:
        phase = Phase.of(answers[first:last], begins=answers[first].started, ends=answers[last].started)
        work = timed.training[number] + timed.encoding[number]
        rounds.append((phase, phase.at_sites - work))
    setup = answers[: starts[0]]
    keyed = [answer for answer in setup if answer.stage is not Stage.JOIN]
    joined = [answer.ended for answer in setup if answer.stage is Stage.JOIN]
    seconds = Phase.of(keyed, begins=joined[-1], ends=answers[starts[0]].started)
    everything = Phase.of(setup, begins=0.0, ends=0.0)
    ending = [answer for answer in answers if answer.stage in (Stage.END, Stage.FINISH)]
    return Cost(
        run=timed,
        setup=Phase(
            exchanges=everything.exchanges,
            bytes_up=everything.bytes_up,
            bytes_down=everything.bytes_down,
            at_sites=seconds.at_sites,
            at_aggregator=seconds.at_aggregator,
        ),
        round=Phase(
            exchanges=max(phase.exchanges for phase, _ in rounds),
            bytes_up=round(statistics.median(phase.bytes_up for phase, _ in rounds)),
            bytes_down=round(statistics.median(phase.bytes_down for phase, _ in rounds)),
            at_sites=statistics.median(beyond for _, beyond in rounds),
            at_aggregator=statistics.median(phase.at_aggregator for phase, _ in rounds),
        ),
        end=Phase.of(ending, begins=0.0, ends=0.0),
        peak=peak,
    )


def rows(costs: Sequence[Cost]) -> list[Row]:
    """All measures, protection by protection; the first run is the plain one."""
    plain = costs[0]
    sites = plain.run.sites
    note = (
        f"{sites} sites, {plain.run.parameters:,} parameters, {plain.run.entries:,} entries with moments and metrics, "
        f"{len(plain.run.training)} rounds"
    )
    training = statistics.median(seconds for cost in costs for seconds in cost.run.training)
    hashes = {cost.run.model_hash for cost in costs}
    found = [
        Row(
            measure="different final models",
            value=len(hashes),
            unit="models",
            target="= 1",
            met=len(hashes) == 1,
            note=f"{note}; SHA-256 {', '.join(sorted(hashes))}",
        ),
        Row(measure="training per round, all sites", value=training, unit="s CPU", note="median of all runs' rounds"),
    ]
    for cost in costs:
        found += _rows_of(cost, plain=plain, training=training)
    return found


def _rows_of(cost: Cost, *, plain: Cost, training: float) -> list[Row]:
    name, sites, entries = cost.run.protection, cost.run.sites, cost.run.entries
    at_site, at_aggregator = protection_seconds(cost, plain=plain)
    share = (sites * at_site + at_aggregator) / training
    up = cost.round.bytes_up / sites
    per_entry = f"{up / entries:.2f} per entry, {up / cost.run.parameters:.2f} per parameter"
    median = f"median of {len(cost.run.training) - 2} rounds"
    found = [
        Row(measure=f"bytes up per site and round, {name}", value=up, unit="bytes", note=per_entry),
        Row(
            measure=f"bytes down per site and round, {name}",
            value=cost.round.bytes_down / sites,
            unit="bytes",
            note=f"{cost.round.bytes_down / sites / entries:.2f} per entry",
        ),
        Row(measure=f"exchanges per round, {name}", value=cost.round.exchanges, unit="exchanges"),
        Row(measure=f"protection per round, one site, {name}", value=at_site, unit="s CPU", note=median),
        Row(
            measure=f"protection per round, aggregator and transport, {name}",
            value=at_aggregator,
            unit="s CPU",
            note=median,
        ),
        Row(measure=f"protection / training, {name}", value=share, unit="1", note=f"all parties; {median}"),
        Row(
            measure=f"set-up exchanges, {name}",
            value=cost.setup.exchanges,
            unit="exchanges",
            note=f"before the first training; at the end {cost.end.exchanges}",
        ),
        Row(
            measure=f"set-up bytes up per site, {name}",
            value=cost.setup.bytes_up / sites,
            unit="bytes",
            note=f"at the end {cost.end.bytes_up / sites:,.0f}",
        ),
        Row(
            measure=f"set-up bytes down per site, {name}",
            value=cost.setup.bytes_down / sites,
            unit="bytes",
            note=f"at the end {cost.end.bytes_down / sites:,.0f}",
        ),
        Row(
            measure=f"set-up seconds, all parties, {name}",
            value=cost.setup.at_sites + cost.setup.at_aggregator,
            unit="s CPU",
            note="after all sites joined, first imports included",
        ),
        Row(
            measure=f"whole run, {name}",
            value=cost.run.seconds,
            unit="s",
            note="wall clock, start-up of the process left out",
        ),
    ]
    if cost.peak is not None:
        found.append(
            Row(
                measure=f"aggregator's peak memory, {name}",
                value=cost.peak / 1e6,
                unit="MB",
                note=f"growth of its process, the engine's inbox of {sites} replies and first imports included",
            )
        )
    return found


def protection_seconds(cost: Cost, *, plain: Cost) -> tuple[float, float]:
    """What protection takes at one site, and at the aggregator with all transport, beyond the plain run."""
    at_sites = (cost.round.at_sites - plain.round.at_sites) / cost.run.sites
    return at_sites, cost.round.at_aggregator - plain.round.at_aggregator


def draw(costs: Sequence[Cost], *, path: Path) -> None:
    """Six panels of bars: bytes, exchanges and seconds of a round, and what comes before the first one."""
    plain = costs[0]
    seconds = [protection_seconds(cost, plain=plain) for cost in costs]

    def panel(title: str, values: Sequence[float], form: Callable[[float], str]) -> Panel:
        return Panel(title=title, values=tuple(values), texts=tuple(form(value) for value in values))

    def megabytes(value: float) -> str:
        return f"{value:.2f} MB"

    def milliseconds(value: float) -> str:
        return f"{1000 * value:.0f} ms"

    sites = plain.run.sites
    panels = [
        panel("Up, per site and round", [cost.round.bytes_up / sites / 1e6 for cost in costs], megabytes),
        panel("Down, per site and round", [cost.round.bytes_down / sites / 1e6 for cost in costs], megabytes),
        panel("Exchanges per round", [cost.round.exchanges for cost in costs], "{:.0f}".format),
        panel("CPU of protection per round, one site", [at_site for at_site, _ in seconds], milliseconds),
        panel("… at the aggregator, with transport", [rest for _, rest in seconds], milliseconds),
        panel("Exchanges before the first round", [cost.setup.exchanges for cost in costs], "{:.0f}".format),
    ]
    title = f"One model, {len(costs)} protections: {sites} sites, {plain.run.entries:,} entries"
    draw_bars(panels, labels=[cost.run.protection for cost in costs], title=title, path=path)


def _trains(answer: Answer, number: int) -> bool:
    return answer.stage is Stage.TRAIN and answer.server_round == number


def _alone(action: Callable[..., ResultT], config: RunConfig, protection: Protection, folder: Path) -> ResultT:
    """The result from a fresh process, so that no run finds what another one has loaded."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(action, config, protection, folder=folder).result()


if __name__ == "__main__":
    main()
