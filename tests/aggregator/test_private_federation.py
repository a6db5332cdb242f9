"""Federations under differential privacy: one model under every protection, planned noise, and no sum without it."""

import json

import numpy as np
import pytest
import torch
from private_runs import CLIP, PATIENTS, SIGMA, charges_of, initial, one_site, private_config, site_folder
from small_federation import Faults, config, digest, journal, last_state, provision, site_log, train
from torch.nn.functional import cross_entropy, softmax

from clients.patient_training import _Views
from clients.patients import patients_of
from clients.site import Site
from privacy.patient_sampling import poisson_lot
from secfed.audit.verify import verify_run
from secfed.data.cases import ABDOMEN
from secfed.errors import RoundAborted
from secfed.experiment.plans import job_specs
from secfed.model import load_flat
from secfed.network import build_network
from secfed.site_config import load_site_file, save_site_file

MODES = ("off", "clip_only", "local", "distributed", "silo")
ALL = sum(PATIENTS.values())
CLEAN = {"augmentation": {"method": "none", "affine": {"probability": 0.0}}}


class JumpingClock:
    """Time passes only while somebody waits."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def trained(folder, run_config, **taps):
    job = provision(folder, run_config)
    train(job, **taps)
    return job


def released(job):
    """What the sites let out in the last two rounds, by site."""
    return {
        folder.name: sorted(path.read_bytes() for path in (folder / "state" / "releases").glob("*.u32"))
        for folder in job.site_folders
    }


@pytest.mark.parametrize("mode", MODES)
def test_every_protection_has_the_same_integers_and_one_model(scans, tmp_path, mode):
    jobs = {
        protection: trained(tmp_path / protection, private_config(scans, mode, protection=protection))
        for protection in ("plain", "masked", "encrypted")
    }
    assert len({digest(job) for job in jobs.values()}) == 1
    integers = [released(job) for job in jobs.values()]
    assert integers[0] == integers[1] == integers[2]
    assert all(len(found) == (0 if mode == "off" else 2) for found in integers[0].values())
    audited = verify_run(jobs["masked"].aggregator_folder, anchor=None, receipts=(), progress=lambda: None)
    assert audited.verified


def test_a_run_without_privacy_is_what_it_was(scans, tmp_path, monkeypatch):
    # Nothing of privacy's is called, and nothing written.
    monkeypatch.setattr("clients.private_contribution.contribute_privately", None)
    monkeypatch.setattr("clients.private_contribution.require_affordable", None)
    models = [
        trained(tmp_path / name, config(scans, **tables))
        for name, tables in (("without", {}), ("off", {"privacy": {"mode": "off"}}))
    ]
    assert digest(models[0]) == digest(models[1])
    for job in models:
        for folder in job.site_folders:
            assert not (folder / "ledgers").exists()
            assert not (folder / "state" / "releases").exists()
            assert not (folder / "books" / "budget.jsonl").exists()


def slow_gradient(network, images, labels):
    """Gradient of soft Dice plus cross entropy over one patient's views, from their definitions, clipped."""
    network.zero_grad()
    logits = network(images).double()
    total = cross_entropy(logits, labels)
    shares = softmax(logits, dim=1)
    dice = []
    for organ in range(1, logits.shape[1]):
        truth = (labels == organ).double()
        dice.append((2 * (shares[:, organ] * truth).sum() + 1) / (shares[:, organ].sum() + truth.sum() + 1))
    torch.autograd.backward(total + 1 - torch.stack(dice).mean())
    gradient = np.concatenate([p.grad.double().flatten().numpy() for p in network.parameters() if p.requires_grad])
    return gradient * min(1.0, CLIP / np.linalg.norm(gradient))


