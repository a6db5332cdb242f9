"""The Decathlon's and nnU-Net's layouts: labels both ways round, channels, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_volumes import SHAPE, save_image, save_label, save_volume

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, WHOLE_HEART, Modality
from secfed.data.preprocessing import prepare
from secfed.data.readers import read_data_set, read_decathlon, read_nnunet
from secfed.errors import DataError

CONFIG = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))


def decathlon(folder: Path, *, shape: tuple[int, ...] = SHAPE, split_channels: bool = False, **changes: object) -> Path:
    """Task09_Spleen, small: imagesTr/spleen_2.nii.gz and so on; with `split_channels` as nnU-Net's first version."""
    content = {
        "name": "Spleen",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "numTraining": 2,
        "training": [
            {"image": f"./imagesTr/spleen_{number}.nii.gz", "label": f"./labelsTr/spleen_{number}.nii.gz"}
            for number in (2, 3)
        ],
        "test": ["./imagesTs/spleen_1.nii.gz"],
    } | changes
    for number, part in ((2, "Tr"), (3, "Tr"), (1, "Ts")):
        for channel in range(2) if split_channels else range(1):
            suffix = f"_{channel:04d}" if split_channels else ""
            save_image(folder / f"images{part}" / f"spleen_{number}{suffix}.nii.gz", 10 * number + channel, shape)
        if part == "Tr":
            save_label(folder / "labelsTr" / f"spleen_{number}.nii.gz", 1)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def nnunet(folder: Path, *, channels: int = 1, **changes: object) -> Path:
    content = {
        "channel_names": {str(number): "CT" for number in range(channels)},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    } | changes
    for case, part in (("liver_0", "Tr"), ("liver_1", "Tr"), ("liver_9", "Ts")):
        for channel in range(channels):
            save_image(folder / f"images{part}" / f"{case}_{channel:04d}.nii.gz", channel)
        if part == "Tr":
            save_label(folder / "labelsTr" / f"{case}.nii.gz", 1, 2)
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_a_decathlon_task_is_read(tmp_path: Path):
    data_set = read_data_set(decathlon(tmp_path))
    assert [case.patient for case in data_set.training] == ["spleen_2", "spleen_3"]
    assert [(case.patient, case.label) for case in data_set.test] == [("spleen_1", None)]
    assert {case.modality for case in data_set.cases} == {Modality.CT}
    assert data_set.annotated(data_set.training[0], ABDOMEN) == ("spleen",)


@pytest.mark.parametrize(
    ("labels", "label_map", "values"),
    [
        ({"0": "background", "1": "liver", "2": "cancer"}, ABDOMEN, {"liver": {1, 2}}),
        ({"0": "background", "1": "pancreas", "2": "cancer"}, ABDOMEN, {"pancreas": {1, 2}}),
        ({"0": "background", "1": "left atrium"}, WHOLE_HEART, {"left_atrium": {1}}),
    ],
)
def test_a_tumour_belongs_to_the_organ_that_it_grows_in(tmp_path: Path, labels: dict, label_map, values: dict):
    data_set = read_data_set(decathlon(tmp_path, labels=labels))
    assert data_set.annotated(data_set.training[0], label_map) == tuple(values)
    for organ, expected in values.items():
        assert {value for value, name in data_set.label_ids.items() if name == organ} == expected


@pytest.mark.parametrize(
    ("names", "modality"), [({"0": "MRI"}, "MR"), ({"0": "CT"}, "CT"), ({"0": "T2"}, "MR"), ({"0": "FLAIR"}, "MR")]
)
def test_the_name_of_a_channel_says_the_modality(tmp_path: Path, names: dict, modality: str):
    assert read_data_set(decathlon(tmp_path, modality=names)).training[0].modality == modality


def test_a_channel_that_says_nothing_asks_for_the_modality(tmp_path: Path):
    folder = decathlon(tmp_path, modality={"0": "noNorm"})
    with pytest.raises(DataError, match=r"'noNorm' is no name of a modality.*say it"):
        read_data_set(folder)
    assert read_data_set(folder, modality=Modality.MR).training[0].modality is Modality.MR


@pytest.mark.parametrize("split_channels", [False, True], ids=["4D files", "a file per channel"])
def test_of_several_channels_one_must_be_chosen(tmp_path: Path, split_channels: bool):
    names = {"0": "T2", "1": "ADC"}
    folder = decathlon(
        tmp_path / "set", modality=names, shape=SHAPE if split_channels else (*SHAPE, 2), split_channels=split_channels
    )
    with pytest.raises(DataError, match=r"channels 0 \(T2\), 1 \(ADC\); say which one to read: channel = 0"):
        read_data_set(folder)
    with pytest.raises(DataError, match="channel = 2: there are"):
        read_data_set(folder, channel=2)
    volumes = []
    for channel in (0, 1):
        data_set = read_data_set(folder, channel=channel)
        case = data_set.training[0]
        assert case.patient == "spleen_2"
        found = prepare(case, data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=tmp_path / "cache")
        volumes.append(found.image)
    assert volumes[0].shape == volumes[1].shape == SHAPE[::-1]
    assert not np.array_equal(*volumes)


def test_a_4d_file_that_nobody_announced_is_named(tmp_path: Path):
    folder = decathlon(tmp_path / "set", shape=(*SHAPE, 2))
    data_set = read_data_set(folder)
    with pytest.raises(DataError, match=r"spleen_2\.nii\.gz: has 4 dimensions .*say which of its 2 channels"):
        prepare(data_set.training[0], data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=tmp_path / "cache")


