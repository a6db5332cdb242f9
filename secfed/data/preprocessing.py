"""From NIfTI files to arrays on the grid and intensity scale of a run. A site runs this on its own scans.

A volume is checked, turned to canonical axes, resampled and normalised once, then kept in a cache that is addressed by
content: equal files under equal settings give the same entry, and a damaged entry is rebuilt. The cache holds patient
data in the clear, as the source files do: keep it on the same protected storage.
"""

import hashlib
import json
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from scipy import ndimage

from secfed.config import PreprocessingConfig
from secfed.data.cases import Case, LabelMap, Modality
from secfed.data.readers import DataSet
from secfed.errors import DataError

Spacing = tuple[float, float, float]
Voxel = TypeVar("Voxel", np.float32, np.uint8)

# Counts every change that alters a prepared voxel, so that old cache entries are not mistaken for new ones.
PREPROCESSING_VERSION = 1

# A header may claim any size; more than this is no scan (a whole body at 0.5 mm has 1.3e9 voxels).
_MOST_VOXELS = 2_000_000_000

# Deflate expands at most 1032 times (zlib's technical notes), so a larger claim is refused before memory is taken.
_DEFLATE_LIMIT = 1032

_SAME_SPACING_MM = 1e-3
_SAME_PLACE_VOXELS = 0.25

_NIFTI_ERRORS = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiVolume:
    """A volume in canonical axes (z, y, x): inferior to superior, posterior to anterior, left to right.

    `affine` maps voxel (x, y, z) to RAS world coordinates in mm, shape (4, 4).
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    spacing_mm: Spacing


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedCase:
    """A case ready for training: `image` float32 and `label` uint8 class indices, both (z, y, x) as in NiftiVolume.

    Both arrays are read-only maps of the cache. `label` is None for a case without annotations.
    """

    patient: str
    modality: Modality
    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    spacing_mm: Spacing
    source: Path


def prepare(
    case: Case, *, data_set: DataSet, label_map: LabelMap, config: PreprocessingConfig, cache: Path
) -> PreparedCase:
    """Check, resample and normalise one case, or take it from the cache.

    Raises:
        DataError: a file is missing, truncated or no volume; image and label do not fit; a label value is unknown; or
            the data set does not annotate an organ of the label map. The message names the file.
    """
    missing = sorted(set(label_map.organs) - set(data_set.label_ids.values()))
    if case.label is not None and missing:
        raise DataError(f"{case.label}: data set '{data_set.name}' does not annotate {', '.join(missing)}")
    entry = cache / _key(case, data_set, label_map, config)
    prepared = _from_cache(entry, case, config)
    if prepared is not None:
        return prepared
    volume = read_volume(case.image)
    classes = None if case.label is None else _classes(case.label, volume, data_set, label_map)
    image = normalise(
        resample_image(volume, config.spacing_mm), modality=case.modality, config=config, source=case.image
    )
    if classes is not None:
        classes = resample_label(classes, volume.spacing_mm, config.spacing_mm)
    _to_cache(entry, image, classes)
    prepared = _from_cache(entry, case, config)
    if prepared is None:
        raise DataError(f"{entry}: the cache entry of {case.image} could not be read back; is the storage full?")
    return prepared


def read_volume(path: Path) -> NiftiVolume:
    """Read a three-dimensional NIfTI file into canonical axes; an oblique grid keeps its nearest axes.

    Raises:
        DataError: the file is missing, truncated, no NIfTI, not 3D, empty, not finite, or its affine is singular.
    """
    try:
        stored = nibabel.load(path)
        shape = tuple(int(size) for size in stored.shape)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except _NIFTI_ERRORS as error:
        raise DataError(f"{path}: not a readable NIfTI file: {error}") from error
    if len(shape) != 3:
        raise DataError(f"{path}: has {len(shape)} dimensions {shape}; a three-dimensional volume is needed")
    voxels = int(np.prod(shape, dtype=object))
    if not 0 < voxels <= _MOST_VOXELS:
        raise DataError(f"{path}: has {voxels} voxels {shape}; 1 to {_MOST_VOXELS} are accepted")
    claimed_bytes = voxels * stored.get_data_dtype().itemsize
    if claimed_bytes > _DEFLATE_LIMIT * path.stat().st_size:
        raise DataError(
            f"{path}: its header claims {claimed_bytes} bytes {shape}, more than a file of this size can hold"
        )
    affine = np.asarray(stored.affine, np.float64)
    # The determinant is compared with the voxel size it should be near, because spacing may be given in any unit.
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 1e-3 * np.prod(edges):
        raise DataError(f"{path}: its affine is singular, so voxels have no place in the body: {affine.tolist()}")
    try:
        canonical = nibabel.as_closest_canonical(stored)
        values = np.asarray(canonical.get_fdata(dtype=np.float32, caching="unchanged"))
    except (*_NIFTI_ERRORS, MemoryError) as error:
        raise DataError(f"{path}: the voxels cannot be read, the file may be truncated: {error}") from error
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds {int((~np.isfinite(values)).sum())} voxels that are not finite numbers")
    spacing = voxel_sizes(canonical.affine)
    return NiftiVolume(
        voxels=np.ascontiguousarray(values.transpose(2, 1, 0)),
        affine=np.asarray(canonical.affine, np.float64),
        spacing_mm=(float(spacing[2]), float(spacing[1]), float(spacing[0])),
    )


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

    Raises:
        DataError: nothing is left to see after clipping; the message names `source`.
    """
    low, high = config.ct_window_hu
    if modality is Modality.MR:
        low, high = (float(value) for value in np.percentile(image, config.mr_percentiles))
    clipped = np.clip(image, low, high)
    deviation = float(clipped.std(dtype=np.float64))
    if not deviation > 0:
        raise DataError(
            f"{source}: every voxel is the same after clipping to [{low:g}, {high:g}] as {modality}; "
            "is the modality right?"
        )
    return np.asarray((clipped - clipped.mean(dtype=np.float64)) / deviation, dtype=np.float32)


