"""Where normalisation layers are not everybody's, a test scan passes those of its modality, or the average of all."""

import dataclasses

import numpy as np
import pytest
from small_federation import SITES, config, provision, train

from aggregator.folder import AggregatorFolder
from clients.own_layers import KeptLayers
from clients.site import Site
from secfed.audit.verify import verify_run
from secfed.config import EvaluationConfig
from secfed.errors import RunFolderError
from secfed.experiment import evaluation
from secfed.experiment.evaluation import evaluate_job
from secfed.experiment.final_model import final_state
from secfed.experiment.final_networks import final_networks
from secfed.experiment.job_process import MODEL
from secfed.experiment.plans import job_specs
from secfed.experiment.run_folder import RunFolder
from secfed.modality_sets import positions_of, set_positions
from secfed.network import own_layout
from secfed.parameters import load_vector, save_vector

BY_MODALITY, ON_AVERAGE = EvaluationConfig(), EvaluationConfig(local_normalisation="average")
MODALITIES = {"CT": ["ct-a", "ct-b"], "MR": ["mr-a", "mr-b"]}


@dataclasses.dataclass
class Trained:
    job: object
    spec: object
    config: object
    folder: object

    @property
    def layout(self):
        return AggregatorFolder(self.job.aggregator_folder).initial_model()[1]

    @property
    def result(self):
        return final_state(self.job)[0].result

    @property
    def own(self):
        own = own_layout(self.job.plan, self.layout)
        return positions_of(self.layout, {spec.name for spec in own.tensors})

    def networks(self):
        return final_networks(self.job, self.spec, self.result, self.layout)

    def kept(self):
        found = {}
        for name, folder in zip(self.job.site_names, self.job.site_folders, strict=True):
            layers = KeptLayers.of(Site(folder), self.job.plan, self.layout, run=self.job.plan.digest())
            found[name] = layers.newest(before=99).astype(np.float64)
        return found


def trained(scans, folder, rule, *, kind="batch", mode="plain", model="federated", **changes):
    run_config = config(
        scans,
        model={"normalisation": kind},
        federation={"normalisation": rule, "rounds": 2},
        training={"optimizer_state": "average", "steps_per_round": 1},
        protection={"mode": mode},
        **changes,
    )
    job = provision(folder, run_config, model=model)
    train(job)
    spec = next(spec for spec in job_specs(run_config) if spec.model == model)
    return Trained(job, spec, run_config, folder)


def test_layers_of_everybody_are_passed_by_every_scan(scans, tmp_path):
    run = trained(scans, tmp_path, "shared")
    networks = run.networks()
    assert networks.of_modality == {}
    for modality in MODALITIES:
        np.testing.assert_array_equal(networks.for_scan(modality, BY_MODALITY), run.result)


@pytest.mark.parametrize(("kind", "rule"), [("batch", "fedbn"), ("instance", "fedbn"), ("batch", "silobn")])
def test_a_scan_passes_the_mean_of_the_layers_of_its_modality_s_sites(scans, tmp_path, kind, rule):
    run = trained(scans, tmp_path, rule, kind=kind)
    networks, kept, own = run.networks(), run.kept(), run.own
    others = np.setdiff1d(np.arange(run.layout.shared_size), own)
    for modality, sites in MODALITIES.items():
        found = networks.for_scan(modality, BY_MODALITY)
        np.testing.assert_allclose(found[own], np.mean([kept[site] for site in sites], axis=0), rtol=1e-6)
        np.testing.assert_array_equal(found[others], run.result[others])
    everybody = np.mean([kept[site] for site in SITES], axis=0)
    for found in (networks.average, networks.for_scan("PET", BY_MODALITY), networks.for_scan("CT", ON_AVERAGE)):
        np.testing.assert_allclose(found[own], everybody, rtol=1e-6)
    assert not np.array_equal(networks.for_scan("CT", BY_MODALITY), networks.for_scan("MR", BY_MODALITY))


def test_of_fednorm_a_scan_passes_its_modality_s_set(scans, tmp_path):
    run = trained(scans, tmp_path, "fednorm")
    networks, layout = run.networks(), run.layout
    sets = {modality: run.result[layout.set_of(modality)] for modality in MODALITIES}
    for modality in MODALITIES:
        found = networks.for_scan(modality, BY_MODALITY)
        np.testing.assert_array_equal(found[set_positions(layout)], sets[modality])
    mean = np.mean([sets["CT"].astype(np.float64), sets["MR"]], axis=0)
    np.testing.assert_allclose(networks.for_scan("CT", ON_AVERAGE)[set_positions(layout)], mean, rtol=1e-6)