def test_the_step_is_the_mean_of_clipped_gradients_over_the_expected_patients(scans, tmp_path, monkeypatch):
    lots = {}

    def remember(patients, sampling_prob, stream):
        lots[len(lots)] = poisson_lot(patients, sampling_prob, stream)
        return lots[len(lots) - 1]

    monkeypatch.setattr("clients.private_contribution.poisson_lot", remember)
    run_config = private_config(scans, "distributed", rounds=1, privacy={"noise_multiplier": 1e-4}, **CLEAN)
    job = trained(tmp_path, run_config)
    start, layout = initial(job)
    network = build_network(job.plan, num_classes=ABDOMEN.num_classes).train()
    load_flat(network, start, layout)
    total = np.zeros(layout.num_parameters)
    for index, folder in enumerate(job.site_folders):
        patients = patients_of(Site(folder).cases(job.plan).sources, job.plan)
        assert len(patients) == PATIENTS[folder.name]
        for chosen in lots[index]:
            images, labels = _Views(job.plan, patients[chosen], 1, 0, torch.device("cpu"))()
            total += slow_gradient(network, images, labels)
    assert 0 < sum(map(len, lots.values())) < ALL
    moved = last_state(job).model.astype(np.float64) - start
    expected = -total / (job.plan.privacy.sampling_prob * ALL)
    assert np.linalg.norm(expected) > 1e-3
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())


def noise_of_a_round(tmp_path, scans, **privacy):
    """The noise on the sum of clipped gradients over all sites: a noisy step less the same step almost without."""
    steps = []
    for name, sigma in (("noisy", SIGMA), ("bare", 1e-4)):
        settings = {"sampling_prob": 1.0, "noise_multiplier": sigma, **privacy}
        job = trained(tmp_path / name, private_config(scans, "distributed", rounds=1, privacy=settings))
        steps.append(last_state(job).model.astype(np.float64) - initial(job)[0])
    return (steps[0] - steps[1]) * ALL


def is_standard_deviation(noise, sigma):
    """Whether the chi-square statistic of so many entries lies within five of its standard deviations."""
    entries = len(noise)
    return abs(np.sum((noise / sigma) ** 2) - entries) < 5 * np.sqrt(2 * entries)


@pytest.mark.parametrize(
    ("privacy", "planned"),
    [({}, SIGMA * CLIP), ({"max_dropouts": 1, "max_colluders": 1}, SIGMA * CLIP * np.sqrt(4 / 2))],
    ids=["nobody-missing", "one-missing-one-colluding"],
)
def test_the_noise_on_the_sum_is_what_was_planned(scans, tmp_path, privacy, planned):
    noise = noise_of_a_round(tmp_path, scans, **privacy)
    assert is_standard_deviation(noise, planned)
    assert abs(noise.mean()) < 5 * planned / np.sqrt(len(noise))
    # The test tells wrong scales apart.
    assert not is_standard_deviation(noise, planned * 2 / 3)
    assert not is_standard_deviation(noise, planned * 3 / 2)


@pytest.mark.parametrize("mode", ["local", "distributed", "silo"])
def test_what_is_frozen_gets_no_noise_and_never_moves(scans, tmp_path, mode):
    job = trained(tmp_path, private_config(scans, mode, privacy={"trainable": "head"}))
    start, layout = initial(job)
    moved = last_state(job).model - start
    names = [spec.name for spec, _ in layout.slices()]
    head = next(name for name in reversed(names) if name.endswith("weight")).removesuffix("weight")
    for spec, place in layout.slices():
        still = np.count_nonzero(moved[place]) == 0
        assert still != spec.name.startswith(head), spec.name
    for data in released(job)["ct-a"]:
        words = np.frombuffer(data, "<u4")[: layout.num_parameters]
        frozen = np.concatenate([words[place] for spec, place in layout.slices() if not spec.name.startswith(head)])
        assert not frozen.any()


