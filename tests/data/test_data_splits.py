"""Dealing the patients of a download: deterministic, apart from the data, and never a patient on two sides."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.data.cases import ABDOMEN, WHOLE_HEART, Case, Modality
from secfed.data.labels import AMOS22_LABELS
from secfed.data.readers import DataSet, read_data_set
from secfed.data.splits import SplitRequest, deal_patients, write_splits
from secfed.errors import ConfigError, DataError

CT, MR = Modality.CT, Modality.MR


def fake(ct: int, mr: int, *, unlabelled: int = 0) -> DataSet:
    def case(kind: str, number: int, labelled: bool) -> Case:
        name = f"{kind}_train_{number}"
        return Case(
            patient=name,
            image=Path(f"/data/{name}_image.nii.gz"),
            label=Path(f"/data/{name}_label.nii.gz") if labelled else None,
            modality=CT if kind == "ct" else MR,
        )

    cases = [case("ct", n, True) for n in range(ct)] + [case("mr", n, True) for n in range(mr)]
    cases += [case("ct", 900 + n, False) for n in range(unlabelled)]
    return DataSet(name="fake", training=tuple(cases), validation=(), test=(), label_ids={0: "background", 500: "lv"})


def names(dealt: dict[str, tuple[Case, ...]]) -> dict[str, list[str]]:
    return {folder: [case.patient for case in cases] for folder, cases in dealt.items()}


def mm_whs(folder: Path, *, ct: int, mr: int) -> Path:
    for kind, count in (("ct", ct), ("mr", mr)):
        (folder / f"{kind}_train").mkdir(parents=True)
        for number in range(1001, 1001 + count):
            for part in ("image", "label"):
                (folder / f"{kind}_train" / f"{kind}_train_{number}_{part}.nii.gz").write_text(
                    f"{kind} {number} {part}"
                )
    return folder


def amos(folder: Path, *, ct: int, mr: int) -> Path:
    entries = []
    for number in [*range(1, ct + 1), *range(501, 501 + mr)]:
        entry = {}
        for part in ("image", "label"):
            entry[part] = f"{part}sTr/amos_{number:04d}.nii.gz"
            (folder / f"{part}sTr").mkdir(parents=True, exist_ok=True)
            (folder / entry[part]).write_text(f"{number} {part}")
        entries.append(entry)
    content = {"name": "AMOS", "labels": {str(n): s for n, s in AMOS22_LABELS.items()}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@given(
    ct=st.integers(8, 40),
    mr=st.integers(8, 40),
    sites=st.integers(1, 4),
    share=st.floats(0.0, 0.4),
    seed=st.integers(0, 2**32),
)
def test_every_patient_stands_in_at_most_one_folder(ct: int, mr: int, sites: int, share: float, seed: int):
    data_set = fake(ct, mr, unlabelled=3)
    dealt = names(deal_patients(data_set, SplitRequest(sites={CT: sites, MR: sites}, test_share=share, seed=seed)))
    everybody = [patient for patients in dealt.values() for patient in patients]
    assert len(everybody) == len(set(everybody)) == ct + mr
    for kind in ("ct", "mr"):
        sizes = [len(dealt[f"{kind}-{index + 1}"]) for index in range(sites)]
        assert max(sizes) - min(sizes) <= 1
        assert all(patient.startswith(kind) for patient in dealt[f"{kind}-1"])


def test_the_deal_depends_on_seed_and_names_only():
    request = SplitRequest(sites={CT: 2, MR: 2}, test_share=0.2, seed=3)
    first = names(deal_patients(fake(20, 20), request))
    assert first == names(deal_patients(fake(20, 20), request))
    shuffled = fake(20, 20)
    backwards = DataSet(
        name="other", training=(), validation=shuffled.training[::-1], test=(), label_ids=shuffled.label_ids
    )
    assert first == names(deal_patients(backwards, request))
    other = names(deal_patients(fake(20, 20), SplitRequest(sites={CT: 2, MR: 2}, test_share=0.2, seed=4)))
    assert first["test-ct"] != other["test-ct"]


def test_one_more_patient_moves_few_others():
    """The order of those who are there does not change when somebody comes."""
    request = SplitRequest(sites={CT: 1}, test_share=0.25)
    few, more = (deal_patients(fake(count, 0), request) for count in (20, 21))
    order = [case.patient for case in (*few["test-ct"], *few["ct-1"])]
    longer = [case.patient for case in (*more["test-ct"], *more["ct-1"])]
    assert [patient for patient in longer if patient in order] == order


def test_sizes_may_be_given_and_the_rest_stays_out():
    dealt = names(deal_patients(fake(30, 20), SplitRequest(sites={CT: (10, 5), MR: (3,)}, test_share=0.2)))
    assert {folder: len(patients) for folder, patients in dealt.items()} == {
        "test-ct": 6,
        "ct-1": 10,
        "ct-2": 5,
        "test-mr": 4,
        "mr-1": 3,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": {}}, "sites names no modality"),
        ({"sites": {CT: 0}}, "sites of CT = 0: positive"),
        ({"sites": {CT: (3, 0)}}, "positive numbers"),
        ({"sites": {CT: ()}}, "positive numbers"),
        ({"test_share": 1.0}, "test_share = 1"),
        ({"test_share": -0.1}, "test_share = -0.1"),
        ({"seed": -1}, "seed = -1"),
        ({"sites": {CT: 20}}, "20 sites of CT, but 8 labelled patients"),
        ({"sites": {CT: (5, 5)}}, "ask for 10 patients, but there are 8"),
        ({"sites": {MR: 1}}, "1 sites of MR, but 0 labelled"),
        ({"validation": 4}, "validation = 4"),
    ],
)
def test_requests_that_cannot_be_are_explained(changes: dict, message: str):
    arguments = {"sites": {CT: 2}, "test_share": 0.2} | changes
    with pytest.raises(ConfigError, match=message):
        deal_patients(fake(10, 0), SplitRequest(**arguments))


def test_an_image_that_stands_twice_is_refused():
    data_set = fake(4, 0)
    twice = DataSet(
        name="twice",
        training=data_set.training,
        validation=data_set.training[:1],
        test=(),
        label_ids=data_set.label_ids,
    )
    with pytest.raises(DataError, match=r"patient ct_train_0: .*ct_train_0_image.nii.gz stands twice"):
        deal_patients(twice, SplitRequest(sites={CT: 1}, test_share=0.0))


@pytest.mark.parametrize(("make", "stem"), [(mm_whs, "_train_"), (amos, "amos_")], ids=["MM-WHS", "AMOS22"])
def test_folders_are_read_like_any_site_and_lead_to_the_original_files(tmp_path: Path, make, stem: str):
    source = make(tmp_path / "download", ct=8, mr=7)
    request = SplitRequest(sites={CT: 2, MR: 1}, test_share=0.25, validation=1)
    folders = write_splits(source, tmp_path / "splits", request)
    assert set(folders) == {"test-ct", "ct-1", "ct-2", "test-mr", "mr-1"}
    original = read_data_set(source)
    for name, folder in folders.items():
        data_set = read_data_set(folder)
        test = name.startswith("test-")
        assert bool(data_set.test) == test
        assert bool(data_set.training) != test
        assert len(data_set.validation) == (0 if test else 1)
        assert set(data_set.label_ids.values()) == set(original.label_ids.values())
        for case in (*data_set.training, *data_set.validation, *data_set.test):
            assert stem in case.patient
            assert case.modality is (CT if "ct" in name else MR)
            assert case.image.is_symlink()
            assert case.image.resolve().parent.parent == source
            assert case.label is not None
            assert case.image.read_text().split()[:-1] == case.label.read_text().split()[:-1]


def test_writing_again_changes_nothing_and_other_splits_are_refused(tmp_path: Path):
    source = mm_whs(tmp_path / "download", ct=6, mr=0)
    request = SplitRequest(sites={CT: 2}, test_share=0.2)
    first = write_splits(source, tmp_path / "splits", request)
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "splits").rglob("*")}
    assert write_splits(source, tmp_path / "splits", request) == first
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "splits").rglob("*")} == before
    with pytest.raises(DataError, match="holds something else"):
        write_splits(source, tmp_path / "splits", SplitRequest(sites={CT: 3}, test_share=0.2))


def test_a_folder_with_other_content_is_untouched(tmp_path: Path):
    source = mm_whs(tmp_path / "download", ct=4, mr=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds something else"):
        write_splits(source, tmp_path / "out", SplitRequest(sites={CT: 1}, test_share=0.25))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_changed_download_is_another_split(tmp_path: Path):
    source = mm_whs(tmp_path / "download", ct=6, mr=0)
    request = SplitRequest(sites={CT: 2}, test_share=0.2)
    write_splits(source, tmp_path / "splits", request)
    for part in ("image", "label"):
        (source / "ct_train" / f"ct_train_1001_{part}.nii.gz").unlink()
    with pytest.raises(DataError, match="holds something else"):
        write_splits(source, tmp_path / "splits", request)


def test_all_scans_of_a_patient_go_one_way_and_are_read_back_as_hers(tmp_path: Path):
    lines = ["patient,image,label,modality"]
    for number in range(8):
        for series in ("t1", "t2"):
            files = [f"{part}/{series}-{number}.nii.gz" for part in ("image", "label")]
            for file in files:
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).write_text(file)
            lines.append(f"Frau {number}/b,{files[0]},{files[1]},MR")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    (tmp_path / "labels.csv").write_text("value,organ\n1,liver\n")
    request = SplitRequest(sites={MR: 2}, test_share=0.25, validation=1)
    folders = write_splits(tmp_path / "cases.csv", tmp_path / "splits", request)
    found = {name: read_data_set(folder) for name, folder in folders.items()}
    assert {name: len(data_set.cases) for name, data_set in found.items()} == {"test-mr": 4, "mr-1": 6, "mr-2": 6}
    assert {name: len(data_set.validation) for name, data_set in found.items()} == {"test-mr": 0, "mr-1": 2, "mr-2": 2}
    patients = [{case.patient for case in data_set.cases} for data_set in found.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 8
    for data_set in found.values():
        for case in data_set.cases:
            assert case.modality is MR
            assert case.image.read_text().replace("image", "label") == case.label.read_text()
            assert case.patient == f"Frau {case.image.read_text()[-8]}/b"


def test_a_patient_with_scans_of_both_modalities_is_refused():
    one = fake(4, 4)
    shared = tuple(dataclasses.replace(case, patient=case.patient[3:]) for case in one.training)
    both = dataclasses.replace(one, training=shared)
    with pytest.raises(DataError, match="patient train_0 has scans of CT and of MRI"):
        deal_patients(both, SplitRequest(sites={CT: 1}, test_share=0.0))


def test_folders_of_masks_and_what_was_drawn_are_dealt_too(tmp_path: Path):
    for number in range(4):
        subject = tmp_path / "set" / f"s{number:04d}"
        (subject / "segmentations").mkdir(parents=True)
        (subject / "ct.nii.gz").write_text(subject.name)
        for organ in ("liver", "kidney_left", "heart_atrium_left", "aorta"):
            (subject / "segmentations" / f"{organ}.nii.gz").write_text(f"{subject.name} {organ}")
    original = read_data_set(tmp_path / "set")
    folders = write_splits(tmp_path / "set", tmp_path / "splits", SplitRequest(sites={CT: 1}, test_share=0.25))
    (case, *others) = read_data_set(folders["ct-1"]).training
    assert len(others) == 2
    assert set(case.masks) == {"liver", "kidney_left", "left_atrium", "aorta"}
    assert case.masks["left_atrium"].read_text() == f"{case.patient} heart_atrium_left"
    for label_map in (ABDOMEN, WHOLE_HEART):
        expected = original.annotated(original.training[0], label_map)
        assert read_data_set(folders["ct-1"]).annotated(case, label_map) == expected