@pytest.mark.parametrize("rule", ["fedbn", "fednorm"])
def test_a_modality_that_no_site_has_passes_the_average_of_those_that_were_there(scans, tmp_path, rule):
    """A set that nobody trained is no part of it."""
    run = trained(scans, tmp_path, rule, model="modality:CT", references=["single_modality"])
    networks = run.networks()
    assert list(networks.of_modality) == ["CT"]
    np.testing.assert_array_equal(networks.for_scan("MR", BY_MODALITY), networks.average)
    np.testing.assert_array_equal(networks.average, networks.of_modality["CT"])


def test_a_run_whose_layers_are_gone_is_not_tested_with_others(scans, tmp_path):
    run = trained(scans, tmp_path, "fedbn")
    for path in run.job.folder.rglob("normalisation/*/*.safetensors"):
        path.unlink()
    with pytest.raises(RunFolderError, match="no site has normalisation layers"):
        run.networks()


@pytest.mark.parametrize("mode", ["plain", "encrypted"])
@pytest.mark.parametrize("rule", ["fedbn", "fednorm"])
def test_the_test_loads_what_each_scan_passes_and_saves_it(scans, tmp_path, monkeypatch, rule, mode):
    run = trained(scans, tmp_path, rule, mode=mode)
    loaded, honest = [], evaluation.load_flat

    def watch(model, vector, layout):
        loaded.append(np.array(vector))
        honest(model, vector, layout)

    monkeypatch.setattr(evaluation, "load_flat", watch)
    results = evaluate_job(run.job, run.spec, run.config, run=RunFolder(run.folder))
    assert [result.modality for result in results][:1] == ["CT"]
    networks, size = run.networks(), run.layout.model_size
    np.testing.assert_array_equal(loaded[0], networks.of_modality["CT"][:size])
    np.testing.assert_array_equal(loaded[1], networks.of_modality["MR"][:size])
    for name, network in {
        MODEL: networks.average,
        "model-ct.safetensors": networks.of_modality["CT"],
        "model-mr.safetensors": networks.of_modality["MR"],
    }.items():
        saved, layout, metadata = load_vector(run.job.folder / name)
        assert layout == run.layout.model_layout()
        np.testing.assert_array_equal(saved, network[:size])
        assert metadata.get("modality", "") == ("" if name == MODEL else name[6:8].upper())
    on_average = run.config.model_copy(update={"evaluation": ON_AVERAGE})
    loaded.clear()
    evaluate_job(run.job, run.spec, on_average, run=RunFolder(run.folder))
    assert len(loaded) == 1


def proved_and_failed(run):
    report = verify_run(run.folder)
    [verdict] = report.verdicts
    about = [finding for finding in verdict.findings if finding.where.startswith("model")]
    return {(finding.where, finding.status) for finding in about}


def change(path, index):
    vector, layout, metadata = load_vector(path)
    vector[index] += 1
    save_vector(path, vector, layout, metadata)


def test_an_audit_proves_every_model_file_of_fednorm(scans, tmp_path):
    run = trained(scans, tmp_path, "fednorm", mode="masked")
    evaluate_job(run.job, run.spec, run.config, run=RunFolder(run.folder))
    files = [MODEL, "model-ct.safetensors", "model-mr.safetensors"]
    assert proved_and_failed(run) == {(name, "proved") for name in files}
    change(run.job.folder / "model-mr.safetensors", set_positions(run.layout)[0])
    assert ("model-mr.safetensors", "failed") in proved_and_failed(run)


def test_an_audit_proves_what_is_shared_of_a_model_and_says_what_only_sites_know(scans, tmp_path):
    run = trained(scans, tmp_path, "fedbn", mode="masked")
    evaluate_job(run.job, run.spec, run.config, run=RunFolder(run.folder))
    files = [MODEL, "model-ct.safetensors", "model-mr.safetensors"]
    expected = {(name, status) for name in files for status in ("proved", "unchecked")}
    assert proved_and_failed(run) == expected
    change(run.job.folder / MODEL, run.own[0])
    assert proved_and_failed(run) == expected
    shared = np.setdiff1d(np.arange(run.layout.model_size), run.own)
    change(run.job.folder / MODEL, shared[0])
    assert (MODEL, "failed") in proved_and_failed(run)