def read_label(path: Path, *, volume: NiftiVolume, data_set: DataSet, label_map: LabelMap) -> NDArray[np.uint8]:
    """Class indices (z, y, x) of a label file, on the voxels of its image `volume`; other organs are background.

    Raises:
        DataError: it cannot be read, does not lie on the image, or holds an unknown value.
    """
    return _classes(path, volume, data_set, label_map)


def same_spacing(spacing_mm: Spacing, other_mm: Spacing) -> bool:
    """Whether a volume of the one spacing is left as it is where the other is asked for."""
    return bool(np.abs(np.array(spacing_mm) - np.array(other_mm)).max() < _SAME_SPACING_MM)


def _classes(path: Path, volume: NiftiVolume, data_set: DataSet, label_map: LabelMap) -> NDArray[np.uint8]:
    """Class indices of a label file that lies on the grid of the image."""
    label = read_volume(path)
    if label.voxels.shape != volume.voxels.shape:
        raise DataError(
            f"{path}: the label has {label.voxels.shape} voxels (z, y, x), but its image has {volume.voxels.shape}"
        )
    sizes = np.array(volume.voxels.shape[::-1]) - 1
    corners = np.array([[*(sizes * place), 1.0] for place in np.ndindex(2, 2, 2)])
    shift = np.linalg.norm((corners @ (label.affine - volume.affine).T)[:, :3], axis=1).max()
    if shift > _SAME_PLACE_VOXELS * min(volume.spacing_mm):
        raise DataError(f"{path}: the label lies up to {shift:.3g} mm away from its image")
    known = {0, *data_set.label_ids}
    lowest, highest = float(label.voxels.min()), float(label.voxels.max())
    if lowest < 0 or highest > max(known):
        raise _unknown_label(path, lowest if lowest < 0 else highest, data_set)
    values = label.voxels.astype(np.int32)
    if (values != label.voxels).any():
        raise DataError(f"{path}: holds label values that are not whole numbers")
    unknown = set(np.flatnonzero(np.bincount(values.ravel())).tolist()) - known
    if unknown:
        raise _unknown_label(path, min(unknown), data_set)
    table = np.zeros(max(known) + 1, np.uint8)
    for value, organ in data_set.label_ids.items():
        if organ in label_map.organs:
            table[value] = label_map.index(organ)
    return table[values]


def _unknown_label(path: Path, value: float, data_set: DataSet) -> DataError:
    return DataError(f"{path}: holds the label value {value:g}, which is not among those of data set '{data_set.name}'")


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


def _key(case: Case, data_set: DataSet, label_map: LabelMap, config: PreprocessingConfig) -> str:
    """Hex SHA-256 over everything that decides a prepared voxel."""
    bound: dict[str, Any] = {
        "version": PREPROCESSING_VERSION,
        "image": _digest(case.image),
        "label": None if case.label is None else _digest(case.label),
        "modality": case.modality,
        "organs": label_map.organs,
        "label_ids": sorted(data_set.label_ids.items()),
        "config": config.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _to_cache(entry: Path, image: NDArray[np.float32], label: NDArray[np.uint8] | None) -> None:
    """Write an entry beside its place and move it there, so that it is whole or absent at any time."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=entry.parent) as name:
            new = Path(name) / "entry"
            new.mkdir()
            np.save(new / "image.npy", np.ascontiguousarray(image))
            if label is not None:
                np.save(new / "label.npy", np.ascontiguousarray(label))
            digests = {path.name: _digest(path) for path in sorted(new.iterdir())}
            (new / "meta.json").write_text(json.dumps({"sha256": digests}) + "\n", encoding="utf-8")
            _move(new, entry, aside=Path(name) / "damaged", labelled=label is not None)
    except OSError as error:
        raise DataError(f"{entry}: the cache entry cannot be written: {error}") from error


def _move(new: Path, entry: Path, *, aside: Path, labelled: bool) -> None:
    try:
        new.replace(entry)
    except OSError:
        # The place is taken: by another process that was faster with the same content, or by a damaged entry.
        if _load(entry, labelled=labelled) is not None:
            return
        entry.replace(aside)
        new.replace(entry)


def _load(entry: Path, *, labelled: bool) -> list[Any] | None:
    """Image and label of an entry as read-only memory maps; None where it is missing or damaged."""
    names = ["image.npy", "label.npy"] if labelled else ["image.npy"]
    try:
        digests = json.loads((entry / "meta.json").read_text(encoding="utf-8"))["sha256"]
        if any(_digest(entry / name) != digests[name] for name in names):
            return None
        return [np.load(entry / name, mmap_mode="r") for name in names]
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _from_cache(entry: Path, case: Case, config: PreprocessingConfig) -> PreparedCase | None:
    arrays = _load(entry, labelled=case.label is not None)
    if arrays is None:
        return None
    return PreparedCase(
        patient=case.patient,
        modality=case.modality,
        image=arrays[0],
        label=None if case.label is None else arrays[1],
        spacing_mm=config.spacing_mm,
        source=case.image,
    )
