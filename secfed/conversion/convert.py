"""Convert one series, or the whole of a CHAOS download, to NIfTI files, whatever is wrong with a series.

A site runs this on its own scans; the source is only read. Files are there whole or not at all, and what is there is
left as it is, so a stopped call goes on where it was. A series is written with its label or not at all: without it, a
training case would turn into a scan that is only looked at. Names of files are made here, never taken from a header.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from secfed.data.dicom.chaos_masks import mask_files, read_masks
from secfed.data.dicom.nifti import write_nifti
from secfed.data.dicom.series import Stack, read_stack, read_voxels
from secfed.data.problems import CaseProblem
from secfed.data.readers.chaos import chaos_series
from secfed.errors import ConfigError, FileError

IMAGE = "image.nii.gz"
LABEL = "label.nii.gz"
_ENDINGS = (".nii", ".nii.gz")

# The label of two phases of one patient is one: their grids may differ by what decimals are cut off.
_ONE_GRID_MM = 0.1


@dataclass(frozen=True, kw_only=True)
class ConvertedSeries:
    """What came of one series: its files, or none and why. `slices` is 0 for one that was there already."""

    name: str
    source: Path
    image: Path | None
    label: Path | None
    slices: int
    num_bytes: int
    problem: CaseProblem | None = None

    @property
    def was_there(self) -> bool:
        """Whether an earlier call had converted it."""
        return self.image is not None and not self.slices

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.name,
            "source": str(self.source),
            "image": None if self.image is None else str(self.image),
            "label": None if self.label is None else str(self.label),
            "slices": self.slices,
            "was_there": self.was_there,
        }


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What came of a call."""

    out: Path
    series: tuple[ConvertedSeries, ...]

    @property
    def problems(self) -> tuple[CaseProblem, ...]:
        """Why series were left out."""
        return tuple(one.problem for one in self.series if one.problem is not None)

    @property
    def converted(self) -> tuple[ConvertedSeries, ...]:
        """Those that are there now."""
        return tuple(one for one in self.series if one.image is not None)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "out": str(self.out),
            "series": [one.as_dict() for one in self.converted],
            "bytes_written": sum(one.num_bytes for one in self.series),
            "problems": [problem.as_dict() for problem in self.problems],
        }


def convert(
    source: Path, out: Path, *, on_start: Callable[[int], None], on_series: Callable[[str], None]
) -> Conversion:
    """One series where `out` is the name of a NIfTI file, else the series of CHAOS below `source`.

    Raises:
        ConfigError: `out` exists and may not be written to, lies in the source, or the source has no series of CHAOS.
        DataError: a file cannot be written, which is no series' fault.
    """
    if not source.is_dir():
        raise ConfigError(f"{source}: {'not a folder' if source.exists() else 'no such folder'}")
    if out.name.endswith(_ENDINGS):
        if out.exists():
            raise ConfigError(f"{out}: is there already, and nothing is overwritten; name another file")
        on_start(1)
        found = [_converted(source.resolve().name, source, image=out, ground=None, label=None)]
        on_series(source.name)
        return Conversion(out=out, series=tuple(found))
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is no folder; of one series, the name of its file ends with {' or '.join(_ENDINGS)}")
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{out}: lies in {source}, which is left as it is; name a folder outside")
    places = list(chaos_series(source))
    if not places:
        raise ConfigError(
            f"{source}: holds no series of CHAOS, such as Train_Sets/MR/1/T2SPIR/DICOM_anon; to convert one folder of "
            f"slices, name a file: {out}.nii.gz"
        )
    on_start(len(places))
    series = []
    for _, patient, _, place, slices in places:
        own = out / place.relative_to(source)
        name = f"{patient} {slices}" if place.name == patient.partition("_")[2] else f"{patient} {place.name}/{slices}"
        series.append(
            _converted(
                name,
                place / slices,
                image=own / slices / IMAGE,
                ground=place / "Ground",
                label=own / "Ground" / LABEL,
            )
        )
        on_series(name)
    return Conversion(out=out, series=tuple(series))


def _converted(name: str, source: Path, *, image: Path, ground: Path | None, label: Path | None) -> ConvertedSeries:
    masks = [] if ground is None else mask_files(ground)
    target = label if masks else None
    empty = ConvertedSeries(name=name, source=source, image=None, label=None, slices=0, num_bytes=0)
    if image.exists() and (target is None or target.exists()):
        return ConvertedSeries(name=name, source=source, image=image, label=target, slices=0, num_bytes=0)
    try:
        stack = read_stack(source)
        # Both are read before either is written.
        values = None if target is None else read_masks(masks, stack)
        voxels = read_voxels(stack)
        written = 0
        if target is not None and values is not None:
            if target.exists():
                _require_same_grid(target, stack)
            else:
                written += write_nifti(target, values, stack.affine)
        written += write_nifti(image, voxels, stack.affine)
    except FileError as error:
        return replace(empty, problem=_problem(name, error))
    except MemoryError:
        too_large = FileError(source, "converting it takes more memory than there is")
        return replace(empty, problem=_problem(name, too_large))
    return ConvertedSeries(
        name=name, source=source, image=image, label=target, slices=len(stack.slices), num_bytes=written
    )


def _problem(name: str, error: FileError) -> CaseProblem:
    return CaseProblem(case=name, file=error.file, reason=error.reason, todo=error.todo, severity="error")


def _require_same_grid(label: Path, stack: Stack) -> None:
    """Both phases of a T1 series have one label, written with the first; the second has to lie in the same place."""
    stored = nibabel.load(label)
    if stored.shape != stack.shape or not np.allclose(stored.affine, stack.affine, rtol=0, atol=_ONE_GRID_MM):
        raise FileError(label, f"lies elsewhere than the slices in {stack.slices[0].path.parent}, which share it")
