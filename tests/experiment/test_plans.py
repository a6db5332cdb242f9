"""Jobs of a run: references see as many samples as the federation, and nothing that depends on protection."""

import json
from collections import Counter

import numpy as np
import pytest
from small_federation import config, digest, journal, provision, train

import clients.training
from clients.site import Site
from clients.training import steps_for
from secfed.data.cases import ABDOMEN
from secfed.data.sampling import PatchSampler
from secfed.errors import RunFolderError
from secfed.experiment.evaluation import evaluate_job, rows
from secfed.experiment.job_process import JobOrder
from secfed.experiment.plans import CENTRALISED_CLIP_NORM, job_specs
from secfed.experiment.run_folder import RunFolder, load_resolved_config, resolved_toml
from secfed.experiment.scheduler import waves

REFERENCES = ["centralised", "without_augmentation", "single_site", "single_modality"]
SITES = ("ct-a", "ct-b", "mr-a", "mr-b")


def test_every_reference_becomes_its_jobs(scans):
    specs = {spec.model: spec for spec in job_specs(config(scans, references=REFERENCES))}
    assert list(specs) == [
        "federated",
        "centralised",
        "federated_without_augmentation",
        *(f"site:{name}" for name in SITES),
        "modality:CT",
        "modality:MR",
    ]
    assert specs["federated"].plan.protection.mode == "masked"
    assert specs["federated_without_augmentation"].plan.protection.mode == "plain"
    assert specs["federated_without_augmentation"].plan.augmentation.method == "none"
    assert list(specs["modality:CT"].participants) == ["ct-a", "ct-b"]
    assert specs["modality:CT"].modalities == {"CT"}
    assert [site.name for site in specs["centralised"].participants["centralised"]] == list(SITES)
    for model in ("centralised", "site:ct-a", "modality:MR"):
        assert specs[model].plan.protection.mode == "plain"
    # What is plain training takes the model back as it came, and feels no clip.
    federation = specs["centralised"].plan.federation
    assert (federation.server_optimizer, federation.server_learning_rate) == ("fedavg", 1.0)
    assert federation.clip_norm == CENTRALISED_CLIP_NORM


@pytest.mark.parametrize("training", [{"steps_per_round": 3}, {"passes_per_round": 0.6}], ids=["steps", "passes"])
def test_centralised_training_draws_as_many_samples_of_each_site_as_the_federation(
    scans, tmp_path, monkeypatch, training
):
    draws = {"federated": Counter(), "centralised": Counter()}
    draw, make, owners = PatchSampler.draw, clients.training._sampler, {}

    def count(self, generator):
        draws[model][owners[self]] += 1
        return draw(self, generator)

    def owned(source, *arguments, **more):
        sampler = make(source, *arguments, **more)
        owners[sampler] = source.site
        return sampler

    monkeypatch.setattr(PatchSampler, "draw", count)
    monkeypatch.setattr(clients.training, "_sampler", owned)
    run_config = config(scans, references=["centralised"], training=training)
    for model in draws:
        train(provision(tmp_path, run_config, model=model))
    assert set(draws["federated"]) == set(SITES)
    assert draws["centralised"] == draws["federated"]


def test_each_site_alone_trains_on_its_own_scans_only(scans, tmp_path):
    run_config = config(scans, references=["single_site"])
    job = provision(tmp_path, run_config, model="site:mr-a")
    train(job)
    assert job.site_names == ("mr-a",)
    assert not (job.aggregator_folder / "roster.cbor").exists()
    assert [entry["survivors"] for entry in journal(job)] == [["mr-a"], ["mr-a"]]
    sources = Site(job.site_folders[0]).cases(job.plan).sources
    assert [source.site for source in sources] == ["mr-a"]
    assert {case.source.parts[-3] for case in sources[0].cases} == {"mr-a"}


def test_provisioning_again_changes_nothing(scans, tmp_path):
    first = provision(tmp_path, config(scans))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert provision(tmp_path, config(scans)) == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_provisioning_that_was_cut_short_is_made_whole(scans, tmp_path):
    undisturbed = provision(tmp_path / "a", config(scans))
    train(undisturbed)
    job = provision(tmp_path / "b", config(scans))
    identity = (job.site_folders[0] / "identity.key").read_bytes()
    (job.folder / "ready.json").unlink()
    (job.aggregator_folder / "initial.safetensors").unlink()
    (job.site_folders[3] / "identity.key").unlink()
    assert provision(tmp_path / "b", config(scans)) == job
    assert (job.site_folders[0] / "identity.key").read_bytes() == identity
    train(job)
    assert digest(job) == digest(undisturbed)


def test_a_finished_job_is_tested_on_every_patient_and_organ(scans, tmp_path):
    run_config = config(scans)
    run, (spec,) = RunFolder(tmp_path), job_specs(run_config)
    job = provision(tmp_path, run_config)
    with pytest.raises(RunFolderError, match="has not completed a round"):
        evaluate_job(job, spec, run_config, run=run)
    train(job)
    scores = evaluate_job(job, spec, run_config, run=run)
    assert Counter(score.test_set for score in scores) == {"test-ct": 8, "test-mr": 8}
    made = rows(spec, scores, seed=3, labels=ABDOMEN)
    assert len(made) == 2 * 2 * 9
    for modality in ("CT", "MR"):
        dice = [s.dice for s in scores if s.modality == modality and s.dice is not None]
        (mean,) = [r for r in made if (r.test_modality, r.organ, r.metric) == (modality, "mean", "dice")]
        assert mean.value == pytest.approx(np.mean(dice))
        assert mean.n == 1
    samples = steps_for(Site(job.site_folders[1]).cases(job.plan).sources[0], job.plan.training) * 2 * 2

    noted = json.loads((job.folder / "samples.json").read_text())
    assert noted["sources"]["ct-b"]["samples"] == samples
    assert noted["model_hash"] == digest(job)


def order(model):
    return JobOrder(run_folder=None, config=None, model=model, engine="in_process", workers=0)


@pytest.mark.parametrize(
    ("jobs", "cores", "expected"),
    [
        (1, 1, [(1, 1)]),
        (1, 4, [(1, 4)]),
        (3, 2, [(2, 1), (1, 2)]),
        (4, 4, [(4, 1)]),
        (5, 4, [(4, 1), (1, 4)]),
        (2, 8, [(2, 4)]),
        (3, 8, [(3, 2)]),
        (0, 2, []),
    ],
)
def test_jobs_run_in_waves_that_share_the_cores(jobs, cores, expected):
    orders = [order(f"job-{index}") for index in range(jobs)]
    found = waves(orders, cores=cores)
    assert [(len(wave), wave[0].workers) for wave in found] == expected
    assert [one.model for wave in found for one in wave] == [one.model for one in orders]


def test_a_resolved_configuration_reads_back_as_the_same(scans, tmp_path):
    run_config = config(scans, references=REFERENCES, training={"class_weights": [0.5] * 9})
    (tmp_path / "config.toml").write_text(resolved_toml(run_config))
    assert load_resolved_config(tmp_path / "config.toml") == run_config
