"""Claims follow from the cells: met where the aim is reached, missed where it is not, without data where cells lack."""

import pytest

from benchmarks.utility.claims import (
    CENTRALISED,
    CT_ONLY,
    ENCRYPTED,
    EPSILON_8,
    FEDERATED,
    GIN,
    LEAD,
    MASKED,
    MR_ONLY,
    NO_NOISE,
    NONE,
    PLAIN,
    with_claims,
)
from benchmarks.utility.headline import headline
from benchmarks.utility.rows import rows_of
from secfed.results import JobRecord, Provenance
from secfed.study.record import CellRecord, Experiment, ModalityScores, StudyRecord, Variant

PROVENANCE = Provenance(
    config_digest="0", code_digest="0", seed=0, versions={}, device="cpu", python="3.11", started="", seconds_total=1.0
)
PATIENTS = tuple(f"p{index}" for index in range(8))


def job(model_hash, passes):
    return JobRecord(
        model="federated",
        training="federated",
        augmentation="gin",
        protection="masked",
        rounds=1,
        seconds=1.0,
        training_seconds=1.0,
        protection_seconds=0.0,
        exchanges=1,
        bytes_up=1,
        bytes_down=1,
        samples_seen={"a": round(100 * passes)},
        passes={"a": passes},
        model_hash=model_hash,
    )


def scores(modality, dice):
    spread = [dice + 0.001 * (index - 3.5) for index in range(len(PATIENTS))]
    organs = ("pancreas", "gallbladder")
    return ModalityScores(
        modality=modality,
        patients=PATIENTS,
        dice={organ: tuple(spread) for organ in organs},
        hd95_mm={organ: tuple(spread) for organ in organs},
    )


def cell(key, *, ct, mr, seed=0, training="federated", model_hash="1", passes=4.0):
    return CellRecord(
        key=f"{key}/{seed}",
        task="abdomen",
        seed=seed,
        model="federated",
        training=training,
        augmentation="gin",
        normalisation="instance",
        federation="fedavg",
        sites=4,
        protection="plain",
        privacy="off",
        epsilon=None,
        delta=None,
        seen=("CT", "MR"),
        config_digest="0",
        code_digest="0",
        status="complete",
        job=job(model_hash, passes),
        scores=(scores("CT", ct), scores("MR", mr)),
    )


def study(experiment, **variants):
    """One experiment; each variant's value is keyword arguments of its cells, at two seeds."""
    cells = [cell(name, seed=seed, **given) for name, given in variants.items() if given is not None for seed in (0, 1)]
    rows = tuple(
        Variant(name=name, cells=() if given is None else tuple(f"{name}/{seed}" for seed in (0, 1)))
        for name, given in variants.items()
    )
    asked = Experiment(
        key=experiment, title="t", question="q", kind="methods", task="abdomen", reference=None, variants=rows
    )
    return with_claims(
        StudyRecord(
            name="s",
            scale="standard",
            command="c",
            generated=True,
            provenance=PROVENANCE,
            experiments=(asked,),
            cells=tuple(cells),
        )
    )


def verdicts(record):
    return [claim.met for claim in record.claims]


@pytest.mark.parametrize(("mr", "met"), [(0.58, True), (0.57, False)])
def test_the_ratio_to_centralised_is_met_from_98_percent_on(mr, met):
    centralised = {"ct": 0.6, "mr": 0.6, "training": "centralised"}
    record = study("federated", **{FEDERATED: {"ct": 0.6, "mr": mr}, CENTRALISED: centralised})
    claim = record.claims[0]
    assert claim.met is met
    assert "the same passes over the data: 4.00 and 4.00" in claim.note


def test_other_passes_are_said():
    centralised = {"ct": 0.6, "mr": 0.6, "training": "centralised", "passes": 8.0}
    record = study("federated", **{FEDERATED: {"ct": 0.6, "mr": 0.6}, CENTRALISED: centralised})
    assert "NOT the same passes" in record.claims[0].note


@pytest.mark.parametrize(("encrypted", "met"), [("1", True), ("2", False)])
def test_modes_must_end_on_one_model(encrypted, met):
    same = {"ct": 0.5, "mr": 0.5}
    record = study("protection", **{PLAIN: same, MASKED: same, ENCRYPTED: {**same, "model_hash": encrypted}})
    assert verdicts(record) == [met]
    assert f"identical at {2 if met else 0} of 2 seeds" in record.claims[0].value


@pytest.mark.parametrize(("unseen", "seen", "met"), [(0.47, 0.60, True), (0.44, 0.60, False), (0.47, 0.57, False)])
def test_the_lead_must_gain_on_the_unseen_and_keep_the_seen_modality(unseen, seen, met):
    record = study(
        "unseen", **{NONE: {"ct": 0.7, "mr": 0.1}, GIN: {"ct": 0.6, "mr": 0.3}, LEAD: {"ct": seen, "mr": unseen}}
    )
    found = next(claim for claim in record.claims if LEAD in claim.claim)
    assert found.met is met


@pytest.mark.parametrize(("none", "met"), [(0.08, True), (0.2, False)])
def test_gin_must_be_several_times_as_good_on_hard_organs(none, met):
    record = study("unseen", **{NONE: {"ct": 0.7, "mr": none}, GIN: {"ct": 0.6, "mr": 0.3}})
    found = record.claims[0]
    assert found.met is met
    assert "pancreas" in found.value


def test_both_modalities_must_gain_from_the_other_sites():
    single = {CT_ONLY: {"ct": 0.5, "mr": 0.2}, MR_ONLY: {"ct": 0.2, "mr": 0.5}}
    assert study("federated", **{FEDERATED: {"ct": 0.6, "mr": 0.6}, **single}).claims[1].met is True
    assert study("federated", **{FEDERATED: {"ct": 0.4, "mr": 0.6}, **single}).claims[1].met is False


@pytest.mark.parametrize(("mr", "met"), [(0.58, True), (0.56, False)])
def test_the_price_of_epsilon_8_is_a_share_of_the_same_set_up(mr, met):
    record = study("privacy", **{EPSILON_8: {"ct": 0.5, "mr": mr}, NO_NOISE: {"ct": 0.5, "mr": 0.6}})
    assert verdicts(record) == [met]
    assert "not a DP guarantee" in record.claims[0].note


def test_cells_that_lack_leave_the_claim_without_data_and_out_of_the_rows():
    record = study("privacy", **{EPSILON_8: None, NO_NOISE: {"ct": 0.5, "mr": 0.6}})
    assert verdicts(record) == [None]
    assert record.claims[0].value == "no data"
    assert not [row for row in rows_of(record) if row.measure.startswith("claim")]
    assert "no data" in headline(record)


def test_a_study_makes_no_claim_about_what_it_does_not_ask():
    assert len(study("protection", **{PLAIN: {"ct": 0.5, "mr": 0.5}}).claims) == 1
