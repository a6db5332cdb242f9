"""From NIfTI files to prepared arrays: place, scale, labels and the cache."""

import gzip
import hashlib
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from secfed.config import PreprocessingConfig
from secfed.data import preprocessing
from secfed.data.cases import ABDOMEN, Case, LabelMap, Modality
from secfed.data.preprocessing import PreparedCase, normalise, prepare, read_volume
from secfed.data.readers import DataSet
from secfed.errors import DataError

ORGANS = LabelMap(task="two", organs=("liver", "spleen"))
DATA_SET = DataSet(
    name="made", training=(), validation=(), test=(), label_ids={0: "background", 3: "spleen", 6: "liver", 9: "stomach"}
)
CONFIG = PreprocessingConfig(spacing_mm=(4.0, 3.0, 2.0))
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def make_case(folder: Path, *, modality: Modality = Modality.CT, labelled: bool = True) -> Case:
    generator = np.random.default_rng(0)
    image = generator.normal(50, 200, (8, 9, 10)).astype(np.float32)
    label = generator.choice(np.array([0, 3, 6, 9], np.uint8), (8, 9, 10))
    return Case(
        patient="p1",
        image=save(folder / "image.nii.gz", image),
        label=save(folder / "label.nii.gz", label) if labelled else None,
        modality=modality,
    )


def run(case: Case, cache: Path, config: PreprocessingConfig = CONFIG, label_map: LabelMap = ORGANS) -> PreparedCase:
    return prepare(case, data_set=DATA_SET, label_map=label_map, config=config, cache=cache)


def test_prepared_case_has_its_types_and_origin(tmp_path: Path):
    case = make_case(tmp_path)
    prepared = run(case, tmp_path / "cache")
    assert prepared.image.dtype == np.float32
    assert prepared.label is not None
    assert prepared.label.dtype == np.uint8
    assert prepared.image.shape == prepared.label.shape == (10, 9, 8)
    assert (prepared.patient, prepared.modality, prepared.source) == ("p1", Modality.CT, case.image)
    assert prepared.spacing_mm == CONFIG.spacing_mm


def test_labels_become_class_indices_and_other_organs_background(tmp_path: Path):
    case = make_case(tmp_path)
    prepared = run(case, tmp_path / "cache")
    stored = np.asarray(nibabel.load(case.label).dataobj).transpose(2, 1, 0)
    expected = np.select([stored == 6, stored == 3], [1, 2], 0)
    np.testing.assert_array_equal(prepared.label, expected)


def test_ct_is_windowed_and_normalised(tmp_path: Path):
    case = make_case(tmp_path)
    stored = np.asarray(nibabel.load(case.image).dataobj).transpose(2, 1, 0).astype(np.float64)
    windowed = np.clip(stored, -160, 240)
    prepared = run(case, tmp_path / "cache")
    np.testing.assert_allclose(prepared.image, (windowed - windowed.mean()) / windowed.std(), atol=1e-5)


def test_mri_is_clipped_at_its_percentiles_and_normalised(tmp_path: Path):
    case = make_case(tmp_path, modality=Modality.MR)
    config = CONFIG.model_copy(update={"mr_percentiles": (1.0, 90.0)})
    stored = np.asarray(nibabel.load(case.image).dataobj).transpose(2, 1, 0).astype(np.float64)
    clipped = np.clip(stored, *np.percentile(stored, [1, 90]))
    prepared = run(case, tmp_path / "cache", config)
    np.testing.assert_allclose(prepared.image, (clipped - clipped.mean()) / clipped.std(), atol=1e-4)


def plainly_normalised(image: np.ndarray, modality: Modality) -> np.ndarray:
    """What the docstring of `normalise` says, in whole volumes of float64."""
    limits = CONFIG.ct_window_hu if modality is Modality.CT else np.percentile(image, CONFIG.mr_percentiles)
    clipped = np.clip(image, *(float(limit) for limit in limits))
    return np.asarray((clipped - clipped.mean(dtype=np.float64)) / float(clipped.std(dtype=np.float64)), np.float32)


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize(
    "seen",
    [
        lambda values: values,
        np.asfortranarray,
        lambda values: values.transpose(1, 2, 0),
        lambda values: values[::-1, ::2, ::-1],
        lambda values: values[:1, :3, :1],
    ],
    ids=["as stored", "columns first", "axes swapped", "flipped and thinned", "three voxels"],
)
def test_normalising_part_by_part_changes_no_bit(modality: Modality, seen):
    """More than one part, of a size that no power of two divides."""
    values = np.random.default_rng(0).normal(60, 300, (97, 211, 103)).astype(np.float32)
    assert values.size > 2 * preprocessing._PART_VOXELS
    image = seen(values)
    before = image.copy()
    found = normalise(image, modality=modality, config=CONFIG, source=Path("scan"))
    np.testing.assert_array_equal(found.view(np.uint32), plainly_normalised(image, modality).view(np.uint32))
    np.testing.assert_array_equal(image, before)


