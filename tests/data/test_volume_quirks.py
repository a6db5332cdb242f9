"""What real files do: stored axes of any handedness, two affines, channels, floats, missing and broken parts.

Truncated and lying files are in tests/hostile/test_data_volumes.py, all 48 orientations in tests/property.
"""

import gzip
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_volumes import AFFINE, SHAPE, rows, save_image, save_label, save_volume

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, Case, Modality
from secfed.data.preprocessing import PreparedCase, prepare
from secfed.data.readers import DataSet
from secfed.data.volumes import doubts_about, read_volume
from secfed.errors import DataError, FileError

CONFIG = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
IDS = {0: "background", 1: "liver", 2: "kidney_right", 3: "kidney_left"}
DATA_SET = DataSet(name="made", training=(), validation=(), test=(), label_ids=IDS)


def make_case(folder: Path, *, ending: str = ".nii.gz") -> Case:
    label = save_label(folder / f"label{ending}", 1, 2, 3)
    return Case(patient="p", image=save_image(folder / f"image{ending}"), label=label, modality=Modality.CT)


def run(case: Case, folder: Path, data_set: DataSet = DATA_SET) -> PreparedCase:
    return prepare(case, data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=folder / "cache")


def flipped(path: Path, axes: tuple[int, ...]) -> None:
    """Store the same body with axes reversed: an odd number of them makes the grid left-handed."""
    image = nibabel.load(path)
    values, affine = np.asarray(image.dataobj), image.affine.copy()
    for axis in axes:
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
        values = np.flip(values, axis)
    save_volume(path, np.ascontiguousarray(values), affine)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_grids_of_either_handedness_give_the_same_body(tmp_path: Path, axes: tuple[int, ...], ending: str):
    case = make_case(tmp_path, ending=ending)
    straight = run(case, tmp_path)
    expected = np.array(straight.image), np.array(straight.label)
    flipped(case.image, axes)
    if len(axes) == 1:
        # A label may be stored along other axes than its image, as long as it lies in the same place.
        flipped(case.label, axes)
    again = run(case, tmp_path)
    np.testing.assert_array_equal(again.image, expected[0])
    np.testing.assert_array_equal(again.label, expected[1])


def test_a_label_whose_affine_lost_the_flip_is_refused_and_not_mirrored(tmp_path: Path):
    case = make_case(tmp_path)
    flipped(case.image, (0,))
    with pytest.raises(DataError, match=r"label\.nii\.gz: the label lies up to .* mm away from its image"):
        run(replace(case, label=save_volume(case.label, rows(1, 2, 3), np.diag([-3.0, 3, 5, 1]))), tmp_path)


def with_forms(path: Path, *, sform: np.ndarray | None, qform: np.ndarray | None) -> Path:
    image = nibabel.Nifti1Image(np.asarray(nibabel.load(path).dataobj), None)
    image.set_sform(sform, code=0 if sform is None else 1)
    image.set_qform(qform, code=0 if qform is None else 1)
    nibabel.save(image, path)
    return path


def test_of_two_affines_the_sform_wins_and_the_doubt_is_said(tmp_path: Path):
    moved = AFFINE.copy()
    moved[:3, 3] = (0, 0, 30)
    path = with_forms(save_image(tmp_path / "i.nii.gz"), sform=moved, qform=AFFINE)
    np.testing.assert_allclose(read_volume(path).affine, moved)
    assert doubts_about(path) == ("its sform and qform place voxels up to 30 mm apart; the sform is used",)


def test_without_a_sform_the_qform_says_where_voxels_lie(tmp_path: Path):
    mirrored = np.diag([-3.0, 3.0, 5.0, 1.0])
    path = with_forms(save_image(tmp_path / "i.nii.gz"), sform=None, qform=mirrored)
    straight = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_array_equal(read_volume(path).voxels, straight[::-1].transpose(2, 1, 0))
    assert doubts_about(path) == ()


def test_without_either_the_doubt_is_said(tmp_path: Path):
    path = with_forms(save_image(tmp_path / "i.nii.gz"), sform=None, qform=None)
    assert read_volume(path).spacing_mm[1:] == (1.0, 1.0)
    assert doubts_about(path) == ("neither sform nor qform is set, so left and right are not known",)


def test_a_header_in_order_leaves_no_doubt(tmp_path: Path):
    assert doubts_about(save_image(tmp_path / "i.nii.gz")) == ()
    both = with_forms(save_image(tmp_path / "b.nii.gz"), sform=AFFINE, qform=AFFINE)
    assert doubts_about(both) == ()
    with pytest.raises(FileError, match=r"gone\.nii: no such file"):
        doubts_about(tmp_path / "gone.nii")


