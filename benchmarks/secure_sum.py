"""Secure aggregation against Flower's SecAgg+, measured in one run: time, bytes, memory, and growth.

Both sides do a whole round of all parties in series: ours from the clients' real vectors through fixed point, masks,
hashes and signatures to the decoded sum, key agreement included; Flower's through its shipped client mod and server
workflow (benchmarks.flower_secagg). Absolute times on a shared machine say little, so what counts is the ratio within
one run. The wall-clock rows need idle cores, because our side uses all of them; for the rows on one core both sides are
pinned to the same one.
`--quick` repeats the comparison less often and measures growth over a smaller range.

    python -m benchmarks.secure_sum --json bench/secure_sum.json --figure bench/secure_sum.html
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.growth import FEW_CLIENTS, Point, draw, growth_rows
from benchmarks.masked_session import MAX_ABS, MaskedSession, RoundCost
from benchmarks.rows import Row, parser, publish
from benchmarks.stopwatch import Seconds
from privacy.secagg.masks import apply_masks

if TYPE_CHECKING:
    from benchmarks.flower_secagg import FlowerCost

CHUNK_BYTES = 2**19


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure; growth in n is measured at `cohort_length`, growth in the length with five clients."""

    repeats: int
    cohort_length: int
    scaling_cohorts: tuple[int, ...]
    scaling_lengths: tuple[int, ...]
    flower_cohorts: tuple[int, ...]
    flower_lengths: tuple[int, ...]
    memory: tuple[tuple[int, int], ...]


LENGTH = 10_000_000
FULL = Plan(
    repeats=5,
    cohort_length=LENGTH,
    scaling_cohorts=(10, 20, 50, 100),
    scaling_lengths=(100_000, 1_000_000, 10_000_000, 100_000_000),
    flower_cohorts=(10, 20),
    flower_lengths=(100_000, 1_000_000, 10_000_000),
    memory=((20, LENGTH), (100, LENGTH)),
)
QUICK = Plan(
    repeats=3,
    cohort_length=1_000_000,
    scaling_cohorts=(10, 20, 40),
    scaling_lengths=(100_000, 1_000_000, 10_000_000),
    flower_cohorts=(10, 20),
    flower_lengths=(100_000, 1_000_000),
    memory=((20, LENGTH),),
)


