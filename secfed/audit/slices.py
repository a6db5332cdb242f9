"""Single phantom slices as tiny data sets: the victims of the attacks on learning.

A slice is drawn at 10 mm, so that a network learns it in seconds and an inversion searches hundreds of pixels instead
of millions. That is the attacker's good case: what succeeds here says what may happen at full size, not what will.
Nothing here is protected; no real scan is involved.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, Modality
from secfed.data.phantom.geometry import Grid
from secfed.data.phantom.population import population_named
from secfed.data.phantom.protocol import protocol_named
from secfed.data.phantom.scans import CaseKey, Scan, draw_scan
from secfed.data.preprocessing import normalise

SPACING_MM = (20.0, 10.0, 10.0)
ROWS, COLUMNS = 32, 40
_GRID = Grid(shape=(12, ROWS, COLUMNS), spacing_mm=SPACING_MM)
_FEWEST_VOXELS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One axial slice of one phantom patient: HU (int16) and classes of ABDOMEN (uint8), both (rows, columns)."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]

    def normalised(self) -> NDArray[np.float32]:
        """The image as a site prepares it: clipped to the CT window, mean 0 and deviation 1."""
        volume = self.image[None].astype(np.float32)
        prepared = normalise(volume, modality=Modality.CT, config=PreprocessingConfig(), source=Path("phantom"))
        return prepared.reshape(self.image.shape)

    def holds(self, organ: str) -> bool:
        """Whether the organ is in it, with more than a stray voxel."""
        return int((self.label == ABDOMEN.index(organ)).sum()) >= _FEWEST_VOXELS


def slices(seed: int, *, size: tuple[int, int] = (ROWS, COLUMNS)) -> Iterator[Slice]:
    """Patients without end, one slice each: the one with the most organs, cropped about its middle."""
    for scan in _scans(seed):
        # The number of organs decides, the number of their voxels breaks ties.
        richest = max(
            range(len(scan.label)),
            key=lambda z: (np.unique(scan.label[z]).size, int((scan.label[z] > 0).sum())),
        )
        yield _crop(scan.image[richest], scan.label[richest], middle=(ROWS // 2, COLUMNS // 2), size=size)


def slices_by_organ(seed: int, *, organ: str, present: bool, size: tuple[int, int]) -> Iterator[Slice]:
    """Patients without end, one slice each, cropped about `organ`, or about all organs of a slice without that one."""
    index = ABDOMEN.index(organ)
    for scan in _scans(seed):
        counts = (scan.label == index).sum(axis=(1, 2))
        wanted = np.flatnonzero(counts >= _FEWEST_VOXELS) if present else np.flatnonzero(counts == 0)
        if not wanted.size:
            continue
        visible = scan.label == index if present else scan.label > 0
        z = max(wanted, key=lambda z: int(visible[z].sum()))
        rows, columns = np.nonzero(visible[z])
        found = _crop(scan.image[z], scan.label[z], middle=(round(rows.mean()), round(columns.mean())), size=size)
        if found.holds(organ) == present:
            yield found


def write_data_set(folder: Path, patients: Sequence[Slice]) -> None:
    """Write slices as CT volumes of one slice in AMOS22 layout, one patient each."""
    entries = []
    for number, patient in enumerate(patients, start=1):
        entry = {"image": f"images/amos_{number:04d}.nii", "label": f"labels/amos_{number:04d}.nii"}
        for kind, plane in (("image", patient.image), ("label", patient.label)):
            path = folder / entry[kind]
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(plane.T[:, :, None], np.diag([*SPACING_MM[::-1], 1.0])), path)
        entries.append(entry)
    labels = {"0": "background", **{str(index): organ for index, organ in enumerate(ABDOMEN.organs, start=1)}}
    (folder / "dataset.json").write_text(
        json.dumps({"name": folder.name, "labels": labels, "training": entries}), encoding="utf-8"
    )


def _scans(seed: int) -> Iterator[Scan]:
    return (_scan(seed, index) for index in count())


# Both modes of an attack look at the same patients; a scan takes 45 kB.
@lru_cache(maxsize=512)
def _scan(seed: int, index: int) -> Scan:
    key = CaseKey(
        seed=seed,
        population=population_named("north"),
        protocol=protocol_named("ct-portal", modality=Modality.CT),
        split="train",
        index=index,
        grid=_GRID,
    )
    return draw_scan(key)


def _crop(
    image: NDArray[np.int16], label: NDArray[np.uint8], *, middle: tuple[int, int], size: tuple[int, int]
) -> Slice:
    top, left = (
        min(max(0, centre - length // 2), whole - length)
        for centre, length, whole in zip(middle, size, (ROWS, COLUMNS), strict=True)
    )
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    return Slice(image=np.ascontiguousarray(image[window]), label=np.ascontiguousarray(label[window]))
