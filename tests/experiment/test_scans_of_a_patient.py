"""Scores of test patients with several scans, or with scans in which not every organ was drawn."""

import pytest

from benchmarks.utility.collect import _scores
from secfed.config import RunConfig
from secfed.data.cases import ABDOMEN
from secfed.experiment.evaluation import CaseResult, rows
from secfed.experiment.plans import job_specs
from secfed.results import MEAN

CONFIG = RunConfig.model_validate(
    {
        "sites": [
            {"name": name, "modality": "CT", "phantom": {"protocol": "ct-portal", "train": 2}} for name in ("a", "b")
        ],
        "test": [{"name": "t", "phantom": {"protocol": "ct-portal", "test": 2}}],
    }
)


def result(patient: str, organ: str, dice: float | None) -> CaseResult:
    return CaseResult(test_set="t", patient=patient, modality="CT", organ=organ, dice=dice, hd95_mm=None)


# Anna has two scans, and only one of them has the spleen drawn; Bert has one, without it.
RESULTS = [
    result("anna", "liver", 0.9),
    result("anna", "spleen", 0.6),
    result("anna", "liver", 0.7),
    result("bert", "liver", 0.5),
]


def test_a_patient_counts_once_however_many_scans_there_are():
    [spec, *_] = job_specs(CONFIG)
    found = {row.organ: row for row in rows(spec, RESULTS, seed=0, labels=ABDOMEN) if row.metric == "dice"}
    assert (found["liver"].value, found["liver"].n) == (pytest.approx((0.8 + 0.5) / 2), 2)
    assert (found["spleen"].value, found["spleen"].n) == (pytest.approx(0.6), 1)
    assert (found["aorta"].value, found["aorta"].n) == (None, 0)
    assert found[MEAN].value == pytest.approx((0.65 + 0.6) / 2)


def test_a_study_leaves_undefined_what_was_not_drawn():
    [scores] = _scores(RESULTS)
    assert scores.patients == ("t/anna", "t/bert")
    assert scores.dice == {"liver": (0.8, 0.5), "spleen": (0.6, None)}
    assert scores.hd95_mm == {"liver": (None, None), "spleen": (None, None)}