@pytest.mark.parametrize(
    ("protection", "aggregator_asks_for"),
    [("masked", 4), ("encrypted", 4), ("masked", 2)],
    ids=["masked", "encrypted", "masked-whatever-the-aggregator-asks-for"],
)
def test_too_few_survivors_open_nothing_and_the_charges_stay(
    scans, tmp_path, monkeypatch, protection, aggregator_asks_for
):
    monkeypatch.setattr("aggregator.admission.time", JumpingClock())
    job = provision(tmp_path, private_config(scans, "distributed", protection=protection))
    # The configuration forbids a smaller cohort than the noise needs; a corrupt aggregator's own plan file does not.
    if aggregator_asks_for < 4:
        monkeypatch.setattr("aggregator.summation.Session.require", lambda *args, **kwargs: None)
        for folder in job.site_folders:
            site = load_site_file(folder)
            policy = site.policy.model_copy(update={"min_cohort": 2})
            save_site_file(folder, site.model_copy(update={"policy": policy}))
    faults = Faults({("mr-a", "train"): "error"}, times=99)
    with pytest.raises(RoundAborted, match=r"round 1 failed"):
        train(job, intercept=faults.request)
    assert [entry for entry in journal(job) if entry["event"] == "round"] == []
    assert not any(kind == "query.unmask" for _, kind in faults.seen)
    for name in ("ct-a", "ct-b", "mr-b"):
        folder = site_folder(job, name)
        assert not (folder / "books" / "rounds.jsonl").exists()
        # Asked up to six times, paid once: it was the same question.
        assert [(charge.round, charge.attempt) for charge in charges_of(folder)] == [(1, 0)]
    assert charges_of(site_folder(job, "mr-a")) == []
    if aggregator_asks_for < 4:
        assert '"reason": "protocol"' in site_log(job, "ct-a")


def test_a_run_that_allows_one_dropout_survives_one_and_not_two(scans, tmp_path, monkeypatch):
    monkeypatch.setattr("aggregator.admission.time", JumpingClock())
    allowed = private_config(
        scans, "distributed", protection="masked", privacy={"max_dropouts": 1}, federation={"min_cohort": 3}
    )
    one = provision(tmp_path / "one", allowed)
    train(one, intercept=Faults({("mr-a", "train"): "error"}, times=99).request)
    assert last_state(one).completed == 2
    two = provision(tmp_path / "two", allowed)
    with pytest.raises(RoundAborted):
        train(two, intercept=Faults({("mr-a", "train"): "error", ("ct-b", "train"): "error"}, times=99).request)


def test_sites_need_the_whole_noise_and_the_same_survivors_whatever_their_policy_says(scans, tmp_path):
    job = provision(tmp_path, private_config(scans, "distributed", protection="masked"))
    site = Site(site_folder(job, "ct-a"))
    lax = site.file.policy.model_copy(update={"second_sum": "any"})
    save_site_file(site.folder, site.file.model_copy(update={"policy": lax}))
    lax_site = Site(site.folder)
    _, private, _ = one_site(tmp_path / "private", private_config(scans, "distributed", protection="masked"))
    _, local, _ = one_site(tmp_path / "local", private_config(scans, "local", protection="masked"))
    assert lax_site.floors(private).second_sum == "same survivors"
    assert lax_site.floors(private).min_cohort == 4
    assert lax_site.floors(local).second_sum == "any"


def test_the_run_stops_with_the_word_budget_when_a_site_s_cap_is_reached(scans, tmp_path, monkeypatch):
    monkeypatch.setattr("aggregator.admission.time", JumpingClock())
    job = provision(tmp_path, private_config(scans, "distributed", protection="masked", rounds=3))
    folder = site_folder(job, "ct-b")
    site = load_site_file(folder)
    save_site_file(folder, site.model_copy(update={"policy": site.policy.model_copy(update={"max_epsilon": 6.0})}))
    with pytest.raises(RoundAborted, match=r"round 3 failed.*ct-b: refused: budget"):
        train(job)
    assert '"rounds_that_fit": 2' in site_log(job, "ct-b")
    assert "0 more rounds of this kind fit" in site_log(job, "ct-b")
    assert last_state(job).completed == 2
    assert [charge.round for charge in charges_of(folder)] == [1, 2]
    # A site whose budget holds no round does not join another run at all.
    faults = Faults({})
    with pytest.raises(RoundAborted, match=r"3 sites answered stage 'join'.*refused: budget"):
        train(job, intercept=faults.request)
    assert ("ct-b", "train") not in faults.seen


