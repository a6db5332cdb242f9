"""Phantom folders: the layout of AMOS22, true places in the body, determinism, and no half-written data set."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, Modality
from secfed.data.phantom.geometry import STANDARD_GRID, Grid
from secfed.data.phantom.population import NORTH, SOUTH
from secfed.data.phantom.protocol import PROTOCOLS
from secfed.data.phantom.scans import CaseKey, draw_scan
from secfed.data.phantom.writer import write_mixed_phantom, write_phantom
from secfed.data.preprocessing import prepare, read_volume
from secfed.data.readers import read_amos22
from secfed.errors import ConfigError, DataError

SMALL = Grid(shape=(16, 22, 28), spacing_mm=(15.0, 15.0, 15.0))
# Protocol, voxels per class, mean and deviation of the image of one patient.
GOLDEN = [
    ("ct-portal", [229677, 10297, 785, 694, 668, 408, 94, 2426, 711], -571.858, 498.226),
    ("ct-mixed", [230330, 8428, 654, 1050, 1451, 524, 103, 2592, 628], -596.682, 501.287),
    ("mr-t1-gre", [225568, 10721, 1879, 1981, 853, 628, 224, 3391, 515], 263.537, 328.525),
    ("mr-t2-tse", [231261, 7771, 817, 1263, 1676, 345, 171, 1910, 546], 149.560, 239.989),
    ("ct-angio-a", [235606, 1993, 2036, 1090, 1743, 2540, 431, 321], -376.892, 480.672),
    ("ct-angio-b", [235938, 1890, 1646, 1455, 1511, 2620, 367, 333], -334.635, 547.425),
    ("mr-bssfp-a", [228668, 3528, 4013, 1829, 2898, 3465, 919, 440], 276.270, 312.710),
    ("mr-bssfp-b", [231150, 3110, 4141, 1964, 1795, 2521, 567, 512], 344.187, 415.086),
]
AMOS_IDS = {
    "spleen": 1,
    "kidney_right": 2,
    "kidney_left": 3,
    "gallbladder": 4,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "pancreas": 10,
}


def write_ct(folder: Path, *, train: int = 2, validation: int = 0, test: int = 0, **changes: object) -> list[str]:
    names: list[str] = []
    arguments = {
        "splits": {"train": train, "validation": validation, "test": test},
        "modality": Modality.CT,
        "protocol": "ct-portal",
        "population": "north",
        "seed": 7,
        "grid": SMALL,
        "on_case": names.append,
    }
    write_phantom(folder, **(arguments | changes))
    return names


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("protocol", ["ct-mixed", "mr-t1-gre", "mr-t2-tse"])
def test_prepared_volume_equals_the_array_before_writing(tmp_path: Path, protocol: str):
    """Orientation included: files lie left-posterior or right-anterior, prepared arrays are always RAS as (z, y, x)."""
    modality = PROTOCOLS[protocol].modality
    write_phantom(
        tmp_path / "phantom", splits={"train": 1}, modality=modality, protocol=protocol, population="north", seed=2
    )
    data_set = read_amos22(tmp_path / "phantom")
    (case,) = data_set.training
    scan = draw_scan(CaseKey(seed=2, population=NORTH, protocol=PROTOCOLS[protocol], split="train", index=0))

    volume = read_volume(case.image)
    np.testing.assert_array_equal(volume.voxels, scan.image[:, ::-1, ::-1])
    prepared = prepare(
        case, data_set=data_set, label_map=ABDOMEN, config=PreprocessingConfig(), cache=tmp_path / "cache"
    )
    np.testing.assert_array_equal(prepared.label, scan.label[:, ::-1, ::-1])
    clipped = scan.image.astype(float)
    clipped = np.clip(clipped, *((-160, 240) if modality is Modality.CT else (0, np.percentile(clipped, 99.5))))
    expected = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(prepared.image, expected[:, ::-1, ::-1], atol=1e-5)


@pytest.mark.parametrize(("ct", "mri", "axes"), [(1, 0, ("L", "P", "S")), (0, 1, ("R", "A", "S"))])
def test_organs_lie_where_anatomy_puts_them_in_world_coordinates(tmp_path: Path, ct: int, mri: int, axes: tuple):
    """World coordinates of NIfTI rise to the patient's right, front and head."""
    write_mixed_phantom(tmp_path / "phantom", ct=ct, mri=mri, seed=1, population="north")
    (case,) = read_amos22(tmp_path / "phantom").training
    image, label = nibabel.load(case.image), nibabel.load(case.label)
    assert nibabel.aff2axcodes(image.affine) == axes
    np.testing.assert_array_equal(image.affine, label.affine)
    assert np.abs(image.affine[:3, 3]).min() > 1
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.int16
    assert label.get_data_dtype() == np.uint8

    values = np.asarray(label.dataobj)
    centre = {
        organ: nibabel.affines.apply_affine(label.affine, np.argwhere(values == number).mean(axis=0))
        for organ, number in AMOS_IDS.items()
    }
    right, front, up = range(3)
    assert centre["liver"][right] > centre["spleen"][right]
    assert centre["kidney_right"][right] > centre["aorta"][right] > centre["kidney_left"][right]
    assert centre["gallbladder"][right] > centre["aorta"][right]
    assert centre["stomach"][front] > centre["kidney_left"][front]
    assert centre["liver"][up] > centre["kidney_right"][up]


