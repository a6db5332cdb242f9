"""A folder of DICOM slices as one volume: where its voxels lie, what they are worth, and what is no volume."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_slices import AXIAL, COLUMNS, CORONAL, ROWS, SAGITTAL, values_of, write_series, write_slice
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from secfed.data.dicom.nifti import write_nifti
from secfed.data.dicom.series import Stack, read_stack, read_voxels, stacked
from secfed.data.dicom.slices import read_slice
from secfed.data.volumes import read_volume
from secfed.errors import FileError


def world_values(stack: Stack, voxels: np.ndarray) -> dict[tuple[float, ...], float]:
    """Every voxel's value by its place in DICOM's axes, in mm."""
    found = {}
    for index in np.ndindex(voxels.shape):
        ras = stack.affine @ np.array([*index, 1.0])
        found[tuple(np.round(ras[:3] * (-1, -1, 1), 3) + 0.0)] = float(voxels[index])
    return found


def by_the_standard(folder: Path) -> dict[tuple[float, ...], float]:
    """The same by the equation of DICOM PS3.3, C.7.6.2.1.1, pixel by pixel, without a line of what is tested."""
    import pydicom

    found = {}
    for path in folder.iterdir():
        file = pydicom.dcmread(path)
        origin = np.array(file.ImagePositionPatient, float)
        along_row, along_column = np.array(file.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = map(float, file.PixelSpacing)
        for row, column in np.ndindex(file.Rows, file.Columns):
            place = origin + along_row * between_columns * column + along_column * between_rows * row
            value = float(file.pixel_array[row, column]) * float(file.RescaleSlope) + float(file.RescaleIntercept)
            found[tuple(np.round(place, 3) + 0.0)] = value
    return found


def oblique(first: float, second: float) -> tuple[float, ...]:
    """Row and column directions after two turns, with the six digits that scanners write."""
    one = np.array([[1, 0, 0], [0, np.cos(first), -np.sin(first)], [0, np.sin(first), np.cos(first)]])
    other = np.array([[np.cos(second), -np.sin(second), 0], [np.sin(second), np.cos(second), 0], [0, 0, 1]])
    turned = one @ other
    return tuple(np.round([*turned[:, 0], *turned[:, 1]], 6))


AXES = [
    (*row, *column)
    for row, column in itertools.permutations(
        [tuple(sign * np.eye(3)[axis]) for axis in range(3) for sign in (1.0, -1.0)], 2
    )
    if abs(np.dot(row, column)) < 0.5
]


@pytest.mark.parametrize("orientation", [*AXES, oblique(0.3, -0.2), oblique(-1.1, 2.5)])
@pytest.mark.parametrize("upwards", [True, False])
def test_every_orientation_puts_every_voxel_where_the_standard_says(tmp_path, orientation, upwards):
    """All 24 pairs of axes, and oblique ones, in files whose names go along the stack or against it."""
    row, column = np.array(orientation).reshape(2, 3)
    steps = range(3) if upwards else range(2, -1, -1)
    points = [np.array([-10.0, 20.0, 30.0]) + 7.0 * step * np.cross(row, column) for step in steps]
    write_series(tmp_path / "s", points, orientation=orientation)
    stack = read_stack(tmp_path / "s")
    voxels = read_voxels(stack)
    assert voxels.shape == (COLUMNS, ROWS, 3)
    assert world_values(stack, voxels) == by_the_standard(tmp_path / "s")
    assert np.linalg.norm(stack.affine[:3, :3], axis=0) == pytest.approx((3.0, 2.0, 7.0))


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL])
def test_the_written_file_is_read_back_upright(tmp_path, orientation):
    row, column = np.array(orientation).reshape(2, 3)
    write_series(tmp_path / "s", [7.0 * step * np.cross(row, column) for step in range(3)], orientation=orientation)
    stack = read_stack(tmp_path / "s")
    write_nifti(tmp_path / "scan.nii.gz", read_voxels(stack), stack.affine)
    volume = read_volume(tmp_path / "scan.nii.gz")
    expected = by_the_standard(tmp_path / "s")
    for z, y, x in np.ndindex(volume.voxels.shape):
        ras = volume.affine @ np.array([x, y, z, 1.0])
        assert volume.voxels[z, y, x] == expected[tuple(np.round(ras[:3] * (-1, -1, 1), 3) + 0.0)]


@given(order=st.permutations(range(5)))
def test_names_and_numbers_of_files_do_not_count(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, [3.0 * place for place in order], InstanceNumber=list(range(5)))
    stack = read_stack(folder)
    assert [one.position_mm[2] for one in stack.slices] == [0.0, 3.0, 6.0, 9.0, 12.0]
    assert [int(one.path.name[1:5]) for one in stack.slices] == [order.index(place) for place in range(5)]


def test_hounsfield_units_come_out_as_whole_numbers(tmp_path):
    (first, second) = write_series(tmp_path, [0, 5], RescaleIntercept=-1024, RescaleSlope=1)
    voxels = read_voxels(read_stack(tmp_path))
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, np.stack([first.T, second.T], axis=-1).astype(int) - 1024)


def test_each_slice_is_rescaled_by_its_own_factor(tmp_path):
    (first, second) = write_series(tmp_path, [0, 5], Modality="MR", RescaleSlope=[0.5, 2.25], RescaleIntercept=[3, -1])
    voxels = read_voxels(read_stack(tmp_path))
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels[..., 0], first.T * 0.5 + 3)
    np.testing.assert_array_equal(voxels[..., 1], second.T * 2.25 - 1)


def test_mri_without_a_factor_is_taken_as_stored_and_negative_numbers_are_kept(tmp_path):
    values = values_of(0).astype(np.int16) - 500
    write_slice(tmp_path / "a", values, Modality="MR", RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read_voxels(read_stack(tmp_path))[..., 0], values.T)


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    write_series(tmp_path / "thick", [0])
    assert np.linalg.norm(read_stack(tmp_path / "thick").affine[:3, 2]) == pytest.approx(5.0)
    write_series(tmp_path / "spaced", [0], SpacingBetweenSlices=6.5)
    assert np.linalg.norm(read_stack(tmp_path / "spaced").affine[:3, 2]) == pytest.approx(6.5)
    write_series(tmp_path / "none", [0], SliceThickness=None)
    with pytest.raises(FileError, match=r"i0000.*is alone, and does not say how thick"):
        read_stack(tmp_path / "none")


def test_the_distance_of_slices_counts_and_not_what_they_say_of_it(tmp_path):
    write_series(tmp_path, [0, 3, 6], SliceThickness=5.0, SpacingBetweenSlices=4.0)
    assert np.linalg.norm(read_stack(tmp_path).affine[:3, 2]) == pytest.approx(3.0)


def test_positions_that_were_rounded_to_tenths_are_even(tmp_path):
    write_series(tmp_path, [round(1.25 * step, 1) for step in range(40)])
    assert np.linalg.norm(read_stack(tmp_path).affine[:3, 2]) == pytest.approx(1.25, abs=2e-3)


@pytest.mark.parametrize(
    ("places", "file", "reason"),
    [
        ([0, 5, 15, 20], "i0002", r"a slice is missing between i0001,0000b\.dcm and this one: they are 10 mm apart"),
        ([0, 5, 10, 25], "i0003", "2 slices are missing"),
        ([0, 5, 15], "i0002", "a slice is missing"),
        ([0, 5, 10, 16], "i0003", "not evenly spaced: .* are 6 mm apart, others 5"),
        ([0, 5, 10, 5], "i0003", "lies where i0001"),
        ([0, 5, 5.001, 10], "i0002", "lies where i0001"),
        ([*range(0, 100, 5), *(95 + 5.1 * step for step in range(1, 21))], r"i00\d\d", "off the line"),
        ([(0, 0, 0), (0, 3, 5), (0, 6, 10)], "i0002", "the stack leans: its last slice lies 6 mm aside"),
        ([(0, 0, 0), (2, 0, 5), (0, 0, 10)], "i0001", "off the line"),
    ],
)
def test_a_stack_that_is_not_even_is_refused_with_the_slice(tmp_path, places, file, reason):
    write_series(tmp_path, places)
    with pytest.raises(FileError, match=rf"{file}.*{reason}"):
        read_stack(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SeriesInstanceUID": ["1.2.3", "1.2.3", "1.2.4"]}, "belongs to another series, unlike i0000"),
        ({"FrameOfReferenceUID": ["1.2.3", "1.2.3", "1.2.4"]}, "belongs to another series"),
        ({"Modality": ["CT", "CT", "MR"]}, "belongs to another series"),
        ({"ImageOrientationPatient": [list(AXIAL), list(AXIAL), list(CORONAL)]}, "lies in another direction"),
        ({"PixelSpacing": [[2.0, 3.0], [2.0, 3.0], [2.0, 3.1]]}, r"has pixels of \(2\.0, 3\.1\) mm"),
    ],
)
def test_mixed_series_are_refused_with_the_file(tmp_path, changes, reason):
    write_series(tmp_path, [0, 5, 10], **changes)
    with pytest.raises(
        FileError, match=rf"i0002,0000b\.dcm: {reason}.*give each series a folder of its own"
    ) as refused:
        read_stack(tmp_path)
    assert "1.2." not in str(refused.value)


def test_slices_of_another_size_are_refused(tmp_path):
    write_series(tmp_path, [0, 5])
    write_slice(tmp_path / "large", values_of(0, rows=7), ImagePositionPatient=[0, 0, 10])
    with pytest.raises(FileError, match=r"large: has \(7, 4\) pixels, not \(5, 4\)"):
        read_stack(tmp_path)


def test_two_phases_in_one_folder_are_told_by_their_echo_times(tmp_path):
    write_series(tmp_path, [0, 0, 5, 5], Modality="MR", EchoTime=[2.3, 4.6, 2.3, 4.6])
    with pytest.raises(FileError, match=r"i0001.*lies where i0000.* lies \(echo times 2\.3 and 4\.6 ms\)"):
        read_stack(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "PT"}, "Modality = 'PT': CT and MR are accepted"),
        ({"Modality": None}, "Modality = 'none'"),
        ({"NumberOfFrames": 2}, "holds many slices in one file .*dcm2niix"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1"}, "holds many slices in one file"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "its pixels are 'RGB'"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"BurnedInAnnotation": "YES"}, "text about the patient is burnt into its pixels"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "has no ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "has 3 numbers in its ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no pair of perpendicular unit vectors"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "no pair of perpendicular unit vectors"),
        ({"PixelSpacing": None}, "has no PixelSpacing"),
        ({"PixelSpacing": [0.0, 1.0]}, "positive lengths in mm are needed"),
        ({"RescaleSlope": None}, "a CT slice without RescaleSlope"),
        ({"RescaleIntercept": None}, "a CT slice without RescaleSlope or RescaleIntercept"),
        ({"RescaleSlope": 0}, "makes every value the same"),
        ({"Rows": None, "PixelData": None}, "Rows = None: has no image"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_no_slice_of_a_scan_is_refused_with_its_reason(tmp_path, changes, reason):
    path = write_slice(tmp_path / "odd.dcm", values_of(0), **changes)
    with pytest.raises(FileError, match=rf"odd\.dcm: .*{reason}"):
        read_slice(path)


def test_a_file_that_is_no_dicom_is_named_and_some_are_passed_over(tmp_path):
    write_series(tmp_path, [0, 5])
    for name in (".DS_Store", "DICOMDIR", "scan.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    assert len(read_stack(tmp_path).slices) == 2
    (tmp_path / "notes.txt").write_text("seen by Dr House")
    with pytest.raises(FileError, match=r"notes\.txt: is no DICOM file"):
        read_stack(tmp_path)


def test_an_empty_folder_holds_no_slice(tmp_path):
    with pytest.raises(FileError, match="holds no DICOM slice"):
        read_stack(tmp_path)
    with pytest.raises(FileError, match="is no folder"):
        read_stack(tmp_path / "absent")


@pytest.mark.parametrize("kept", [20, 140, 600, 0.7, -3])
def test_a_truncated_file_is_named(tmp_path, kept):
    write_series(tmp_path, [0, 5])
    path = tmp_path / "i0001,0000b.dcm"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if 0 < kept < 1 else kept])
    with pytest.raises(FileError, match=r"i0001,0000b\.dcm: "):
        read_voxels(read_stack(tmp_path))


@given(st.data())
def test_damaged_bytes_are_read_or_refused_by_name(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    path = write_slice(folder / "one.dcm", values_of(0))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        voxels = read_voxels(read_stack(folder))
    except FileError as error:
        assert error.file == path
    else:
        assert np.isfinite(voxels).all()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda syntax: syntax.name)
def test_pixels_that_no_decoder_is_installed_for_are_refused_with_what_to_do(tmp_path, monkeypatch, syntax):
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    decoder = get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0",)})
    path = write_slice(tmp_path / "a.dcm", values_of(0), syntax=syntax, PixelData=encapsulate([b"\xff\x4f\xff\x51"]))
    with pytest.raises(
        FileError, match=rf"a\.dcm: its pixels are compressed as '{syntax.name[:9]}.*no decoder"
    ) as found:
        read_voxels(stacked([read_slice(path)]))
    assert "pylibjpeg" in found.value.todo


def test_run_lengths_need_no_other_program(tmp_path):
    import pydicom

    write_series(tmp_path, [0, 5])
    plain = read_voxels(read_stack(tmp_path))
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_voxels(read_stack(tmp_path)), plain)


def test_the_header_of_the_written_file_says_where_voxels_lie_and_nothing_else(tmp_path):
    write_series(tmp_path / "s", [0, 5])
    stack = read_stack(tmp_path / "s")
    write_nifti(tmp_path / "scan.nii", read_voxels(stack), stack.affine)
    header = nibabel.load(tmp_path / "scan.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    assert header.get_xyzt_units() == ("mm", "unknown")
    assert len(header.extensions) == 0
    for text in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        assert bytes(header[text]).strip(b"\0") == b""
