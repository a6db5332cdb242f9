"""What preparing scans costs beside reading them: seconds of `secfed data prepare` over seconds of decompression.

CT volumes of 512 x 512 x 100 voxels with labels, as .nii.gz on the local disk, are read and decompressed by two
processes, and prepared by two processes into an empty cache for the default plan. Each repeat does one after the other,
so that a busy machine slows both. Both include the start of their processes, which is measured on two tiny scans too:
the ratio per scan leaves it out. The files were just written, so neither waits for the disk. Memory is the peak of the
parent and, for each job, that of the process that took most: no less than what all took at once. `--quick` takes four
smaller volumes; next to them the start weighs most, so only the ratio per scan is held against the target.

    python -m benchmarks.preparing --json bench/preparing.json
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.rows import Row, parser, publish

JOBS, REPEATS = 2, 3
RATIO, PEAK_BYTES = 2.0, 4e9
_SPACING_MM = (0.8, 0.8, 3.0)

_PREPARE = """
import json, resource, sys, time
from pathlib import Path
from benchmarks.memory import status_bytes
from secfed.config import PreprocessingConfig
from secfed.data.site_data import FolderEntry
from secfed.preparation.prepare import CachedEntry, PreparationOrder, prepare_data
if __name__ == "__main__":
    folder, cache, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    entry = CachedEntry(data=FolderEntry(folder=folder), cache=cache)
    order = PreparationOrder(entries=(entry,), config=PreprocessingConfig(), task="abdomen", jobs=jobs, at_site=False)
    started = time.perf_counter()
    found = prepare_data(order, on_start=lambda _: None, on_case=lambda _: None)
    seconds = time.perf_counter() - started
    assert not found.failed and not found.taken
    largest = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([seconds, status_bytes("VmHWM") + (jobs * largest if jobs > 1 else 0)]))
"""

_READ = """
import gzip, json, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
def size(path):
    with gzip.open(path) as file:
        return len(file.read())
if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).glob("*.nii.gz"))
    started = time.perf_counter()
    with ProcessPoolExecutor(int(sys.argv[3]), mp_context=get_context("spawn")) as pool:
        total = sum(pool.map(size, paths))
    print(json.dumps([time.perf_counter() - started, total]))
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many volumes, and how large (x, y, z)."""

    volumes: int
    shape: tuple[int, int, int]

    def note(self) -> str:
        """For every row."""
        return f"{self.volumes} volumes of {' x '.join(map(str, self.shape))}, {JOBS} jobs, wall clock"


FULL = Load(volumes=20, shape=(512, 512, 100))
QUICK = Load(volumes=4, shape=(256, 256, 100))


def main() -> None:
    """Measure and publish the rows."""
    given = parser(__doc__ or "").parse_args()
    rows = measure(QUICK if given.quick else FULL, repeats=REPEATS, with_start=not given.quick)
    publish(rows, path=given.json)
    if any(row.met is False for row in rows):
        sys.exit(1)


def measure(load: Load, *, repeats: int, with_start: bool) -> list[Row]:
    """Seconds of both sides in the middle of the repeats, middle ratios, and the greatest memory.

    The target is the ratio's `with_start`, or the one per scan.
    """
    reading, preparing, starting, peaks = [], [], [], []
    ratios: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(prefix="secfed-preparing-") as name:
        scans, tiny = Path(name) / "scans", Path(name) / "tiny"
        write_scans(scans, load)
        write_scans(tiny, Load(volumes=JOBS, shape=(8, 8, 8)))
        for repeat in range(repeats):
            # Programs are files, because the processes that they start import them again.
            read, prepared, peak = _both(Path(name), scans, f"{repeat}")
            read_tiny, prepared_tiny, _ = _both(Path(name), tiny, f"tiny-{repeat}")
            reading.append(read)
            preparing.append(prepared)
            starting.append(prepared_tiny)
            peaks.append(peak)
            ratios[True].append(prepared / read)
            ratios[False].append((prepared - prepared_tiny) / (read - read_tiny))
    note = load.note()
    rows = [
        Row(measure="read and decompress", value=statistics.median(reading), unit="s", note=note),
        Row(measure="prepare", value=statistics.median(preparing), unit="s", note=note),
        Row(measure="start of prepare", value=statistics.median(starting), unit="s", note=f"{JOBS} tiny scans"),
    ]
    for whole, title in ((True, "prepare / read and decompress"), (False, "the same per scan, without start")):
        ratio = statistics.median(ratios[whole])
        target, met = (f"<= {RATIO:g}", ratio <= RATIO) if whole == with_start else (None, None)
        rows.append(Row(measure=title, value=ratio, unit="times", target=target, met=met, note=note))
    peak_note = f"{note}; the parent and {JOBS} times its largest child"
    met, target = max(peaks) < PEAK_BYTES, f"< {PEAK_BYTES / 1e9:g}"
    rows.append(
        Row(measure="peak memory of prepare", value=max(peaks) / 1e9, unit="GB", target=target, met=met, note=peak_note)
    )
    return rows


def _both(place: Path, scans: Path, key: str) -> tuple[float, float, float]:
    """Seconds of reading and of preparing the same files, and the bytes that the latter took."""
    read, _ = _run(_READ, place, scans, place / "unused")
    return read, *_run(_PREPARE, place, scans, place / f"cache-{key}")


def write_scans(folder: Path, load: Load) -> None:
    """A table of CT volumes: a body with noise in air, and a label of two organs, as int16 and uint8."""
    folder.mkdir()
    places = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in load.shape), indexing="ij")
    distance = np.sqrt(places[0] ** 2 + places[1] ** 2 + 0.2 * places[2] ** 2)
    body = np.where(distance < 0.8, 40, -1000).astype(np.int16)
    label = np.where(distance < 0.3, 1, np.where(distance < 0.4, 2, 0)).astype(np.uint8)
    lines = ["patient,image,label,modality"]
    affine = np.diag([*_SPACING_MM, 1.0])
    for number in range(load.volumes):
        noise = np.random.default_rng(number).normal(0, 15, load.shape).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(body + noise, affine), folder / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(label, affine), folder / f"{number}-label.nii.gz")
        lines.append(f"p{number},{number}.nii.gz,{number}-label.nii.gz,CT")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels.csv").write_text("value,organ\n1,liver\n2,spleen\n", encoding="utf-8")


def _run(program: str, place: Path, scans: Path, cache: Path) -> tuple[float, float]:
    file = place / "program.py"
    file.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file), str(scans), str(cache), str(JOBS)], stdout=subprocess.PIPE, check=True, text=True
    )
    one, other = json.loads(done.stdout)
    return float(one), float(other)


if __name__ == "__main__":
    main()
