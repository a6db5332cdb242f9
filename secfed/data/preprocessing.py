"""From NIfTI files to arrays on the grid and intensity scale of a run. A site runs this on its own scans.

A volume is checked, turned to canonical axes, resampled and normalised once, then kept in a cache that is addressed by
content: equal files under equal settings give the same entry, and a damaged entry is rebuilt. The cache holds patient
data in the clear, as the source files do: keep it on the same protected storage.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from secfed.config import PreprocessingConfig
from secfed.data.cases import Case, LabelMap, Modality
from secfed.data.label_volumes import read_classes
from secfed.data.prepared_cache import digest_of, load_entry, write_entry
from secfed.data.readers.data_set import DataSet
from secfed.data.volumes import MOST_VOXELS, NiftiVolume, Spacing, read_volume
from secfed.errors import DataError, FileError

Voxel = TypeVar("Voxel", np.float32, np.uint8)

# Counts every change that alters a prepared voxel, so that old cache entries are not mistaken for new ones.
PREPROCESSING_VERSION = 1

_SAME_SPACING_MM = 1e-3

# How many voxels are normalised at a time: 8 MB of float64.
_PART_VOXELS = 2**20

# No body and no scanner is longer; a header that says more has another unit, or a damaged bit.
_LARGEST_EXTENT_MM = 10_000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedCase:
    """A case ready for training: `image` float32 and `label` uint8 class indices, both (z, y, x) as in NiftiVolume.

    Both arrays are read-only maps of the cache. `label` is None for a case without annotations. `unlabelled` are the
    classes that nobody drew in this case, in order: where `label` says background, it may be any of them.
    """

    patient: str
    modality: Modality
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    spacing_mm: Spacing
    source: Path
    unlabelled: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadCase:
    """A case as its files have it, checked, and what is made of it: all arrays (z, y, x).

    `classes` are on the grid of `scan`, `label` on that of `image`; both are None for a case without annotations.
    """

    scan: NiftiVolume
    classes: NDArray[np.uint8] | None
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedCase:
    """A prepared case, its place in the cache, and whether it was there already."""

    prepared: PreparedCase
    entry: Path
    was_there: bool


def prepare(
    case: Case, *, data_set: DataSet, label_map: LabelMap, config: PreprocessingConfig, cache: Path
) -> PreparedCase:
    """Check, resample and normalise one case, or take it from the cache.

    Organs of the task that the data set does not annotate are unlabelled in the prepared case.

    Raises:
        FileError: a file is missing, truncated or no volume; image and label do not fit; a label value is unknown; or
            the data set annotates no organ of the label map. The message names the file.
        DataError: the cache cannot be written.
    """
    return prepare_in(cache, case, data_set=data_set, label_map=label_map, config=config).prepared


def prepare_in(
    cache: Path, case: Case, *, data_set: DataSet, label_map: LabelMap, config: PreprocessingConfig
) -> CachedCase:
    """As `prepare`, for whoever wants to know what the cache had.

    Raises:
        FileError: as `prepare`.
        DataError: the cache cannot be written.
    """
    unlabelled = unlabelled_in(case, data_set, label_map)
    entry = cache / _key(case, data_set, label_map, config, unlabelled)
    prepared = _from_cache(entry, case, config, unlabelled)
    if prepared is not None:
        return CachedCase(prepared=prepared, entry=entry, was_there=True)
    read = read_case(case, data_set=data_set, label_map=label_map, config=config)
    write_entry(entry, read.image, read.label)
    prepared = _from_cache(entry, case, config, unlabelled)
    if prepared is None:
        raise DataError(f"{entry}: the cache entry of {case.image} could not be read back; is the storage full?")
    return CachedCase(prepared=prepared, entry=entry, was_there=False)


def unlabelled_in(case: Case, data_set: DataSet, label_map: LabelMap) -> tuple[int, ...]:
    """The classes that nobody drew in a case, in order; none for a case without annotations.

    Raises:
        FileError: it has a label, and nothing of the task is drawn in it.
    """
    if case.label is None:
        return ()
    annotated = data_set.annotated(case, label_map)
    if not annotated:
        raise FileError(
            case.label,
            f"data set '{data_set.name}' does not annotate {', '.join(sorted(label_map.organs))}: nothing of the task "
            f"'{label_map.task}'",
        )
    return tuple(label_map.index(organ) for organ in label_map.organs if organ not in annotated)


def read_case(case: Case, *, data_set: DataSet, label_map: LabelMap, config: PreprocessingConfig) -> ReadCase:
    """Everything that `prepare` does but for the cache: what this accepts, a run accepts.

    Raises:
        FileError: as `prepare`.
    """
    unlabelled_in(case, data_set, label_map)
    try:
        scan = read_volume(case.image, channel=case.channel)
        classes = None
        if case.label is not None:
            classes = read_classes(
                case,
                scan,
                meanings=data_set.values(case),
                annotated=data_set.annotated(case, label_map),
                label_map=label_map,
                source=data_set.name,
            )
        _check_prepared_size(case.image, scan, config.spacing_mm)
        image = normalise(
            resample_image(scan, config.spacing_mm), modality=case.modality, config=config, source=case.image
        )
        label = None if classes is None else resample_label(classes, scan.spacing_mm, config.spacing_mm)
    except MemoryError as error:
        raise FileError(
            case.image, "preparing it takes more memory than there is", "prepare fewer at a time, or on another machine"
        ) from error
    return ReadCase(scan=scan, classes=classes, image=image, label=label)


def _check_prepared_size(path: Path, scan: NiftiVolume, spacing_mm: Spacing) -> None:
    """A header that gives micrometres as millimetres must not become a volume of all the memory there is."""
    extents_mm = np.array(scan.voxels.shape) * np.array(scan.spacing_mm)
    if not extents_mm.max() <= _LARGEST_EXTENT_MM:
        raise FileError(
            path,
            f"its {scan.voxels.shape} voxels of {_millimetres(scan.spacing_mm)} mm are {extents_mm.max() / 1000:.4g} m "
            f"long; {_LARGEST_EXTENT_MM / 1000:g} m are accepted",
            "is its spacing in millimetres?",
        )
    sizes = extents_mm / np.array(spacing_mm)
    if not float(np.maximum(1, np.rint(sizes)).prod()) <= MOST_VOXELS:
        raise FileError(
            path,
            f"its voxels of {_millimetres(scan.spacing_mm)} mm would become more than {MOST_VOXELS} of "
            f"{_millimetres(spacing_mm)} mm",
            "is its spacing in millimetres?",
        )


def _millimetres(spacing_mm: Spacing) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing_mm)


def resample_image(volume: NiftiVolume, spacing_mm: Spacing) -> NDArray[np.float32]:
    """Linear interpolation to another spacing, about the middle of the volume; unchanged where spacings agree."""
    return _resample(volume.voxels, volume.spacing_mm, spacing_mm, order=1)


def resample_label(label: NDArray[np.uint8], spacing_mm: Spacing, new_spacing_mm: Spacing) -> NDArray[np.uint8]:
    """Nearest neighbour, on the same grid as `resample_image`."""
    return _resample(label, spacing_mm, new_spacing_mm, order=0)


def normalise(
    image: NDArray[np.float32], *, modality: Modality, config: PreprocessingConfig, source: Path
) -> NDArray[np.float32]:
    """Clip to the CT window or the MRI percentiles, then to zero mean and unit variance over the volume.

    The result is (clipped - mean) / deviation in float64, rounded once, bit for bit; but beside the image only one
    volume of float32 is ever held.

    Raises:
        DataError: nothing is left to see after clipping; the message names `source`.
    """
    low, high = config.ct_window_hu
    if modality is Modality.MR:
        low, high = (float(value) for value in np.percentile(image, config.mr_percentiles))
    clipped = np.clip(image, low, high)
    # In the order in which the voxels lie, whatever the order of the axes: as numpy sums them.
    flat = clipped.ravel(order="K")
    mean = clipped.mean(dtype=np.float64)
    deviation = float(np.sqrt(_squared_distances(flat, mean) / flat.size))
    if not deviation > 0:
        raise FileError(
            source,
            f"every voxel is the same after clipping to [{low:g}, {high:g}] as {modality}",
            "is the modality right?",
        )
    for start in range(0, flat.size, _PART_VOXELS):
        part = flat[start : start + _PART_VOXELS]
        part[:] = (part - mean) / deviation
    return clipped


def _squared_distances(values: NDArray[np.float32], mean: np.float64) -> np.float64:
    """The sum of (values - mean)**2 in float64, added in the order of numpy's sum over all of them, part by part.

    numpy halves an array, at a multiple of 8, down to short blocks ("pairwise summation"); the same halves here, down
    to parts that it sums itself, give the bits of `np.std` without its whole volume of float64.
    """
    if values.size <= _PART_VOXELS:
        distances = values - mean
        np.multiply(distances, distances, out=distances)
        return np.float64(distances.sum())
    half = values.size // 2
    half -= half % 8
    return _squared_distances(values[:half], mean) + _squared_distances(values[half:], mean)


def same_spacing(spacing_mm: Spacing, other_mm: Spacing) -> bool:
    """Whether a volume of the one spacing is left as it is where the other is asked for."""
    return bool(np.abs(np.array(spacing_mm) - np.array(other_mm)).max() < _SAME_SPACING_MM)


def _resample(voxels: NDArray[Voxel], spacing_mm: Spacing, new_spacing_mm: Spacing, *, order: int) -> NDArray[Voxel]:
    steps = np.array(new_spacing_mm) / np.array(spacing_mm)
    if same_spacing(spacing_mm, new_spacing_mm):
        return voxels
    sizes = np.array(voxels.shape)
    new_sizes = np.maximum(1, np.rint(sizes / steps)).astype(int)
    # Both grids share their middle: voxel k of the new grid lies at (k - (n' - 1) / 2) steps from it.
    offset = (sizes - 1) / 2 - steps * (new_sizes - 1) / 2
    return np.asarray(
        ndimage.affine_transform(
            voxels, steps, offset=offset, output_shape=tuple(new_sizes), order=order, mode="nearest"
        ),
        dtype=voxels.dtype,
    )


def _key(
    case: Case, data_set: DataSet, label_map: LabelMap, config: PreprocessingConfig, unlabelled: tuple[int, ...]
) -> str:
    """Hex SHA-256 over everything that decides a prepared voxel."""
    bound: dict[str, Any] = {
        "version": PREPROCESSING_VERSION,
        "image": digest_of(case.image),
        "label": None if case.label is None or case.masks else digest_of(case.label),
        "modality": case.modality,
        "organs": label_map.organs,
        "label_ids": sorted(data_set.values(case).items()),
        "config": config.model_dump(mode="json"),
    }
    # What is not as in most data sets is bound only where it is there, so that entries of the others stay good.
    if unlabelled:
        bound["unlabelled"] = unlabelled
    if case.masks:
        bound["masks"] = {organ: digest_of(case.masks[organ]) for organ in data_set.annotated(case, label_map)}
    if case.channel is not None:
        bound["channel"] = case.channel
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def _from_cache(
    entry: Path, case: Case, config: PreprocessingConfig, unlabelled: tuple[int, ...]
) -> PreparedCase | None:
    arrays = load_entry(entry, labelled=case.label is not None)
    if arrays is None:
        return None
    return PreparedCase(
        patient=case.patient,
        modality=case.modality,
        image=arrays[0],
        label=None if case.label is None else arrays[1],
        spacing_mm=config.spacing_mm,
        source=case.image,
        unlabelled=unlabelled,
    )
