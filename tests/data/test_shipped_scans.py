"""Scans that packages ship go through inspect and prepare as somebody's own would: read where they are installed.

nibabel has small volumes of scanners, nilearn the MNI152 template with its maps of tissue, pydicom slices and a series
of CT and MRI. Nothing is downloaded, and nothing of them is kept here. Labels are made from the scans, so that what
they have to become is known.
"""

import functools
import importlib.util
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import call
from table_folder import write_lines

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN
from secfed.data.preprocessing import prepare
from secfed.data.readers import read_data_set
from secfed.data.volumes import read_volume

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
VOLUMES = ("anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz")


def folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None, f"{package} comes with the extra dev"
    return Path(found.origin).parent


@pytest.fixture
def secfed(monkeypatch, capfd):
    return functools.partial(call, monkeypatch, capfd, columns=200)


def table_of(folder: Path, scans: dict[str, Path], *, modality: str, bright: float = 75.0) -> Path:
    """Links to scans in a table, each with a label: 1 where the scan is brighter than most of it, 2 where it is not."""
    lines = []
    folder.mkdir(parents=True)
    for name, scan in scans.items():
        ending = "".join(Path(scan.name).suffixes[-2:] if scan.name.endswith(".gz") else Path(scan.name).suffixes)
        (folder / f"{name}{ending}").symlink_to(scan)
        stored = nibabel.load(scan)
        values = np.asarray(stored.dataobj, np.float32)
        label = np.where(values > np.percentile(values, bright), 1, 2).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(label, stored.affine), folder / f"{name}-label.nii.gz")
        lines.append(f"{name},{name}{ending},{name}-label.nii.gz,{modality},training")
    return write_lines(folder, lines)


def inspected(secfed, folder: Path) -> dict:
    code, out, _ = secfed("data", "inspect", folder, "--json")
    (found,) = json.loads(out)["data_sets"]
    return {**found, "code": code}


def prepared(secfed, folder: Path, cache: Path) -> dict:
    code, out, _ = secfed("data", "prepare", folder, "--cache", cache, "--jobs", 1, "--json")
    return {**json.loads(out), "code": code}


def require_labels_in_place(folder: Path, cache: Path, *, bright: float = 75.0) -> None:
    """In what training gets, the brighter part of the scan is the part that is labelled 1."""
    data_set = read_data_set(folder)
    for case in data_set.training:
        own = PreprocessingConfig(spacing_mm=read_volume(case.image).spacing_mm, mr_percentiles=(0.0, 100.0))
        got = prepare(case, data_set=data_set, label_map=ABDOMEN, config=own, cache=cache)
        assert got.label is not None
        assert got.image.shape == got.label.shape
        liver, spleen = (got.image[got.label == ABDOMEN.index(organ)] for organ in ("liver", "spleen"))
        assert liver.size + spleen.size == got.image.size
        assert liver.min() >= spleen.max()


def test_nibabel_s_volumes_are_inspected_and_prepared(secfed, tmp_path):
    folder = table_of(tmp_path / "scans", {Path(name).stem: NIBABEL / name for name in VOLUMES}, modality="MR")
    found = inspected(secfed, folder)
    assert (found["code"], found["usable"]) == (0, 3)
    assert found["organs"]["liver"] == {"drawn": 3, "seen": 3}
    done = prepared(secfed, folder, tmp_path / "cache")
    assert (done["code"], done["scans"], done["cannot_be_used"]) == (0, 3, 0)
    require_labels_in_place(folder, tmp_path / "cache")


def test_what_is_no_volume_among_nibabel_s_files_is_named_and_the_volumes_go_on(secfed, tmp_path):
    folder = table_of(tmp_path / "scans", {"good": NIBABEL / "anatomical.nii"}, modality="MR")
    odd = sorted(path for path in NIBABEL.glob("*.nii.gz") if path.name not in VOLUMES)
    assert odd
    rows = ["good,good.nii,good-label.nii.gz,MR,training"]
    for index, path in enumerate(odd):
        (folder / f"odd-{index}.nii.gz").symlink_to(path)
        rows.append(f"odd-{index},odd-{index}.nii.gz,good-label.nii.gz,MR,training")
    write_lines(folder, rows)
    found, done = inspected(secfed, folder), prepared(secfed, folder, tmp_path / "cache")
    assert (found["code"], found["usable"]) == (3, 1)
    assert (done["code"], done["scans"], done["cannot_be_used"]) == (3, 1, len(odd))
    for problems in (found["problems"], done["problems"]):
        named = {problem["case"] for problem in problems if problem["severity"] == "error"}
        assert named == {f"odd-{index}" for index in range(len(odd))}