def main() -> None:
    """Measure, publish the rows, and draw the figure where asked."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="draw cost against cohort and length (HTML)")
    given = arguments.parse_args()
    plan = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory(prefix="secure-sum-") as name:
        folder = Path(name)
        rows = against_flower(LENGTH, repeats=plan.repeats, folder=folder)
        rows.append(fixed_costs(1_000_000, repeats=plan.repeats, folder=folder))
        rows.append(against_keystream(plan.repeats))
        points = flower_points(plan)
        memory: dict[tuple[int, int], RoundCost] = {}
        for clients, length in _shapes(plan):
            cost = _one_round(clients, length, folder=folder)
            memory[clients, length] = cost
            points.append(
                Point(side="secfed", clients=clients, length=length, upload=cost.masking_cpu, server=cost.server.cpu)
            )
    rows += memory_rows(memory, wanted=plan.memory)
    rows += growth_rows(points, cohort_length=plan.cohort_length)
    rows += sharing_rows(memory)
    publish(rows, path=given.json)
    if given.figure is not None:
        draw(points, cohort_length=plan.cohort_length, path=given.figure)


def against_flower(length: int, *, repeats: int, folder: Path) -> list[Row]:
    """Ten clients, with and without three dropouts; medians over the repeats, which alternate between the two sides."""
    whole = _compare(length, dropouts=0, repeats=repeats, folder=folder)
    dropped = _compare(length, dropouts=3, repeats=repeats, folder=folder)
    with one_core():
        whole_alone = _compare(length, dropouts=0, repeats=repeats, folder=folder)
        dropped_alone = _compare(length, dropouts=3, repeats=repeats, folder=folder)
    ours, theirs = _median([cost.total for cost in whole.ours]), _median([cost.total for cost in whole.theirs])
    our_server = _median([cost.server for cost in dropped.ours])
    their_server = _median([cost.server for cost in dropped.theirs])
    alone, theirs_alone = (_median([cost.total for cost in side]) for side in (whole_alone.ours, whole_alone.theirs))
    our_server_alone = _median([cost.server for cost in dropped_alone.ours])
    their_server_alone = _median([cost.server for cost in dropped_alone.theirs])
    our_upload = statistics.median(cost.masking_cpu for cost in whole_alone.ours)
    their_upload = statistics.median(cost.masking_cpu for cost in whole_alone.theirs)
    note = f"n = 10, {length:,} parameters, all-to-all, median of {repeats}"
    wall = f"{note}; wall clock, each side as it ships, {len(os.sched_getaffinity(0))} cores"
    cpu = f"{note}; CPU, both sides on one core"
    server = "server, 3 dropouts at masking"
    return [
        _ratio("round, all parties: ours / SecAgg+", ours.wall, theirs.wall, limit=1 / 4, note=wall),
        _ratio("round, all parties, one core: ours / SecAgg+", alone.cpu, theirs_alone.cpu, limit=1 / 4, note=cpu),
        _ratio(f"{server}: ours / SecAgg+", our_server.wall, their_server.wall, limit=1 / 3, note=wall),
        _ratio(
            f"{server}, one core: ours / SecAgg+",
            our_server_alone.cpu,
            their_server_alone.cpu,
            limit=1 / 3,
            note=cpu,
        ),
        _ratio("one client's upload step, one core: ours / SecAgg+", our_upload, their_upload, limit=None, note=cpu),
        _limited(
            "bytes up per client and parameter, ours",
            whole.ours[0].bytes_up / length,
            unit="bytes",
            limit=4.05,
            note=f"{note}; all messages of a round",
        ),
        Row(
            measure="bytes up per client and parameter, SecAgg+",
            value=whole.theirs[0].bytes_up / length,
            unit="bytes",
            note=f"{note}; values of all replies",
        ),
    ]


def fixed_costs(length: int, *, repeats: int, folder: Path) -> Row:
    """The same comparison where vectors are short: what signing, key agreement and sharing cost shows here."""
    costs = _compare(length, dropouts=0, repeats=repeats, folder=folder)
    ours, theirs = _median([cost.total for cost in costs.ours]), _median([cost.total for cost in costs.theirs])
    setup = _median([cost.setup for cost in costs.ours])
    note = f"n = 10, {length:,} parameters, median of {repeats}; key agreement alone {setup.wall:.3f} s, once per run"
    return _ratio("round, all parties, short vectors: ours / SecAgg+", ours.wall, theirs.wall, limit=None, note=note)


def against_keystream(repeats: int) -> Row:
    """One client's masks among a hundred, against AES-256-CTR alone over the same number of bytes, one thread each."""
    length, cohort = LENGTH, 100
    vector = np.ones(length, np.uint32)
    secrets = {f"site-{index:03d}": index.to_bytes(32, "big") for index in range(1, cohort)}

    def masks() -> None:
        apply_masks(vector, name="site-000", self_seed=bytes(32), pair_secrets=secrets, context=b"benchmark")

    def keystream() -> None:
        zeros, target = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES)
        for index in range(cohort):
            encryptor = Cipher(algorithms.AES(index.to_bytes(32, "big")), modes.CTR(bytes(16))).encryptor()
            for start in range(0, 4 * length, len(zeros)):
                count = min(len(zeros), 4 * length - start)
                encryptor.update_into(memoryview(zeros)[:count], memoryview(target)[:count])

    with one_core():
        pairs = [(_cpu(masks), _cpu(keystream)) for _ in range(repeats)]
    ours, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    note = f"n = {cohort}, {length:,} parameters, one thread each, median of {repeats}"
    return _ratio("one client's masks / bare AES-256-CTR keystream", ours, bare, limit=1.4, note=note)


