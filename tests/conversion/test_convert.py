"""`secfed data convert`: CHAOS as downloaded becomes a data set, a bad series hides no other, no identity gets out."""

import functools
import gzip
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import call
from dicom_slices import COLUMNS, IDENTITY, ROWS, write_mask, write_series

from secfed.data.cases import ABDOMEN
from secfed.data.readers import read_data_set

PLACES = (0.0, 5.0, 10.0)
GREYS = (63, 126, 189, 252)


@pytest.fixture
def secfed(monkeypatch, capfd):
    return functools.partial(call, monkeypatch, capfd, columns=200)


def write_ground(folder: Path, values: tuple[int, ...], name: str) -> None:
    for index in range(len(PLACES)):
        mask = np.zeros((ROWS, COLUMNS), np.uint8)
        for place, value in enumerate(values):
            mask[place, index : index + 2] = value
        write_mask(folder / name.format(index), mask)


def write_chaos(root: Path) -> Path:
    """The layout of the download: Train_Sets with masks, Test_Sets without, phases of T1 with one set of masks."""
    for number in (1, 2):
        ct = root / "Train_Sets" / "CT" / str(number)
        write_series(ct / "DICOM_anon", PLACES[::-1], RescaleIntercept=-1000 - number)
        write_ground(ct / "Ground", (255,), "liver_GT_{:03d}.png")
    mr = root / "Train_Sets" / "MR" / "1"
    for phase, first, echo in (("InPhase", 2, 4.6), ("OutPhase", 1, 2.3)):
        names = [f"IMG-0004-{first + 2 * index:05d}.dcm" for index in range(3)]
        write_series(
            mr / "T1DUAL" / "DICOM_anon" / phase, PLACES, names=names, Modality="MR", EchoTime=echo, RescaleSlope=None
        )
    write_ground(mr / "T1DUAL" / "Ground", GREYS, "IMG-0004-{:05d}.png")
    for index in range(2, -1, -1):
        path = mr / "T1DUAL" / "Ground" / f"IMG-0004-{index:05d}.png"
        path.rename(path.with_name(f"IMG-0004-{2 + 2 * index:05d}.png"))
    names = [f"IMG-0002-{1 + index:05d}.dcm" for index in range(3)]
    write_series(mr / "T2SPIR" / "DICOM_anon", PLACES, names=names, Modality="MR")
    write_ground(mr / "T2SPIR" / "Ground", GREYS, "IMG-0002-{:05d}.png")
    for index in range(2, -1, -1):
        path = mr / "T2SPIR" / "Ground" / f"IMG-0002-{index:05d}.png"
        path.rename(path.with_name(f"IMG-0002-{1 + index:05d}.png"))
    write_series(root / "Test_Sets" / "CT" / "9" / "DICOM_anon", PLACES)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_download_becomes_a_data_set_that_inspect_and_prepare_take(secfed, tmp_path):
    source, out = write_chaos(tmp_path / "download"), tmp_path / "chaos"
    before = contents(source)
    code, said, err = secfed("data", "convert", source, out)
    assert (code, contents(source) == before) == (0, True)
    assert "Converted: 6 series, 5 with a label, 0 there already" in said
    assert "Doe" not in said + err
    data_set = read_data_set(out)
    assert [(case.patient, case.modality.value) for case in data_set.training] == [
        ("ct_1", "CT"),
        ("ct_2", "CT"),
        *[("mr_1", "MR")] * 3,
    ]
    assert [case.patient for case in data_set.test] == ["ct_9"]
    assert data_set.annotated(data_set.training[0], ABDOMEN) == ("liver",)
    assert data_set.annotated(data_set.training[2], ABDOMEN) == ("liver", "spleen", "kidney_right", "kidney_left")
    code, said, _ = secfed("data", "inspect", out, "--json")
    assert (code, json.loads(said)["errors"]) == (0, 0)
    code, said, _ = secfed("data", "prepare", out, "--cache", tmp_path / "cache", "--jobs", 1, "--json")
    assert (code, json.loads(said)["scans"], json.loads(said)["patients"]) == (0, 5, 3)


def test_masks_lie_on_their_slices(secfed, tmp_path):
    """The names of CT's slices go down the body here; the first mask by name is that of the topmost."""
    secfed("data", "convert", write_chaos(tmp_path / "download"), tmp_path / "chaos")
    (case, *_) = read_data_set(tmp_path / "chaos").training
    image, label = nibabel.load(case.image), nibabel.load(case.label)
    np.testing.assert_array_equal(image.affine, label.affine)
    values = np.asarray(label.dataobj)
    for index in range(3):
        expected = np.zeros((COLUMNS, ROWS))
        expected[index : index + 2, 0] = 255
        np.testing.assert_array_equal(values[:, :, 2 - index], expected)
    assert image.affine[2, 3] == 0.0


def test_nothing_of_the_identity_is_in_a_file_or_in_its_name(secfed, tmp_path):
    source = write_chaos(tmp_path / "download")
    _, said, err = secfed("data", "convert", source, tmp_path / "chaos", "--json")
    secfed("data", "convert", source / "Train_Sets" / "CT" / "1" / "DICOM_anon", tmp_path / "chaos" / "one.nii")
    identity = [*IDENTITY.values(), *(value.partition("^")[0] for value in IDENTITY.values()), "1.2.3.4"]
    written = contents(tmp_path / "chaos")
    assert len(written) == 11
    for name, data in written.items():
        plain = gzip.decompress(data) if name.endswith(".gz") else data
        for value in identity:
            assert value.encode() not in plain
            assert value.encode() not in data
            assert value not in name
            assert value not in said + err
        if name.endswith(".gz"):
            # No name and no time in gzip's own header.
            assert (data[3], data[4:8]) == (0, b"\0\0\0\0")