def test_a_single_channel_needs_no_choice(tmp_path: Path):
    flat = save_image(tmp_path / "three.nii.gz")
    values = np.asarray(nibabel.load(flat).dataobj)
    four = save_volume(tmp_path / "four.nii.gz", values[..., None])
    for channel in (None, 0):
        np.testing.assert_array_equal(read_volume(four, channel=channel).voxels, read_volume(flat).voxels)
        np.testing.assert_array_equal(read_volume(flat, channel=channel).voxels, read_volume(flat).voxels)


def test_the_chosen_channel_is_read(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(*SHAPE, 3)).astype(np.float32)
    path = save_volume(tmp_path / "four.nii.gz", values)
    for channel in range(3):
        np.testing.assert_array_equal(read_volume(path, channel=channel).voxels, values[..., channel].T)


@pytest.mark.parametrize(
    ("shape", "channel", "message"),
    [
        ((*SHAPE, 3), None, r"has 4 dimensions .*say which of its 3 channels to read: channel = 0"),
        ((*SHAPE, 3), 3, "channel = 3: 0 to 2 are accepted"),
        (SHAPE, 1, "channel = 1, but it has one channel"),
        ((*SHAPE, 1, 3), 0, "has 5 dimensions"),
        (SHAPE[:2], None, "has 2 dimensions"),
    ],
)
def test_channels_that_cannot_be_are_explained(tmp_path: Path, shape: tuple[int, ...], channel: int, message: str):
    path = save_volume(tmp_path / "v.nii.gz", np.ones(shape, np.float32))
    with pytest.raises(FileError, match=rf"v\.nii\.gz: {message}"):
        read_volume(path, channel=channel)


def test_another_channel_is_another_cache_entry(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32)
    case = replace(make_case(tmp_path), image=save_volume(tmp_path / "four.nii.gz", 100 * values))
    one, other = (run(replace(case, channel=channel), tmp_path).image for channel in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16])
def test_labels_may_be_of_any_type(tmp_path: Path, dtype: type):
    case = make_case(tmp_path)
    expected = np.array(run(case, tmp_path).label)
    save_label(case.label, 1.0, 2.0, 3.0, dtype=dtype)
    np.testing.assert_array_equal(run(case, tmp_path).label, expected)


def test_a_label_value_between_two_numbers_is_refused(tmp_path: Path):
    case = make_case(tmp_path)
    save_label(case.label, 1.0, 1.5, dtype=np.float32)
    with pytest.raises(DataError, match=r"label\.nii\.gz: holds label values that are not whole numbers, such as 1\.5"):
        run(case, tmp_path)


def test_a_value_that_the_label_map_does_not_know_is_refused_with_those_it_knows(tmp_path: Path):
    case = make_case(tmp_path)
    save_label(case.label, 1, 7)
    with pytest.raises(DataError, match=r"the label value 7, .* of data set 'made'; known are 0, 1, 2, 3: correct"):
        run(case, tmp_path)


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_voxel_that_is_no_number_is_refused_with_what_to_do(tmp_path: Path, kind: str):
    case = make_case(tmp_path)
    values = np.zeros(SHAPE, np.float32)
    values[0, 0, 0] = np.nan
    save_volume(getattr(case, kind), values)
    with pytest.raises(FileError, match=rf"{kind}\.nii\.gz: holds 1 voxels that are not finite") as caught:
        run(case, tmp_path)
    assert "leave the scan out" in caught.value.todo


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str):
    case = make_case(tmp_path)
    path: Path = getattr(case, kind)
    noise = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    save_volume(path, noise)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match=rf"{kind}\.nii\.gz: .*may be truncated|not a readable"):
        run(case, tmp_path)


def test_a_label_that_disappears_is_named(tmp_path: Path):
    case = make_case(tmp_path)
    case.label.unlink()
    with pytest.raises(FileError, match=r"label\.nii\.gz: no such file"):
        run(case, tmp_path)


def test_a_non_ascii_path_is_a_path(tmp_path: Path):
    folder = tmp_path / "Aufnahmen, größe" / "肝臓"
    case = make_case(folder, ending=".nii")
    (folder / "image.nii.gz").write_bytes(gzip.compress(case.image.read_bytes()))
    plain, packed = (run(replace(case, image=folder / f"image{end}"), folder).image for end in (".nii", ".nii.gz"))
    np.testing.assert_array_equal(plain, packed)


def test_an_empty_label_is_no_error(tmp_path: Path):
    case = make_case(tmp_path)
    save_label(case.label)
    assert not run(case, tmp_path).label.any()