def test_the_mni152_template_with_its_maps_is_inspected_and_prepared(secfed, tmp_path):
    """A head at 1 mm with two binary masks, made of its maps of grey and white matter: organs by folder of masks."""
    data = folder_of("nilearn") / "datasets" / "data"
    (template,) = data.glob("mni_icbm152_t1_*.nii.gz")
    folder = tmp_path / "scans"
    (folder / "masks").mkdir(parents=True)
    (folder / "t1.nii.gz").symlink_to(template)
    maps = {
        organ: nibabel.load(next(data.glob(f"mni_icbm152_{part}_*")))
        for organ, part in (("liver", "gm"), ("spleen", "wm"))
    }
    matter = {organ: np.asarray(stored.dataobj, np.float32) for organ, stored in maps.items()}
    voxels = {}
    for organ, stored in maps.items():
        other = matter["spleen" if organ == "liver" else "liver"]
        inside = (matter[organ] > 0.5 * matter[organ].max()) & (matter[organ] > other)
        voxels[organ] = int(inside.sum())
        nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), stored.affine), folder / "masks" / f"{organ}.nii.gz")
    write_lines(folder, ["mni,t1.nii.gz,masks,MR,training"])
    found = inspected(secfed, folder)
    assert (found["code"], found["usable"]) == (0, 1)
    assert found["measures"]["MR"]["spacing z, mm"]["median"] == pytest.approx(1.0)
    assert [found["organs"][organ] for organ in ("liver", "spleen", "aorta")] == [
        {"drawn": 1, "seen": 1},
        {"drawn": 1, "seen": 1},
        {"drawn": 0, "seen": 0},
    ]
    done = prepared(secfed, folder, tmp_path / "cache")
    assert (done["code"], done["scans"]) == (0, 1)
    data_set = read_data_set(folder)
    (case,) = data_set.training
    got = prepare(case, data_set=data_set, label_map=ABDOMEN, config=PreprocessingConfig(), cache=tmp_path / "cache")
    assert got.label is not None
    # Half a litre and more of each, at 5 mm as at 1 mm: one voxel of 125 is asked, of a sheet that is 3 mm thick.
    for organ, count in voxels.items():
        assert int((got.label == ABDOMEN.index(organ)).sum()) * 125 == pytest.approx(count, rel=0.05)
        assert count > 500_000
    # White matter is brighter than grey in T1.
    grey, white = (got.image[got.label == ABDOMEN.index(organ)].mean() for organ in ("liver", "spleen"))
    assert white > grey > 0


@pytest.mark.parametrize(("name", "modality"), [("CT_small.dcm", "CT"), ("MR_small.dcm", "MR")])
def test_pydicom_s_slices_are_converted_inspected_and_prepared(secfed, tmp_path, name, modality):
    import pydicom

    path = folder_of("pydicom") / "data" / "test_files" / name
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / name).symlink_to(path)
    scan = tmp_path / "scan.nii.gz"
    code, *_ = secfed("data", "convert", tmp_path / "slices", scan)
    assert code == 0
    file, stored = pydicom.dcmread(path), nibabel.load(scan)
    factor, offset = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(np.asarray(stored.dataobj)[:, :, 0], file.pixel_array.T * factor + offset)
    left, backwards, upwards = (float(part) for part in file.ImagePositionPatient)
    np.testing.assert_allclose(stored.affine[:3, 3], (-left, -backwards, upwards), atol=1e-4)
    sizes = [*map(float, file.PixelSpacing), float(file.SliceThickness)]
    assert sorted(stored.header.get_zooms()) == pytest.approx(sorted(sizes))
    for value in (file.PatientName, file.PatientID, file.StudyDate, file.SeriesInstanceUID):
        assert str(value).encode() not in stored.to_bytes()
    folder = table_of(tmp_path / "scans", {"one": scan}, modality=modality)
    assert inspected(secfed, folder)["usable"] == 1
    assert prepared(secfed, folder, tmp_path / "cache")["scans"] == 1
    if modality == "MR":
        require_labels_in_place(folder, tmp_path / "cache")


def test_pydicom_s_series_becomes_a_volume(secfed, tmp_path):
    source = folder_of("pydicom") / "data" / "test_files" / "dicomdirtests" / "98892001" / "CT5N"
    code, out, _ = secfed("data", "convert", source, tmp_path / "scan.nii.gz", "--json")
    assert (code, json.loads(out)["series"][0]["slices"]) == (0, 5)
    folder = table_of(tmp_path / "scans", {"one": tmp_path / "scan.nii.gz"}, modality="CT")
    assert inspected(secfed, folder)["usable"] == 1


@pytest.mark.parametrize("coding", ["RLE", "bigendian", "implicit", "expb", "jp2klossless"])
def test_one_slice_in_many_codings_is_one_volume(secfed, tmp_path, coding):
    """Pydicom ships the same slice of MRI plain and in these; the last is compressed, and Pillow decodes it."""
    files = folder_of("pydicom") / "data" / "test_files"
    for name in ("MR_small", f"MR_small_{coding}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slice").symlink_to(files / f"{name}.dcm")
        code, *_ = secfed("data", "convert", tmp_path / name, tmp_path / f"{name}.nii.gz")
        assert code == 0
    plain, coded = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("MR_small", f"MR_small_{coding}"))
    np.testing.assert_array_equal(np.asarray(coded.dataobj), np.asarray(plain.dataobj))
    np.testing.assert_array_equal(coded.affine, plain.affine)


@pytest.mark.parametrize("place", ["77654033/CT2", "98892001/CT2N", "98892003/MR1", "98892003/MR700", "77654033/CR1"])
def test_pydicom_s_folders_of_mixed_or_missing_slices_are_refused_by_name(secfed, tmp_path, place):
    source = folder_of("pydicom") / "data" / "test_files" / "dicomdirtests" / place
    code, out, _ = secfed("data", "convert", source, tmp_path / "scan.nii.gz", "--json")
    (problem,) = json.loads(out)["problems"]
    assert (code, Path(problem["file"]).parent) == (3, source)
    assert not (tmp_path / "scan.nii.gz").exists()
