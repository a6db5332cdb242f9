"""Exact encryption against CKKS tensor by tensor, and against masks, measured in one run: bytes, time, error, memory.

Both encrypted sides go from the clients' real vectors to the decoded sum, bytes in between: ours through fixed point,
BFV over the whole vector, check slots, and additions without a library; the other as in benchmarks.ckks_reference. One
thread each, all parties in series. `--quick` leaves out the comparison at ten million parameters and repeats less.

    python -m benchmarks.encryption --json bench/encryption.json
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.masked_session import MAX_ABS, MaskedSession
from benchmarks.memory import reset_peak, status_bytes
from benchmarks.rows import Row, parser, publish
from benchmarks.secure_sum import one_core
from benchmarks.stopwatch import Stopwatch
from privacy.fixed_point import Segment, VectorFormat, decode_sum, encode
from privacy.he.evaluator import CiphertextSum
from privacy.he.key_holder import GroupKey
from privacy.he.layout import Envelope
from privacy.he.parameters import HeParameters
from privacy.streams import Keystream, Words

Vector = npt.NDArray[np.float64]

CLIENTS = 10
CONTEXT = b"benchmark"
MILLION = 1_000_000
PARAMETERS = HeParameters.exact(max_clients=1024)


@dataclass(frozen=True, kw_only=True)
class OurCost:
    """One round of all parties; `watch` has the parts encode, encrypt, add, decrypt, decode."""

    watch: Stopwatch
    bytes_up: int
    worst_integer_error: int


def main() -> None:
    """Measure and publish the rows."""
    given = parser(__doc__ or "").parse_args()
    repeats = 2 if given.quick else 5
    unet = unet_sizes()
    rows = against_ckks("10 clients, 1,000,000 parameters", [MILLION], repeats=repeats, limit=1 / 2.5)
    rows += against_ckks(f"10 clients, the demo's U-Net ({sum(unet):,} in {len(unet)} tensors)", unet, repeats=repeats)
    if not given.quick:
        rows += against_ckks("3 clients, 10,000,000 parameters", [10 * MILLION], repeats=1, clients=3)
    rows += other_settings(MILLION)
    rows.append(aggregator_memory(10 * MILLION))
    rows += throughput(MILLION)
    rows += masked(MILLION, repeats=repeats)
    publish(rows, path=given.json)


def unet_sizes() -> list[int]:
    """Entries of every tensor that the demo's sites send."""
    from secfed.config import load_run_config
    from secfed.data.cases import LABEL_MAPS
    from secfed.model import build_model, layout_of

    with resources.as_file(resources.files("secfed") / "configs" / "demo.toml") as path:
        config = load_run_config(path)
    return [
        spec.size
        for spec in layout_of(build_model(config.model, num_classes=LABEL_MAPS[config.task].num_classes)).tensors
    ]


