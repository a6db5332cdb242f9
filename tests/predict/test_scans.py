"""Files, folders and data sets become scans with names, modalities and labels; what cannot be used is said."""

import json

import numpy as np
import pytest
from small_federation import SHAPE, write_data_set, write_volume

from secfed.data.cases import ABDOMEN, WHOLE_HEART, LabelMap, Modality
from secfed.errors import ConfigError
from secfed.predict.scans import find_scans, parse_label_ids

VOLUME = np.zeros(SHAPE, np.float32)


def write(folder, *names):
    for name in names:
        write_volume(folder / name, VOLUME)


def found(*paths, **more):
    scans, problems = find_scans(paths, label_map=ABDOMEN, **more)
    assert not problems
    return scans


def test_a_plain_folder_gives_its_scans_and_leaves_labels_and_segmentations_out(tmp_path):
    write(tmp_path, "b.nii.gz", "a.nii", "a_seg.nii.gz", "b_label.nii.gz", "sub/c.nii.gz")
    (tmp_path / "notes.txt").write_text("")
    scans = found(tmp_path, modality=Modality.MR)
    assert [(scan.name, scan.modality, scan.label) for scan in scans] == [
        ("a", Modality.MR, None),
        ("b", Modality.MR, None),
    ]


def test_names_tell_the_modality_or_nothing_does(tmp_path):
    write(tmp_path, "amos_0001.nii.gz", "amos_0600.nii.gz", "x.nii.gz")
    assert [scan.modality for scan in found(*sorted(tmp_path.iterdir()))] == [Modality.CT, Modality.MR, None]


def test_a_data_set_brings_modalities_labels_and_what_their_values_mean(tmp_path):
    write_data_set(tmp_path, modality="MR", seed=0, training=2, validation=1, test=1)
    scans = found(tmp_path)
    assert [scan.name for scan in scans] == [f"amos_{number:04d}" for number in (501, 502, 503, 504)]
    assert {scan.modality for scan in scans} == {Modality.MR}
    assert all(scan.label and scan.label.parent.name == "labels" for scan in scans)
    assert scans[0].label_ids[1] == "liver"


def test_a_folder_as_mm_whs_is_downloaded_needs_no_word_more(tmp_path):
    write(tmp_path, "ct_train/ct_train_1001_image.nii.gz", "ct_train/ct_train_1001_label.nii.gz")
    (scan,) = found(tmp_path)
    assert (scan.name, scan.modality) == ("ct_train_1001", Modality.CT)
    assert scan.label_ids[205] == "myocardium"


def test_one_scan_that_is_named_twice_is_segmented_once(tmp_path):
    write(tmp_path, "a.nii.gz")
    assert len(found(tmp_path, tmp_path / "a.nii.gz", tmp_path / "." / "a.nii.gz")) == 1


def test_two_scans_of_one_name_are_refused(tmp_path):
    write(tmp_path, "x/a.nii.gz", "y/a.nii.gz")
    with pytest.raises(ConfigError, match=r"would both be written as 'a_seg\.nii\.gz'"):
        find_scans([tmp_path / "x", tmp_path / "y"], label_map=ABDOMEN)


@pytest.mark.parametrize("name", ["a", "a_seg", "a_label"])
def test_labels_in_a_folder_are_found_by_name(tmp_path, name):
    write(tmp_path, "images/a_0000.nii.gz", "images/b.nii.gz", f"labels/{name}.nii.gz")
    first, second = found(tmp_path / "images", labels=tmp_path / "labels")
    assert first.label == tmp_path / "labels" / f"{name}.nii.gz"
    assert first.label_ids[1] == "liver"
    assert second.label is None


def test_a_folder_without_a_label_of_any_scan_is_refused_and_no_scan_is_its_own(tmp_path):
    write(tmp_path, "a.nii.gz")
    with pytest.raises(ConfigError, match=r"holds no label of any scan.*a_seg\.nii\.gz"):
        find_scans([tmp_path / "a.nii.gz"], label_map=ABDOMEN, labels=tmp_path)