def test_layout_and_ids_are_those_of_amos22(tmp_path: Path):
    names = write_ct(tmp_path / "ct", train=2, validation=1, test=1)
    assert names == ["amos_0001", "amos_0002", "amos_0003", "amos_0004"]
    assert set(contents(tmp_path / "ct")) == {
        "dataset.json",
        "phantom.json",
        "imagesTr/amos_0001.nii.gz",
        "imagesTr/amos_0002.nii.gz",
        "labelsTr/amos_0001.nii.gz",
        "labelsTr/amos_0002.nii.gz",
        "imagesVa/amos_0003.nii.gz",
        "labelsVa/amos_0003.nii.gz",
        "imagesTs/amos_0004.nii.gz",
        "labelsTs/amos_0004.nii.gz",
    }
    description = json.loads((tmp_path / "ct" / "dataset.json").read_text())
    assert description["training"][0] == {
        "image": "./imagesTr/amos_0001.nii.gz",
        "label": "./labelsTr/amos_0001.nii.gz",
    }
    assert description["labels"]["6"] == "liver"
    assert len(description["labels"]) == 16


def test_mixed_phantom_starts_mri_after_the_last_ct_id(tmp_path: Path):
    write_mixed_phantom(tmp_path / "mixed", ct=2, mri=1, seed=0, population="south", grid=SMALL)
    cases = read_amos22(tmp_path / "mixed").training
    assert [(case.patient, case.modality) for case in cases] == [
        ("amos_0001", Modality.CT),
        ("amos_0002", Modality.CT),
        ("amos_0501", Modality.MR),
    ]


def test_labels_are_written_with_the_ids_of_amos22(tmp_path: Path):
    write_ct(tmp_path / "ct", train=1, grid=STANDARD_GRID)
    written = np.asarray(nibabel.load(tmp_path / "ct" / "labelsTr" / "amos_0001.nii.gz").dataobj).transpose(2, 1, 0)
    scan = draw_scan(CaseKey(seed=7, population=NORTH, protocol=PROTOCOLS["ct-portal"], split="train", index=0))
    for organ, number in AMOS_IDS.items():
        np.testing.assert_array_equal(written == number, scan.label == ABDOMEN.index(organ))


def test_equal_arguments_give_equal_bytes(tmp_path: Path):
    write_ct(tmp_path / "a")
    write_ct(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("changes", [{"seed": 8}, {"population": "south"}, {"protocol": "ct-any"}])
def test_another_seed_population_or_protocol_is_another_subject(tmp_path: Path, changes: dict):
    write_ct(tmp_path / "a", train=1)
    write_ct(tmp_path / "b", train=1, **changes)
    first, second = (contents(tmp_path / name)["labelsTr/amos_0001.nii.gz"] for name in "ab")
    assert gzip.decompress(first) != gzip.decompress(second)


def test_a_case_does_not_depend_on_how_many_others_there_are(tmp_path: Path):
    write_ct(tmp_path / "few", train=1, validation=1, test=1)
    write_ct(tmp_path / "many", train=3, validation=2, test=1)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    for kind in ("images", "labels"):
        assert few[f"{kind}Tr/amos_0001.nii.gz"] == many[f"{kind}Tr/amos_0001.nii.gz"]
        assert few[f"{kind}Va/amos_0002.nii.gz"] == many[f"{kind}Va/amos_0004.nii.gz"]
        assert few[f"{kind}Ts/amos_0003.nii.gz"] == many[f"{kind}Ts/amos_0006.nii.gz"]


def test_no_subject_occurs_in_two_splits_or_two_cases(tmp_path: Path):
    write_ct(tmp_path / "ct", train=3, validation=2, test=2)
    labels = [data for name, data in contents(tmp_path / "ct").items() if name.startswith("labels")]
    assert len(set(labels)) == 7


def test_a_complete_phantom_is_left_as_it_is(tmp_path: Path):
    write_ct(tmp_path / "ct")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ct").rglob("*")}
    assert write_ct(tmp_path / "ct") == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "ct").rglob("*")} == before


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_phantom_is_written_again(tmp_path: Path, damage: str):
    write_ct(tmp_path / "ct")
    whole = contents(tmp_path / "ct")
    victim = tmp_path / "ct" / "imagesTr" / "amos_0002.nii.gz"
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:100])
    assert write_ct(tmp_path / "ct") == ["amos_0001", "amos_0002"]
    assert contents(tmp_path / "ct") == whole