def against_ckks(
    note: str, sizes: Sequence[int], *, repeats: int, limit: float | None = None, clients: int = CLIENTS
) -> list[Row]:
    """Bytes, seconds and errors of both sides, which take turns."""
    from benchmarks import ckks_reference

    length = sum(sizes)
    vectors = [_vector(length, seed) for seed in range(clients)]
    ours, theirs = [], []
    with one_core():
        for _ in range(repeats):
            ours.append(our_round(vectors))
            theirs.append(ckks_reference.measure(vectors, sizes=sizes))
    mine, other = (statistics.median(cost.watch.total().cpu for cost in side) for side in (ours, theirs))
    wall = [statistics.median(cost.watch.total().wall for cost in side) for side in (ours, theirs)]
    bare = statistics.median(cost.watch.total("encrypt", "add", "decrypt").cpu for cost in theirs)
    full = f"{note}, median of {repeats}"
    per_parameter = ours[0].bytes_up / length
    wrong = max(cost.worst_integer_error for cost in ours)
    rows = [
        Row(
            measure="bytes up per client and parameter, ours",
            value=per_parameter,
            unit="bytes",
            target="<= 15.5",
            met=per_parameter <= 15.5,
            note=note,
        ),
        Row(
            measure="bytes up per client and parameter, CKKS tensor by tensor",
            value=theirs[0].bytes_up / length,
            unit="bytes",
            note=note,
        ),
        _ratio("encrypt + add + decrypt, CPU: ours / CKKS", mine, other, limit=limit, note=full),
        _ratio("encrypt + add + decrypt, wall clock: ours / CKKS", wall[0], wall[1], limit=limit, note=full),
        _ratio(
            "encrypt + add + decrypt, CPU: ours / CKKS that crosses no network",
            mine,
            bare,
            limit=None,
            note=f"{full}, nothing serialised there",
        ),
        Row(
            measure="error of the sum, ours",
            value=wrong,
            unit="integers",
            target="= 0",
            met=wrong == 0,
            note=f"{note}, against the plain sum of the same integers",
        ),
        Row(
            measure="error of the sum, CKKS",
            value=max(cost.worst_error for cost in theirs),
            unit="1",
            note=f"{note}, values within ±{MAX_ABS:g}",
        ),
    ]
    for side, cost in (("ours", ours[-1]), ("CKKS", theirs[-1])):
        rows += [
            Row(measure=f"{part}, {side}", value=cost.watch.total(part).cpu, unit="s CPU", note=f"{note}, all clients")
            for part in cost.watch.laps
        ]
    return rows


def our_round(vectors: Sequence[Vector], *, parameters: HeParameters = PARAMETERS) -> OurCost:
    """From real vectors to the decoded sum, checked against the sum of the same integers."""
    watch, length = Stopwatch(), vectors[0].size
    slots = VectorFormat(
        segments=(Segment(name="delta", length=length, max_abs=MAX_ABS),), max_clients=parameters.max_clients
    )
    key = GroupKey.generate(parameters)
    total = CiphertextSum.create(parameters=parameters, fingerprint=key.fingerprint, length=length)
    plain, bytes_up = np.zeros(length, dtype=np.uint32), 0
    for index, vector in enumerate(vectors):
        name = f"site-{index:03d}"
        with watch.part("encode"):
            words = encode(vector, vector_format=slots, rounding=Keystream(index.to_bytes(32, "big")))
        with watch.part("encrypt"):
            message = key.encrypt(words, contributor=name, context=CONTEXT)
        with watch.part("add"):
            total.add(message, contributor=name)
        plain += words
        bytes_up = len(message)
    with watch.part("add"):
        message = total.total()
    with watch.part("decrypt"):
        found = key.decrypt_sum(message, length=length, contributors=total.contributors, context=CONTEXT)
    with watch.part("decode"):
        decode_sum(found, vector_format=slots)
    wrong = int(np.abs((found - plain).view(np.int32).astype(np.int64)).max())
    return OurCost(watch=watch, bytes_up=bytes_up, worst_integer_error=wrong)


def other_settings(length: int) -> list[Row]:
    """This package's own CKKS, whole vectors in the same byte layout, rounded to the same integers."""
    rows = []
    for name, parameters in (
        ("CKKS 4096 without levels, packed whole", HeParameters.approximate(max_clients=1024)),
        ("CKKS 8192 (60, 40, 40), packed whole", HeParameters.common_ckks(max_clients=1024)),
        ("BFV 4096 for 65,536 clients", HeParameters.exact(max_clients=2**16)),
    ):
        with one_core():
            cost = our_round([_vector(length, seed) for seed in range(3)], parameters=parameters)
        note = f"{length:,} parameters, 3 clients {cost.watch.total().cpu:.2f} s CPU, off by {cost.worst_integer_error}"
        rows.append(
            Row(
                measure=f"bytes up per client and parameter, {name}",
                value=cost.bytes_up / length,
                unit="bytes",
                note=note,
            )
        )
    return rows