def test_normalising_holds_one_volume_beside_the_image():
    image = np.random.default_rng(0).normal(60, 300, (96, 256, 256)).astype(np.float32)
    tracemalloc.start()
    try:
        normalise(image, modality=Modality.CT, config=CONFIG, source=Path("scan"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * image.nbytes


def test_mri_does_not_depend_on_the_unit_of_its_signal(tmp_path: Path):
    values = np.random.default_rng(0).gamma(2.0, 100.0, (8, 9, 10)).astype(np.float32)
    images = []
    for scale in (1.0, 37.0):
        case = Case(
            patient="p", image=save(tmp_path / f"{scale}.nii.gz", values * scale), label=None, modality=Modality.MR
        )
        images.append(run(case, tmp_path / "cache").image)
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)


def test_scale_factors_of_the_header_are_applied(tmp_path: Path):
    image = nibabel.Nifti1Image(np.arange(720, dtype=np.int16).reshape(8, 9, 10), AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, tmp_path / "scaled.nii")
    assert read_volume(tmp_path / "scaled.nii").voxels.max() == 719 * 2 - 1024


@pytest.mark.parametrize("spacing_mm", [(4.0, 4.0, 4.0), (2.0, 3.0, 7.0), (9.0, 1.5, 2.0)])
def test_a_blob_keeps_its_place_in_the_body(tmp_path: Path, spacing_mm: tuple[float, float, float]):
    """Within a tenth of a voxel of the coarser grid, half a voxel for the label, from the middle of the volume."""
    shape, old = (30, 40, 24), np.array([2.5, 2.0, 5.0])
    place = np.array([20.0, 25.0, 9.0])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm((grid - place) * old, axis=-1)
    image = (200 * np.exp(-((distance / 12) ** 2))).astype(np.float32)
    case = Case(
        patient="p",
        image=save(tmp_path / "i.nii.gz", image, np.diag([*old, 1])),
        label=save(tmp_path / "l.nii.gz", np.where(distance < 14, 6, 0).astype(np.uint8), np.diag([*old, 1])),
        modality=Modality.CT,
    )
    config = PreprocessingConfig(spacing_mm=spacing_mm, ct_window_hu=(0.0, 200.0))
    prepared = run(case, tmp_path / "cache", config)
    true_mm = ((place - (np.array(shape) - 1) / 2) * old)[::-1]
    for weights, voxels in ((prepared.image - prepared.image.min(), 0.1), (prepared.label == 1, 0.5)):
        index = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"), axis=-1)
        centre = (index * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum()
        found_mm = (centre - (np.array(weights.shape) - 1) / 2) * np.array(spacing_mm)
        assert (np.abs(found_mm - true_mm) < voxels * np.maximum(old[::-1], spacing_mm)).all()


def test_resampled_volumes_keep_their_extent(tmp_path: Path):
    case = make_case(tmp_path)
    prepared = run(case, tmp_path / "cache", PreprocessingConfig(spacing_mm=(5.0, 5.0, 5.0)))
    assert prepared.image.shape == (8, 5, 3)
    assert set(np.unique(prepared.label)) <= {0, 1, 2}


def test_volumes_thinner_than_the_new_spacing_keep_one_slice(tmp_path: Path):
    case = make_case(tmp_path)
    prepared = run(case, tmp_path / "cache", PreprocessingConfig(spacing_mm=(200.0, 3.0, 2.0)))
    assert prepared.image.shape == (1, 9, 8)


def test_equal_spacing_is_not_resampled(tmp_path: Path):
    case = make_case(tmp_path)
    close = PreprocessingConfig(spacing_mm=(4.0005, 3.0, 2.0))
    np.testing.assert_array_equal(run(case, tmp_path / "cache").image, run(case, tmp_path / "cache", close).image)


def test_a_case_without_label_stays_without(tmp_path: Path):
    prepared = run(make_case(tmp_path, labelled=False), tmp_path / "cache")
    assert prepared.label is None


def test_an_organ_that_is_not_annotated_is_unlabelled(tmp_path: Path):
    prepared = run(make_case(tmp_path), tmp_path / "cache", label_map=ABDOMEN)
    drawn = {ABDOMEN.index(organ) for organ in ("liver", "spleen", "stomach")}
    assert set(prepared.unlabelled) == set(range(1, 9)) - drawn
    assert set(np.unique(prepared.label)) == {0, *drawn}


def test_a_label_without_any_organ_of_the_task_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"label\.nii\.gz: data set 'made' does not annotate lung: nothing of the task"):
        run(make_case(tmp_path), tmp_path / "cache", label_map=LabelMap(task="chest", organs=("lung",)))


def test_entries_of_fully_drawn_cases_are_found_where_they_always_were(tmp_path: Path):
    """What partial labels, masks and channels bind does not move the cache of data sets that have none of them."""
    case = make_case(tmp_path)
    run(case, tmp_path / "cache")
    bound = {
        "version": 1,
        "image": hashlib.sha256(case.image.read_bytes()).hexdigest(),
        "label": hashlib.sha256(case.label.read_bytes()).hexdigest(),
        "modality": "CT",
        "organs": ["liver", "spleen"],
        "label_ids": [[0, "background"], [3, "spleen"], [6, "liver"], [9, "stomach"]],
        "config": CONFIG.model_dump(mode="json"),
    }
    key = hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()
    assert [entry.name for entry in entries(tmp_path / "cache")] == [key]


def test_arrays_are_read_only_maps_of_the_cache(tmp_path: Path):
    prepared = run(make_case(tmp_path), tmp_path / "cache")
    assert isinstance(prepared.image, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        prepared.image[0, 0, 0] = 1


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def test_the_second_call_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    case = make_case(tmp_path)
    first = run(case, tmp_path / "cache")
    monkeypatch.setattr("secfed.data.preprocessing.read_volume", lambda _: pytest.fail("read again"))
    second = run(case, tmp_path / "cache")
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    assert len(entries(tmp_path / "cache")) == 1


def test_equal_content_in_another_place_is_the_same_entry(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepared = run(make_case(tmp_path / name), tmp_path / "cache")
        assert prepared.source == tmp_path / name / "image.nii.gz"
    assert len(entries(tmp_path / "cache")) == 1


def test_other_content_settings_labels_or_modality_are_other_entries(tmp_path: Path):
    case = make_case(tmp_path)
    run(case, tmp_path / "cache")
    run(case, tmp_path / "cache", CONFIG.model_copy(update={"ct_window_hu": (-100.0, 200.0)}))
    run(case, tmp_path / "cache", label_map=LabelMap(task="two", organs=("spleen", "liver")))
    run(Case(patient="p1", image=case.image, label=None, modality=Modality.CT), tmp_path / "cache")
    run(Case(patient="p1", image=case.image, label=case.label, modality=Modality.MR), tmp_path / "cache")
    save(case.image, np.random.default_rng(1).normal(0, 90, (8, 9, 10)).astype(np.float32))
    run(case, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 6


def test_other_meanings_of_the_label_values_are_another_entry(tmp_path: Path):
    case = make_case(tmp_path)
    swapped = replace(DATA_SET, label_ids={0: "background", 3: "liver", 6: "spleen", 9: "stomach"})
    first = run(case, tmp_path / "cache")
    second = prepare(case, data_set=swapped, label_map=ORGANS, config=CONFIG, cache=tmp_path / "cache")
    np.testing.assert_array_equal(first.label == 1, second.label == 2)
    assert (first.label == 1).any()


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "empty"])
def test_a_damaged_entry_is_rebuilt(tmp_path: Path, name: str, damage: str):
    case = make_case(tmp_path)
    whole = run(case, tmp_path / "cache")
    expected = np.array(whole.image), np.array(whole.label)
    (entry,) = entries(tmp_path / "cache")
    data = (entry / name).read_bytes()
    (entry / name).unlink()
    if damage == "truncated":
        (entry / name).write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        (entry / name).write_bytes(data[:-9] + bytes(byte ^ 1 for byte in data[-9:]))
    elif damage == "empty":
        (entry / name).write_bytes(b"")
    again = run(case, tmp_path / "cache")
    np.testing.assert_array_equal(again.image, expected[0])
    np.testing.assert_array_equal(again.label, expected[1])
    assert entries(tmp_path / "cache") == [entry]
    np.testing.assert_array_equal(np.load(entry / "image.npy"), expected[0])


def test_many_at_once_share_one_entry(tmp_path: Path):
    case = make_case(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(lambda _: run(case, tmp_path / "cache"), range(24)))
    assert len(entries(tmp_path / "cache")) == 1
    for other in prepared:
        np.testing.assert_array_equal(other.image, prepared[0].image)


def test_a_file_in_the_place_of_an_entry_is_replaced(tmp_path: Path):
    case = make_case(tmp_path)
    run(case, tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    for path in entry.iterdir():
        path.unlink()
    entry.rmdir()
    entry.write_text("not a folder")
    assert run(case, tmp_path / "cache").image.shape == (10, 9, 8)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cache entry cannot be written"):
        run(make_case(tmp_path), tmp_path / "cache")


def test_uncompressed_and_compressed_files_read_alike(tmp_path: Path):
    case = make_case(tmp_path)
    plain = tmp_path / "plain.nii"
    plain.write_bytes(gzip.decompress(case.image.read_bytes()))
    np.testing.assert_array_equal(read_volume(plain).voxels, read_volume(case.image).voxels)