def test_a_second_call_takes_what_is_there_and_the_same_slices_give_the_same_bytes(secfed, tmp_path):
    source = write_chaos(tmp_path / "download")
    secfed("data", "convert", source, tmp_path / "a")
    first = contents(tmp_path / "a")
    (tmp_path / "a" / "Train_Sets" / "CT" / "2" / "Ground" / "label.nii.gz").unlink()
    code, said, _ = secfed("data", "convert", source, tmp_path / "a", "--json")
    found = json.loads(said)
    assert (code, [one["was_there"] for one in found["series"]].count(False)) == (0, 1)
    assert contents(tmp_path / "a") == first
    code, said, _ = secfed("data", "convert", source, tmp_path / "a", "--json")
    assert json.loads(said)["bytes_written"] == 0


def test_a_bad_series_is_named_and_the_others_are_converted(secfed, tmp_path):
    source, out = write_chaos(tmp_path / "download"), tmp_path / "chaos"
    (source / "Train_Sets" / "CT" / "1" / "DICOM_anon" / "i0001,0000b.dcm").unlink()
    (source / "Train_Sets" / "CT" / "1" / "Ground" / "liver_GT_001.png").unlink()
    write_series(
        source / "Train_Sets" / "CT" / "1" / "DICOM_anon", [15], names=["i0003,0000b.dcm"], RescaleIntercept=-1001
    )
    write_mask(source / "Train_Sets" / "CT" / "1" / "Ground" / "liver_GT_003.png", np.zeros((ROWS, COLUMNS)))
    (source / "Train_Sets" / "MR" / "1" / "T2SPIR" / "Ground" / "IMG-0002-00002.png").unlink()
    code, said, _ = secfed("data", "convert", source, out)
    assert code == 3
    assert "(ct_1 DICOM_anon): a slice is missing between i0002,0000b.dcm and this one" in said
    assert "(mr_1 T2SPIR/DICOM_anon): holds 2 masks, but there are 3 slices" in said
    assert "Converted: 4 series, 3 with a label" in said
    assert "2 series were left out" in said
    # Neither is there in part: an image without its label would be a scan that nobody trains on.
    assert not (out / "Train_Sets" / "CT" / "1").exists()
    assert not (out / "Train_Sets" / "MR" / "1" / "T2SPIR").exists()
    data_set = read_data_set(out)
    assert (len(data_set.training), len(data_set.test)) == (3, 1)


def test_a_phase_that_lies_elsewhere_than_the_label_is_named(secfed, tmp_path):
    source = write_chaos(tmp_path / "download")
    place = source / "Train_Sets" / "MR" / "1" / "T1DUAL" / "DICOM_anon" / "OutPhase"
    names = sorted(path.name for path in place.iterdir())
    write_series(place, [(4.0, 0.0, z) for z in PLACES], names=names, Modality="MR")
    code, said, _ = secfed("data", "convert", source, tmp_path / "chaos")
    assert (code, "label.nii.gz (mr_1 T1DUAL/DICOM_anon/OutPhase): lies elsewhere than the slices" in said) == (3, True)
    assert len(read_data_set(tmp_path / "chaos").training) == 4


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_one_folder_of_slices_becomes_one_file(secfed, tmp_path, name):
    (first, *_) = write_series(tmp_path / "slices", PLACES)
    code, said, _ = secfed("data", "convert", tmp_path / "slices", tmp_path / "out" / name, "--json")
    assert (code, json.loads(said)["series"][0]["slices"]) == (0, 3)
    stored = nibabel.load(tmp_path / "out" / name)
    np.testing.assert_array_equal(np.asarray(stored.dataobj)[:, :, 0], first.T.astype(int) - 1024)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_file_that_is_there_is_not_overwritten(secfed, tmp_path):
    write_series(tmp_path / "slices", PLACES)
    (tmp_path / "scan.nii.gz").write_bytes(b"kept")
    code, _, err = secfed("data", "convert", tmp_path / "slices", tmp_path / "scan.nii.gz")
    assert (code, "is there already, and nothing is overwritten" in err) == (2, True)
    assert (tmp_path / "scan.nii.gz").read_bytes() == b"kept"


def test_a_series_that_cannot_be_converted_leaves_nothing(secfed, tmp_path):
    write_series(tmp_path / "slices", [0, 5, 15])
    code, said, _ = secfed("data", "convert", tmp_path / "slices", tmp_path / "out" / "scan.nii.gz")
    assert (code, "a slice is missing" in said) == (3, True)
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_named(secfed, tmp_path):
    write_series(tmp_path / "slices", PLACES)
    write_chaos(tmp_path / "chaos")
    (tmp_path / "taken").write_text("a file")
    for source, out, word in (
        ("absent", "out", "no such folder"),
        ("taken", "out", "not a folder"),
        ("slices", "out", "holds no series of CHAOS"),
        ("chaos", "taken", "is no folder"),
        ("chaos", "chaos/out", "lies in"),
    ):
        code, _, err = secfed("data", "convert", tmp_path / source, tmp_path / out)
        assert (code, word in err) == (2, True), (source, out, err)
        assert not (tmp_path / "out").exists()


def test_without_its_libraries_it_says_what_to_install(secfed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    code, _, err = secfed("data", "convert", tmp_path, tmp_path / "out")
    assert (code, "pip install 'secfed[dicom]'" in err) == (2, True)


def test_a_site_without_the_extra_lacks_nothing_but_this_command():
    script = (
        "import sys; sys.modules['pydicom'] = sys.modules['PIL'] = None\n"
        "import clients.app, secfed.cli, secfed.data.readers, secfed.preparation.prepare, secfed.inspection.page"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