def aggregator_memory(length: int) -> Row:
    """Ten additions in a process of their own, in messages: one accumulator and one incoming update make two."""
    key = GroupKey.generate(PARAMETERS)
    message = key.encrypt(np.ones(length, dtype=np.uint32), contributor="site-000", context=CONTEXT)
    size = len(message)
    with tempfile.TemporaryDirectory(prefix="encryption-") as folder, _processes(1) as pool:
        path = Path(folder) / "upload.bin"
        path.write_bytes(message)
        del message
        envelope = Envelope(parameters=PARAMETERS, fingerprint=key.fingerprint, length=length)
        grown = pool.submit(_peak_of_additions, envelope, path).result()
    return Row(
        measure="aggregator's peak memory",
        value=grown / size,
        unit="messages",
        target="<= 2.1",
        met=grown / size <= 2.1,
        note=f"n = {CLIENTS}, {length:,} parameters, {size / 1e6:.1f} MB each, own process, above its state before",
    )


def throughput(length: int) -> list[Row]:
    """Encryption by one worker, by two threads of one process, and by two processes."""
    key = GroupKey.generate(PARAMETERS).to_bytes()
    rows = []
    for name, workers, pool in (
        ("one process", 1, _processes(1)),
        ("two threads", 2, ThreadPoolExecutor(2)),
        ("two processes", 2, _processes(2)),
    ):
        with pool:
            # The first run starts the workers.
            runs = [_seconds(pool, key, workers=workers, length=length) for _ in range(8)][1:]
        rows.append(
            Row(
                measure=f"encryption by {name}",
                value=workers * length / min(runs) / 1e6,
                unit="M parameters/s",
                note=f"{length:,} parameters for each worker, wall clock, best of 7; TenSEAL keeps Python's lock",
            )
        )
    return rows


def masked(length: int, *, repeats: int) -> list[Row]:
    """The other protected mode, whole rounds with signatures and shares, for comparison."""
    rounds = []
    with tempfile.TemporaryDirectory(prefix="encryption-") as folder, one_core():
        for _ in range(repeats):
            with MaskedSession(CLIENTS, folder=Path(folder)) as session:
                rounds.append(session.round(_vector(length, 0)))
    note = f"n = {CLIENTS}, {length:,} parameters"
    return [
        Row(
            measure="bytes up per client and parameter, masked",
            value=rounds[0].bytes_up / length,
            unit="bytes",
            note=f"{note}, all messages of a round",
        ),
        Row(
            measure="a masked round, all parties",
            value=statistics.median(cost.total.cpu for cost in rounds),
            unit="s CPU",
            note=f"{note}, key agreement included, median of {repeats}",
        ),
    ]


def _processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def _peak_of_additions(envelope: Envelope, path: Path) -> int:
    before = reset_peak()
    total = CiphertextSum(envelope)
    for index in range(CLIENTS):
        total.add(path.read_bytes(), contributor=f"site-{index:03d}")
    total.total()
    return status_bytes("VmHWM") - before


def _seconds(pool: Executor, key: bytes, *, workers: int, length: int) -> float:
    """Wall clock from the common start to the last worker's end."""
    start = time.time() + 0.5
    ends = [pool.submit(_encrypt_at, start, key, length) for _ in range(workers)]
    return max(done.result() for done in ends) - start


def _encrypt_at(start: float, key: bytes, length: int) -> float:
    holder = GroupKey.from_bytes(key, parameters=PARAMETERS)
    words: Words = np.ones(length, dtype=np.uint32)
    time.sleep(max(0.0, start - time.time()))
    holder.encrypt(words, contributor="site-000", context=CONTEXT)
    return time.time()


def _vector(length: int, seed: int) -> Vector:
    """Fixed values within the range."""
    return np.random.Generator(np.random.PCG64(seed)).uniform(-MAX_ABS / 2, MAX_ABS / 2, length)


def _ratio(measure: str, ours: float, other: float, *, limit: float | None, note: str) -> Row:
    value = ours / other
    return Row(
        measure=measure,
        value=value,
        unit="1",
        target=None if limit is None else f"<= {limit:.3g}",
        met=None if limit is None else value <= limit,
        note=f"{note}: {ours:.3f} s / {other:.3f} s",
    )


if __name__ == "__main__":
    main()