def flower_points(plan: Plan) -> list[Point]:
    """Flower's marks in the figure."""
    from benchmarks import flower_secagg

    shapes = [(clients, plan.cohort_length) for clients in plan.flower_cohorts]
    shapes += [(FEW_CLIENTS, length) for length in plan.flower_lengths]
    points = []
    for clients, length in shapes:
        cost = flower_secagg.measure(clients, _vector(length).astype(np.float32))
        points.append(
            Point(side="SecAgg+", clients=clients, length=length, upload=cost.masking_cpu, server=cost.server.cpu)
        )
    return points


def memory_rows(costs: dict[tuple[int, int], RoundCost], *, wanted: Sequence[tuple[int, int]]) -> list[Row]:
    """What the aggregator's process grew by, in vectors of 4 bytes per parameter."""
    return [
        _limited(
            f"aggregator's peak memory, n = {clients}",
            costs[clients, length].server_peak_bytes / (4 * length),
            unit="vectors",
            limit=4,
            note=f"{length:,} parameters, own process, above its state before the round; includes the decoded float64",
        )
        for clients, length in wanted
    ]


def sharing_rows(costs: dict[tuple[int, int], RoundCost]) -> list[Row]:
    """What does not depend on the length: dealing shares and checking everybody's, per client and round."""
    largest = max(clients for clients, _ in costs)
    return [
        Row(
            measure="dealing and checking shares, one client",
            value=cost.sharing_cpu,
            unit="s CPU",
            note=f"n = {clients}; grows with n times the threshold",
        )
        for (clients, _), cost in costs.items()
        if clients in {10, largest}
    ]


@contextmanager
def one_core() -> Iterator[None]:
    """Inside, this process and so its masking and hashing use one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    ours: list[RoundCost]
    theirs: "list[FlowerCost]"


def _compare(length: int, *, dropouts: int, repeats: int, folder: Path) -> _Comparison:
    from benchmarks import flower_secagg

    vector = _vector(length)
    found = _Comparison(ours=[], theirs=[])
    for _ in range(repeats):
        with MaskedSession(10, folder=folder) as session:
            found.ours.append(session.round(vector, dropouts=dropouts))
        found.theirs.append(flower_secagg.measure(10, vector.astype(np.float32), dropouts=dropouts))
    return found


def _shapes(plan: Plan) -> list[tuple[int, int]]:
    """Every shape that rows or figure ask for, once each."""
    shapes = [(clients, plan.cohort_length) for clients in plan.scaling_cohorts]
    shapes += [(FEW_CLIENTS, length) for length in plan.scaling_lengths]
    return list(dict.fromkeys([*shapes, *plan.memory]))


def _one_round(clients: int, length: int, *, folder: Path) -> RoundCost:
    with MaskedSession(clients, folder=folder) as session:
        return session.round(_vector(length))


def _vector(length: int) -> npt.NDArray[np.float64]:
    """Fixed values within both sides' range."""
    return np.random.Generator(np.random.PCG64(length)).uniform(-MAX_ABS / 2, MAX_ABS / 2, length)


def _cpu(action: Callable[[], None]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def _median(costs: Sequence[Seconds]) -> Seconds:
    return Seconds(
        cpu=statistics.median(cost.cpu for cost in costs), wall=statistics.median(cost.wall for cost in costs)
    )


def _ratio(measure: str, ours: float, other: float, *, limit: float | None, note: str) -> Row:
    full = f"{note}: {ours:.3f} s / {other:.3f} s"
    if limit is None:
        return Row(measure=measure, value=ours / other, unit="1", note=full)
    return _limited(measure, ours / other, unit="1", limit=limit, note=full)


def _limited(measure: str, value: float, *, unit: str, limit: float, note: str) -> Row:
    return Row(measure=measure, value=value, unit=unit, target=f"<= {limit:.3g}", met=value <= limit, note=note)


if __name__ == "__main__":
    main()