def test_labels_of_a_data_set_mean_what_it_says_and_not_what_the_model_would(tmp_path):
    write_data_set(tmp_path, modality="CT", seed=0, training=2, validation=0)
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["labels"] = {"0": "background", "1": "spleen", "2": "bladder"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    scan, labels = tmp_path / "images" / "amos_0001.nii.gz", tmp_path / "labels"
    for given in (labels, labels / "amos_0001.nii.gz"):
        (paired,) = found(scan, labels=given)
        assert (paired.label_ids[1], paired.organs) == ("spleen", ("spleen",))
    # Whoever knows better says so.
    (paired,) = found(scan, labels=labels, label_ids={1: "liver"})
    assert paired.label_ids == {1: "liver"}


def test_a_label_that_its_data_set_does_not_name_is_not_guessed_at(tmp_path):
    write_data_set(tmp_path, modality="CT", seed=0, training=1, validation=0)
    write(tmp_path, "more/x.nii.gz", "labels/x.nii.gz")
    with pytest.raises(ConfigError, match=r"x\.nii\.gz is none of those.*--label-values"):
        found(tmp_path / "more", labels=tmp_path / "labels")
    # Also where it names no label at all.
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["training"] = [{"image": case["image"]} for case in description["training"]]
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(ConfigError, match=r"x\.nii\.gz is none of those.*--label-values"):
        found(tmp_path / "more", labels=tmp_path / "labels")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read.*--label-values"):
        found(tmp_path / "more", labels=tmp_path / "labels")
    assert found(tmp_path / "more", labels=tmp_path / "labels", label_ids={1: "liver"})


def test_one_label_is_for_one_scan(tmp_path):
    write(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "label.nii.gz")
    (scan,) = found(tmp_path / "images" / "a.nii.gz", labels=tmp_path / "label.nii.gz", label_ids={7: "liver"})
    assert (scan.label, scan.label_ids) == (tmp_path / "label.nii.gz", {7: "liver"})
    for labels, words in (("label.nii.gz", "one file for 2 scans"), ("nothing", "no such file")):
        with pytest.raises(ConfigError, match=words):
            find_scans([tmp_path / "images"], label_map=ABDOMEN, labels=tmp_path / labels)


def test_what_is_no_scan_is_said_and_the_rest_is_found(tmp_path):
    write(tmp_path, "a.nii.gz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset.json").write_text("{")
    write(tmp_path / "broken", "b.nii.gz")
    names = ("empty", "nowhere.nii", "picture.png", "broken", "a.nii.gz")
    scans, problems = find_scans([tmp_path / name for name in names], label_map=ABDOMEN)
    assert [scan.name for scan in scans] == ["a"]
    reasons = ("holds no .nii", "no such file or folder", "not named as a NIfTI file", "not readable as JSON")
    for problem, name, reason in zip(problems, names, reasons, strict=False):
        assert problem.file == tmp_path / name
        assert reason in problem.reason
        assert problem.todo
    assert len(problems) == 4


def test_label_values_are_pairs_or_the_name_of_a_data_set():
    assert parse_label_ids("6=liver, 1=spleen", label_map=ABDOMEN) == {0: "background", 6: "liver", 1: "spleen"}
    assert parse_label_ids("2=right kidney", label_map=ABDOMEN)[2] == "kidney_right"
    assert parse_label_ids("amos22", label_map=ABDOMEN)[10] == "pancreas"
    assert parse_label_ids("MM-WHS", label_map=WHOLE_HEART)[421] == "left_atrium"
    for text in ("liver", "6=", "x=liver", "6=brain"):
        with pytest.raises(ConfigError, match="--label-values"):
            parse_label_ids(text, label_map=ABDOMEN)
    with pytest.raises(ConfigError, match="none of the model's organs"):
        parse_label_ids("amos22", label_map=LabelMap(task="brain", organs=("hippocampus",)))