@pytest.mark.parametrize("protection", ["masked", "encrypted"])
def test_a_run_that_is_killed_in_a_round_ends_on_the_same_model_at_the_same_price(scans, tmp_path, protection):
    # The target is the cap: there is nothing to spare for a round that is charged twice.
    run_config = private_config(
        scans, "distributed", protection=protection, privacy={"noise_multiplier": None, "epsilon": 8.0}
    )
    whole = trained(tmp_path / "whole", run_config)
    job = provision(tmp_path / "killed", run_config)

    class Stopped(Exception):  # noqa: N818 - an event of the test
        pass

    def stop(node, reply):
        if node == 1001 and reply.metadata.message_type == "train":
            raise Stopped
        return reply

    with pytest.raises(Stopped):
        train(job, intercept_reply=stop)
    train(job)
    assert digest(job) == digest(whole)
    for folder in job.site_folders:
        assert load_site_file(folder).policy.max_epsilon == 8.0
        if protection == "masked":
            assert [(charge.round, charge.attempt) for charge in charges_of(folder)] == [(1, 0), (2, 0)]


def test_the_same_plan_run_again_is_paid_for_again(scans, tmp_path):
    job = provision(tmp_path, private_config(scans, "distributed", rounds=3))
    models = []
    for _ in range(2):
        for name in ("checkpoints", "journal.jsonl"):
            path = job.aggregator_folder / name
            if path.is_dir():
                for checkpoint in path.iterdir():
                    checkpoint.unlink()
            path.exists() and path.is_file() and path.unlink()
        train(job)
        models.append(digest(job))
    # The noise of a simulation is seeded, so the model repeats itself; what it cost does so too.
    assert models[0] == models[1]
    charges = charges_of(site_folder(job, "ct-a"))
    assert sorted((charge.round, charge.attempt) for charge in charges) == [(r, a) for r in (1, 2, 3) for a in (0, 1)]


@pytest.mark.parametrize("protection", ["masked", "encrypted"])
def test_a_guarantee_sends_no_score_and_journals_none(scans, tmp_path, protection):
    said = []
    job = trained(
        tmp_path,
        private_config(scans, "distributed", protection=protection),
        intercept_reply=lambda node, reply: said.append(reply) or reply,
    )
    assert all(entry.get("metrics", {}) == {} for entry in journal(job))
    for folder in job.site_folders:
        books = folder / "books" / "rounds.jsonl"
        for line in books.read_text().splitlines() if books.exists() else ():
            assert json.loads(line)["metrics"] == {}
    headers = b"".join(
        part for reply in said for part in (reply.content["secfed"]["header"], *reply.content["secfed"]["payloads"])
    )
    words = ("loss", "dice", "epsilon", "samples", "patients", "noise", "clip", "amos_", "ledger", "charge")
    assert [word for word in words if word.encode() in headers] == []
    assert b"mr-a" in headers
    # A site that samples nobody sends as much as one that samples everybody.
    uploads = [reply.content for reply in said if reply.metadata.message_type == "train"]
    assert len(uploads) == 8
    assert len({sum(record.count_bytes() for record in upload.values()) for upload in uploads}) == 1


def test_references_keep_the_protection_that_the_noise_is_priced_under(scans):
    specs = {
        spec.model: spec.plan
        for spec in job_specs(
            private_config(
                scans, "distributed", protection="masked", references=["without_augmentation", "centralised"]
            )
        )
    }
    assert specs["federated_without_augmentation"].protection.mode == "masked"
    assert specs["federated_without_augmentation"].privacy == specs["federated"].privacy
    assert specs["centralised"].protection.mode == "plain"
    assert specs["centralised"].privacy.mode == "off"