def test_an_interrupted_write_leaves_no_folder_and_the_next_one_succeeds(tmp_path: Path):
    def interrupt(name: str) -> None:
        if name == "amos_0002":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ct(tmp_path / "ct", train=3, on_case=interrupt)
    assert not (tmp_path / "ct").exists()
    write_ct(tmp_path / "ct")
    assert [case.patient for case in read_amos22(tmp_path / "ct").training] == ["amos_0001", "amos_0002"]
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


def test_an_empty_folder_and_missing_parents_are_accepted(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    write_ct(tmp_path / "empty")
    write_ct(tmp_path / "new" / "below")
    assert contents(tmp_path / "empty") == contents(tmp_path / "new" / "below")


def test_a_folder_with_other_content_is_refused_and_untouched(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not empty, and not a phantom"):
        write_ct(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_phantom_of_other_parameters_is_refused_and_untouched(tmp_path: Path):
    write_ct(tmp_path / "ct")
    before = contents(tmp_path / "ct")
    with pytest.raises(DataError, match=r"other parameters \(phantom.json\)"):
        write_ct(tmp_path / "ct", seed=8)
    assert contents(tmp_path / "ct") == before


def test_a_damaged_phantom_with_a_foreign_file_is_not_deleted(tmp_path: Path):
    write_ct(tmp_path / "ct")
    (tmp_path / "ct" / "imagesTr" / "amos_0001.nii.gz").unlink()
    (tmp_path / "ct" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt is not part of it"):
        write_ct(tmp_path / "ct")
    assert (tmp_path / "ct" / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "ct").write_text("")
    with pytest.raises(DataError, match="not a folder"):
        write_ct(tmp_path / "ct")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": "west"}, "known: north, south"),
        ({"protocol": "mr-any"}, "makes MR scans, not CT"),
        ({"splits": {"training": 1}}, r"splits names \['training'\]; known: train, validation, test"),
        ({"splits": {}}, "at least one case"),
        ({"splits": {"train": -1, "test": 1}}, "must not be negative"),
        ({"splits": {"train": 501}}, "501 CT cases: the ids of AMOS22 have room for 500"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_arguments_that_cannot_be_are_named(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        write_ct(tmp_path / "ct", **changes)
    assert list(tmp_path.iterdir()) == []


def test_more_mri_cases_than_ids_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="10000 MR cases: the ids of AMOS22 have room for 9499"):
        write_mixed_phantom(tmp_path / "mri", ct=0, mri=10000, seed=0, population="north")


def test_scan_values_fit_their_integers():
    for protocol in PROTOCOLS.values():
        scan = draw_scan(CaseKey(seed=0, population=SOUTH, protocol=protocol, split="test", index=0))
        assert scan.image.dtype == np.int16
        assert (np.abs(scan.image.astype(int)) == 32767).sum() == 0
        assert len(np.unique(scan.image)) > 500


@pytest.mark.parametrize(("protocol", "counts", "mean", "deviation"), GOLDEN)
def test_a_phantom_of_this_version_is_the_same_patient_as_ever(
    protocol: str, counts: list[int], mean: float, deviation: float
):
    """Recorded once: whoever changes a stream of random numbers or a shape has to count the version up."""
    scan = draw_scan(CaseKey(seed=5, population=NORTH, protocol=PROTOCOLS[protocol], split="train", index=0))
    found = np.bincount(scan.label.ravel(), minlength=len(counts))
    # Another processor may round a voxel at a border to the other side.
    np.testing.assert_allclose(found, counts, rtol=0.01, atol=3)
    assert scan.image.mean() == pytest.approx(mean, rel=1e-3)
    assert scan.image.std() == pytest.approx(deviation, rel=1e-3)
