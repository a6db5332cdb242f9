"""run.json: what is saved is what is loaded, damage is named, and the quoted means follow from the rows alone."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secfed.errors import RunFolderError
from secfed.results import CurvePoint, JobRecord, Provenance, ResultRow, RunRecord, gain, overall, ratio, score


def row(**changes: Any) -> ResultRow:
    plain = ResultRow(
        model="federated",
        training="federated",
        augmentation="gin",
        protection="masked",
        privacy="off",
        test_modality="CT",
        seen=True,
        organ="liver",
        metric="dice",
        value=0.8,
        unit="1",
        n=4,
        seed=0,
        patients_std=0.05,
    )
    return dataclasses.replace(plain, **changes)


def job(**changes: Any) -> JobRecord:
    plain = JobRecord(
        model="federated",
        training="federated",
        augmentation="gin",
        protection="masked",
        rounds=3,
        seconds=2.5,
        training_seconds=2.0,
        protection_seconds=0.25,
        exchanges=9,
        bytes_up=1000,
        bytes_down=900,
        samples_seen={"ct-1": 300, "mr-1": 100},
        passes={"ct-1": 3.0, "mr-1": 2.0},
        model_hash="ab" * 32,
        survivors_min=2,
    )
    return dataclasses.replace(plain, **changes)


def record(*rows: ResultRow, **changes: Any) -> RunRecord:
    provenance = Provenance(
        config_digest="cd" * 32,
        code_digest="ef" * 32,
        seed=0,
        versions={"torch": "2.13.0"},
        device="cpu",
        python="3.11.9",
        started="2026-01-02T03:04:05+00:00",
        seconds_total=9.5,
    )
    point = CurvePoint(model="federated", round=1, metric="train_loss", modality="all", value=1.5)
    plain = RunRecord(name="demo", provenance=provenance, jobs=(job(),), results=rows or (row(),), curves=(point,))
    return dataclasses.replace(plain, **changes)


def two_modalities(model: str, ct: float, mr: float, **changes: Any) -> list[ResultRow]:
    shared = {"model": model, "organ": "mean"} | changes
    return [row(value=ct, test_modality="CT", **shared), row(value=mr, test_modality="MR", **shared)]


def rewrite(folder: Path, change: Any) -> None:
    path = record().save(folder)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_loading_gives_back_what_was_saved(tmp_path: Path) -> None:
    saved = record(row(), row(organ="spleen", value=None), row(metric="hd95", unit="mm", value=12.0))
    saved.save(tmp_path)
    assert RunRecord.load(tmp_path) == saved


def test_a_number_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    path = record(row(value=math.nan), row(organ="spleen", value=math.inf)).save(tmp_path)
    assert [entry["value"] for entry in json.loads(path.read_text())["results"]] == [None, None]
    assert [entry.value for entry in RunRecord.load(tmp_path).results] == [None, None]


def test_numpy_scalars_are_written_as_numbers(tmp_path: Path) -> None:
    record(row(value=np.float64(0.25), n=np.int64(7))).save(tmp_path)
    (loaded,) = RunRecord.load(tmp_path).results
    assert (loaded.value, loaded.n) == (0.25, 7)


def test_a_failed_save_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = record().save(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        record(name=object()).save(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"run\.json: no such file"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1, 2", '{"name": NaN}', "[" * 100_000, "\udcff"])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunFolderError, match=r"run\.json: not a readable JSON file"):
        RunRecord.load(tmp_path)


def test_a_newer_format_is_refused_with_its_number(tmp_path: Path) -> None:
    rewrite(tmp_path, lambda tree: tree.update(format=2, surprise=True))
    with pytest.raises(RunFolderError, match="format 2, but this secfed reads up to 1"):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.pop("jobs"), "jobs is missing"),
        (lambda tree: tree["results"][0].pop("organ"), r"results\[0\]\.organ is missing"),
        (lambda tree: tree["results"][0].update(dice=1), r"results\[0\]\.dice is not a known key"),
        (lambda tree: tree["results"][0].update(value="0.8"), r"results\[0\]\.value = '0.8' is not accepted.*float"),
        (lambda tree: tree["results"][0].update(seen=1), r"results\[0\]\.seen = '1' is not accepted.*bool"),
        (lambda tree: tree["results"][0].update(n=True), r"results\[0\]\.n = 'True' is not accepted.*int"),
        (lambda tree: tree["results"][0].update(metric="iou"), r"metric = 'iou' is not accepted.*dice.*hd95"),
        (lambda tree: tree["provenance"].update(versions=[]), r"provenance\.versions = '\[\]' is not accepted"),
        (lambda tree: tree["jobs"][0]["passes"].update({"ct-1": None}), r"jobs\[0\]\.passes\.ct-1 = 'None'"),
        (lambda tree: tree["jobs"][0]["passes"].pop("ct-1"), "passes names"),
        (lambda tree: tree["results"].append(tree["results"][0]), "two rows for"),
        (lambda tree: tree.update(status="running"), "status = 'running'"),
        (lambda tree: tree.update(format="1"), "format = '1'"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path: Path, change: Any, message: str) -> None:
    rewrite(tmp_path, change)
    with pytest.raises(RunFolderError, match=message):
        RunRecord.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"'])
def test_json_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"the file = .* is not accepted"):
        RunRecord.load(tmp_path)


def test_overall_is_the_mean_of_the_modality_means() -> None:
    assert overall(record(*two_modalities("federated", 0.8, 0.6)), "federated") == pytest.approx(0.7)


def test_overall_is_none_where_a_tested_modality_has_no_value() -> None:
    rows = [*two_modalities("federated", 0.8, 0.6), row(model="centralised", organ="mean", value=0.9)]
    assert overall(record(*rows), "centralised") is None
    assert ratio(record(*rows)) is None
    assert ratio(record(*rows), modality="CT") == pytest.approx(0.8 / 0.9)


def test_ratio_divides_the_overall_means() -> None:
    rows = two_modalities("federated", 0.8, 0.6) + two_modalities("centralised", 0.9, 0.5)
    assert ratio(record(*rows)) == pytest.approx(1.0)
    assert ratio(record(*rows), modality="MR") == pytest.approx(1.2)


def test_ratio_to_a_reference_of_zero_is_none() -> None:
    rows = two_modalities("federated", 0.8, 0.6) + two_modalities("centralised", 0.0, 0.0)
    assert ratio(record(*rows)) is None


def test_gain_subtracts_and_keeps_its_sign() -> None:
    rows = two_modalities("federated", 0.8, 0.6) + two_modalities("federated_without_augmentation", 0.85, 0.2)
    assert gain(record(*rows), modality="MR") == pytest.approx(0.4)
    assert gain(record(*rows), modality="CT") == pytest.approx(-0.05)


def test_the_mean_row_stands_as_it_is_written() -> None:
    rows = [row(value=0.9), row(organ="spleen", value=0.5), row(organ="mean", value=0.72)]
    found = score(rows, model="federated", modality="CT")
    assert found is not None
    assert (found.mean, found.patients, found.patients_std) == (0.72, 4, 0.05)


def test_without_a_mean_row_the_organs_are_averaged() -> None:
    rows = [row(value=0.9, n=4), row(organ="spleen", value=0.5, n=3)]
    found = score(rows, model="federated", modality="CT")
    assert found is not None
    assert (found.mean, found.patients, found.patients_std) == (pytest.approx(0.7), 3, None)


def test_a_model_that_lacks_an_organ_gets_no_flattering_mean() -> None:
    rows = [row(value=0.9), row(organ="spleen", value=None)]
    other = [row(model="centralised", value=0.9), row(model="centralised", organ="spleen", value=0.5)]
    assert score(rows + other, model="federated", modality="CT") is None
    assert score(rows, model="federated", modality="CT") is not None  # nobody has a spleen: it is not counted


def test_seeds_are_averaged_with_their_sample_deviation() -> None:
    rows = [row(seed=seed, value=value) for seed, value in enumerate((0.7, 0.8, 0.9))]
    found = score(rows, model="federated", modality="CT", organ="liver")
    assert found is not None
    assert (found.mean, found.seeds) == (pytest.approx(0.8), 3)
    assert found.seeds_std == pytest.approx(0.1)
    assert found.patients_std is None


def test_one_seed_has_no_deviation_over_seeds() -> None:
    found = score([row()], model="federated", modality="CT", organ="liver")
    assert found is not None
    assert (found.seeds, found.seeds_std) == (1, None)


def test_an_organ_without_a_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a modality"):
        ratio(record(), organ="liver")


def test_the_share_of_protection_is_its_work_per_wall_time() -> None:
    assert job().protection_share() == pytest.approx(0.1)
    assert job(seconds=0.0).protection_share() is None


def test_effective_passes_weigh_sites_by_what_they_hold() -> None:
    # ct-1 holds 300 / 3 = 100 samples and mr-1 holds 100 / 2 = 50, so 400 draws are 400 / 150 passes.
    assert job().effective_passes() == pytest.approx(400 / 150)
    assert job(samples_seen={}, passes={}).effective_passes() is None
