"""Phantom hearts on disk: the layout of AMOS22 with the label values of MM-WHS, read back to the voxel."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, WHOLE_HEART, Modality
from secfed.data.phantom.geometry import HEART_GRID, STANDARD_GRID, Grid
from secfed.data.phantom.population import NORTH, SOUTH
from secfed.data.phantom.protocol import ANY_CONTRAST, PROTOCOLS, protocol_named, protocols_for
from secfed.data.phantom.scans import CaseKey, draw_scan
from secfed.data.phantom.writer import write_mixed_phantom, write_phantom
from secfed.data.preprocessing import prepare, read_volume
from secfed.data.readers import read_data_set
from secfed.errors import ConfigError, DataError

SMALL = Grid(shape=(24, 32, 40), spacing_mm=(7.0, 7.0, 7.0))
VALUES = {
    "left_ventricle": 500,
    "right_ventricle": 600,
    "left_atrium": 420,
    "right_atrium": 550,
    "myocardium": 205,
    "aorta": 820,
    "pulmonary_artery": 850,
}
AT_3_5_MM = PreprocessingConfig(spacing_mm=(3.5, 3.5, 3.5), ct_window_hu=(-200, 600))


def write(folder: Path, protocol: str, *, train: int = 1, **changes: object) -> Path:
    arguments = {
        "splits": {"train": train},
        "modality": PROTOCOLS[protocol].modality,
        "protocol": protocol,
        "population": "north",
        "seed": 2,
    }
    write_phantom(folder, **(arguments | changes))
    return folder


@pytest.mark.parametrize("protocol", ["ct-angio-a", "mr-bssfp-b"])
def test_a_heart_is_read_back_to_the_voxel(tmp_path: Path, protocol: str):
    data_set = read_data_set(write(tmp_path / "heart", protocol))
    (case,) = data_set.training
    scan = draw_scan(CaseKey(seed=2, population=NORTH, protocol=PROTOCOLS[protocol], split="train", index=0))
    assert scan.image.shape == HEART_GRID.shape
    assert scan.spacing_mm == HEART_GRID.spacing_mm
    assert case.modality is PROTOCOLS[protocol].modality
    np.testing.assert_array_equal(read_volume(case.image).voxels, scan.image[:, ::-1, ::-1])
    prepared = prepare(case, data_set=data_set, label_map=WHOLE_HEART, config=AT_3_5_MM, cache=tmp_path / "cache")
    np.testing.assert_array_equal(prepared.label, scan.label[:, ::-1, ::-1])
    assert prepared.image.shape == HEART_GRID.shape


def test_label_volumes_hold_the_values_of_mm_whs(tmp_path: Path):
    folder = write(tmp_path / "heart", "ct-angio-a")
    label = nibabel.load(folder / "labelsTr" / "amos_0001.nii.gz")
    assert label.get_data_dtype() == np.uint16
    written = np.asarray(label.dataobj).transpose(2, 1, 0)
    scan = draw_scan(CaseKey(seed=2, population=NORTH, protocol=PROTOCOLS["ct-angio-a"], split="train", index=0))
    for structure, value in VALUES.items():
        np.testing.assert_array_equal(written == value, scan.label == WHOLE_HEART.index(structure))
    assert set(np.unique(written)) == {0, *VALUES.values()}


def test_the_description_names_the_structures_of_the_task(tmp_path: Path):
    folder = write(tmp_path / "heart", "mr-bssfp-a", grid=SMALL)
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"]["205"] == "myocardium of the left ventricle"
    assert description["description"].startswith("synthetic heart")
    parameters = json.loads((folder / "phantom.json").read_text())["parameters"]
    assert parameters["task"] == "whole_heart"
    assert parameters["heart"]["name"] == "north"
    assert set(read_data_set(folder).label_ids.values()) == {"background", *WHOLE_HEART.organs}


def test_the_record_of_an_abdomen_is_as_it_was_before_there_were_tasks(tmp_path: Path):
    """Folders written by earlier versions must still be recognised as complete."""
    write(tmp_path / "abdomen", "ct-portal", grid=Grid(shape=(16, 22, 28), spacing_mm=(15.0, 15.0, 15.0)))
    record = json.loads((tmp_path / "abdomen" / "phantom.json").read_text())
    assert set(record["parameters"]) == {"version", "seed", "population", "grid", "cases"}
    assert record["parameters"]["version"] == 1
    assert "heart" not in json.dumps(record)


def test_ids_follow_the_rule_of_amos22_for_hearts_too(tmp_path: Path):
    write_mixed_phantom(tmp_path / "mixed", ct=2, mri=1, seed=0, population="south", task="whole_heart", grid=SMALL)
    assert [(case.patient, case.modality) for case in read_data_set(tmp_path / "mixed").training] == [
        ("amos_0001", Modality.CT),
        ("amos_0002", Modality.CT),
        ("amos_0501", Modality.MR),
    ]


def test_equal_arguments_give_equal_bytes_and_a_complete_heart_is_left_alone(tmp_path: Path):
    folders = [write(tmp_path / name, "ct-angio-b", train=2, grid=SMALL) for name in "ab"]
    first, second = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    assert first == second
    written: list[str] = []
    write(folders[0], "ct-angio-b", train=2, grid=SMALL, on_case=written.append)
    assert written == []


def test_no_subject_is_shared_by_cases_splits_seeds_populations_or_protocols():
    def label(**changes: object) -> bytes:
        key = {"seed": 0, "population": NORTH, "protocol": "ct-angio-a", "split": "train", "index": 0} | changes
        return draw_scan(CaseKey(**key | {"protocol": PROTOCOLS[key["protocol"]], "grid": SMALL})).label.tobytes()

    others = [{"seed": 1}, {"population": SOUTH}, {"protocol": "ct-angio-b"}, {"split": "test"}, {"index": 1}]
    assert len({label(), *(label(**change) for change in others)}) == 1 + len(others)


def test_an_abdomen_is_no_heart_when_it_is_prepared(tmp_path: Path):
    """The wrong task shows as a DataError that names what is missing, before any training."""
    data_set = read_data_set(write(tmp_path / "heart", "ct-angio-a", grid=SMALL))
    (case,) = data_set.training
    with pytest.raises(DataError, match="does not annotate aorta, gallbladder, kidney_left"):
        prepare(case, data_set=data_set, label_map=ABDOMEN, config=AT_3_5_MM, cache=tmp_path / "cache")


def test_every_protocol_belongs_to_one_task():
    assert protocols_for("whole_heart") == [
        "ct-angio-a",
        "ct-angio-any",
        "ct-angio-b",
        "mr-bssfp-a",
        "mr-bssfp-any",
        "mr-bssfp-b",
    ]
    assert sorted([*protocols_for("whole_heart"), *protocols_for("abdomen")]) == sorted(PROTOCOLS)
    assert protocols_for("whole_heart", modality=Modality.MR) == ["mr-bssfp-a", "mr-bssfp-any", "mr-bssfp-b"]
    for task, names in ANY_CONTRAST.items():
        for modality, name in names.items():
            assert (PROTOCOLS[name].task, PROTOCOLS[name].modality) == (task, modality)


def test_a_protocol_of_another_task_is_answered_with_those_that_fit():
    with pytest.raises(
        ConfigError,
        match=r"'ct-portal' scans for task 'abdomen', not 'whole_heart'; use ct-angio-a, ct-angio-any, ct-ang",
    ):
        protocol_named("ct-portal", modality=Modality.CT, task="whole_heart")
    with pytest.raises(ConfigError, match=r"'mr-bssfp-a' scans for task 'whole_heart', not 'abdomen'; use mr-any"):
        protocol_named("mr-bssfp-a", modality=Modality.MR, task="abdomen")
    with pytest.raises(ConfigError, match=r"'mr-bssfp-a' makes MR scans, not CT; use ct-angio-a"):
        protocol_named("mr-bssfp-a", modality=Modality.CT, task="whole_heart")


def test_an_unknown_task_is_answered_with_the_known_ones(tmp_path: Path):
    with pytest.raises(ConfigError, match="task = 'brain': no such task; known: abdomen, whole_heart"):
        write_mixed_phantom(tmp_path / "p", ct=1, mri=0, seed=0, population="north", task="brain")


def test_the_usual_grid_follows_from_the_protocol():
    for name, grid in (("ct-any", STANDARD_GRID), ("ct-angio-any", HEART_GRID)):
        key = CaseKey(seed=0, population=NORTH, protocol=PROTOCOLS[name], split="train", index=0)
        assert key.voxels == grid