def test_channels_that_nobody_announced_can_still_be_chosen(tmp_path: Path):
    folder = decathlon(tmp_path / "set", shape=(*SHAPE, 2))
    data_set = read_data_set(folder, channel=0)
    case = prepare(data_set.training[0], data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=tmp_path / "cache")
    assert case.image.shape == SHAPE[::-1]


def test_nnunet_raw_data_are_read(tmp_path: Path):
    data_set = read_data_set(nnunet(tmp_path / "set"))
    assert [(case.patient, case.image.name) for case in data_set.training] == [
        ("liver_0", "liver_0_0000.nii.gz"),
        ("liver_1", "liver_1_0000.nii.gz"),
    ]
    assert [(case.patient, case.label) for case in data_set.test] == [("liver_9", None)]
    assert data_set.label_ids == {0: "background", 1: "liver", 2: "spleen"}
    case = prepare(data_set.training[0], data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=tmp_path / "cache")
    assert set(np.unique(case.label)) == {0, 1, 2}


def test_the_channel_of_nnunet_is_a_file(tmp_path: Path):
    folder = nnunet(tmp_path, channels=2)
    assert read_data_set(folder, channel=1).training[0].image.name == "liver_0_0001.nii.gz"
    with pytest.raises(DataError, match="say which one to read"):
        read_data_set(folder)


def test_test_labels_of_nnunet_are_used_where_they_are(tmp_path: Path):
    save_label(nnunet(tmp_path) / "labelsTs" / "liver_9.nii.gz", 1)
    assert read_nnunet(tmp_path).test[0].label is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, r"labels\['whole'\] = \[1, 2\]: regions"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "labels has 'ignore'"),
        ({"labels": {"liver": 1, "spleen": 1}}, "gives the value 1 to liver and to spleen"),
        ({"labels": {"liver": 0}}, "gives 0 to liver"),
        ({"labels": {"liver": -1}}, r"labels\['liver'\] = -1"),
        ({"labels": {"liver": True}}, r"labels\['liver'\] = True"),
        ({"labels": {"liver": "1"}}, r"labels\['liver'\] = '1'"),
        ({"labels": {"1": "liver"}}, r"labels\['1'\] = 'liver'"),
        ({"labels": []}, "'labels' must map organs"),
        ({"file_ending": ".nrrd"}, r"file_ending = '\.nrrd': \.nii\.gz and \.nii are read"),
        ({"channel_names": {}}, "'channel_names' must map numbers"),
        ({"channel_names": {"x": "CT"}}, r"channel_names\['x'\]"),
        ({"channel_names": {"0": "zscore"}}, "'zscore' is no name of a modality"),
        ({"dataset": {}}, "lists its files under 'dataset'"),
    ],
)
def test_what_nnunet_has_and_is_not_read_here_is_explained(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(DataError, match=message):
        read_nnunet(nnunet(tmp_path, **changes))


def test_files_that_nnunet_would_miss_are_named(tmp_path: Path):
    folder = nnunet(tmp_path, channels=2)
    (folder / "imagesTr" / "liver_1_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"liver_1_0001\.nii\.gz: no such file, but the case has other channels"):
        read_nnunet(folder, channel=1)
    (folder / "labelsTr" / "liver_0.nii.gz").unlink()
    with pytest.raises(DataError, match=r"labelsTr/liver_0\.nii\.gz: no such file"):
        read_nnunet(folder, channel=0)
    save_image(folder / "imagesTr" / "stray.nii.gz")
    with pytest.raises(DataError, match=r"stray\.nii\.gz: its name does not end in the number of a channel"):
        read_nnunet(folder, channel=0)


@pytest.mark.parametrize("field", ["image", "label"])
@pytest.mark.parametrize("path", ["../secret.nii.gz", "/etc/hostname", "a\0b", ".", "long" * 100])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, field: str, path: str):
    (tmp_path / "secret.nii.gz").touch()
    entry = {"image": "imagesTr/spleen_2.nii.gz"} | {field: path}
    with pytest.raises(DataError, match=r"does not lie in the folder|no such file"):
        read_decathlon(decathlon(tmp_path / "set", training=[entry]))


def test_an_image_in_two_splits_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"names spleen_2\.nii\.gz more than once"):
        read_decathlon(decathlon(tmp_path, test=["imagesTr/spleen_2.nii.gz"]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["labels", "training", "validation", "test", "name", "modality", "channel_names", "file_ending"]
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.just({"liver": 1}) | st.just({"1": "liver"}) | JSON,
        "modality": st.just({"0": "CT"}) | JSON,
        "channel_names": st.just({"0": "CT"}) | JSON,
        "file_ending": st.just(".nii.gz") | JSON,
        "training": JSON,
        "test": JSON,
        "dataset": JSON,
    },
)


@pytest.mark.parametrize("read", [read_decathlon, read_nnunet, read_data_set])
@given(content=LIKELY | st.dictionaries(st.sampled_from(KEYS), JSON) | JSON)
def test_any_json_is_refused_cleanly(tmp_path_factory: pytest.TempPathFactory, read, content: object):
    folder = tmp_path_factory.getbasetemp() / "described"
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"dataset\.json|described"):
        read(folder)


def test_a_label_may_be_of_another_type(tmp_path: Path):
    folder = decathlon(tmp_path / "set")
    save_volume(folder / "labelsTr" / "spleen_2.nii.gz", np.ones(SHAPE, np.float64))
    data_set = read_data_set(folder)
    case = prepare(data_set.training[0], data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=tmp_path / "cache")
    assert set(np.unique(case.label)) == {ABDOMEN.index("spleen")}
