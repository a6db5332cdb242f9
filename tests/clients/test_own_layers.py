"""FedBN, SiloBN and FedNorm: what stays at a site, what leaves it, and what a round starts from."""

import threading
from collections import defaultdict

import numpy as np
import pytest
from scripted_faults import JumpingClock
from small_federation import SITES, Faults, config, digest, provision, site_log, train, tree

import clients.contribution
from aggregator.folder import AggregatorFolder
from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.export import export_model
from clients.own_layers import FOLDER, KeptLayers, modality_of
from clients.round_files import RoundFiles
from clients.site import Site
from privacy.fixed_point import decode_sum
from secfed.checkpoint import Checkpoints
from secfed.config import parse_run_config
from secfed.errors import DataError, RunFolderError
from secfed.modality_sets import positions_of, set_positions
from secfed.network import own_layout
from secfed.parameters import load_vector, save_vector
from secfed.protected_vector import example_weight, vector_format

RULES = [("batch", "fedbn"), ("instance", "fedbn"), ("batch", "silobn")]
STATES = ["keep", "average"]


def settings(scans, kind, rule, *, optimizer_state="keep", mode="plain", rounds=2, **federation):
    return config(
        scans,
        model={"normalisation": kind},
        training={"optimizer_state": optimizer_state},
        federation={"normalisation": rule, "rounds": rounds, **federation},
        protection={"mode": mode},
    )


def layout_of(job):
    return AggregatorFolder(job.aggregator_folder).initial_model()


def own_positions(job):
    layout = layout_of(job)[1]
    return positions_of(layout, {spec.name for spec in own_layout(job.plan, layout).tensors})


def kept(job, *, after=99):
    """What every site keeps of its own, by site."""
    layout, found = layout_of(job)[1], {}
    for name, folder in zip(job.site_names, job.site_folders, strict=True):
        site, run = Site(folder), job.plan.digest()
        if job.plan.protection.mode == "encrypted":
            run = EncryptedRun.open(site, encrypted_runs(site)[0]).session.run
        found[name] = KeptLayers.of(site, job.plan, layout, run=run).newest(before=after + 1)
    return found


class Uploads:
    """What sites train and encode, by round: (TrainedRound, integers) in the order of the sites' names."""

    def __init__(self, monkeypatch):
        self.trained = defaultdict(list)
        self._lock = threading.Lock()
        encode, note = clients.contribution.encode_update, clients.contribution.rounding_stream
        here = threading.local()

        def stream(key, *, plan, server_round):
            here.server_round = server_round
            return note(key, plan=plan, server_round=server_round)

        def keep(trained, **rest):
            encoded = encode(trained, **rest)
            with self._lock:
                self.trained[here.server_round].append((trained, encoded.copy()))
            return encoded

        monkeypatch.setattr(clients.contribution, "encode_update", keep)
        monkeypatch.setattr(clients.contribution, "rounding_stream", stream)

    def integers(self, server_round):
        return sorted(encoded.tobytes() for _, encoded in self.trained[server_round])


@pytest.mark.parametrize("optimizer_state", STATES)
@pytest.mark.parametrize(("kind", "rule"), RULES)
def test_what_is_a_site_s_own_stays_there_and_the_rest_is_everybody_s(
    scans, tmp_path, monkeypatch, kind, rule, optimizer_state
):
    job = provision(tmp_path, settings(scans, kind, rule, optimizer_state=optimizer_state))
    seen = Uploads(monkeypatch)
    state = train(job)
    own, (initial, layout) = own_positions(job), layout_of(job)
    others = np.setdiff1d(np.arange(layout.size), own)
    # Positions of the model are positions of the upload: the delta comes first, then buffers, then moments.
    uploads = [pair for found in seen.trained.values() for pair in found]
    assert len(uploads) == 2 * len(SITES)
    for trained, encoded in uploads:
        assert not encoded[own].any()
        assert encoded[others].any()
        assert not np.array_equal(trained.weights[own], trained.start[own]), "the layers are trained all the same"
    np.testing.assert_array_equal(state.model[own], initial[own])
    assert not np.array_equal(state.model[others], initial[others])
    layers = kept(job)
    for one, other in [("ct-a", "ct-b"), ("ct-a", "mr-a"), ("mr-a", "mr-b")]:
        assert not np.array_equal(layers[one], layers[other])
    # What every site starts the second round from is one model, but for its own layers.
    starts = [trained.start for trained, _ in seen.trained[2]]
    for start in starts[1:]:
        np.testing.assert_array_equal(start[others], starts[0][others])
        assert not np.array_equal(start[own], starts[0][own])


def test_silobn_keeps_statistics_and_shares_scales_and_shifts(scans, tmp_path):
    job = provision(tmp_path, settings(scans, "batch", "silobn"))
    own = own_layout(job.plan, layout_of(job)[1])
    assert {spec.name.rpartition(".")[2] for spec in own.tensors} == {"running_mean", "running_var"}
    assert {spec.kind for spec in own.tensors} == {"buffer"}
    both = provision(tmp_path / "both", settings(scans, "batch", "fedbn"))
    names = {spec.name.rpartition(".")[2] for spec in own_layout(both.plan, layout_of(both)[1]).tensors}
    assert names == {"running_mean", "running_var", "weight", "bias"}


@pytest.mark.parametrize("optimizer_state", STATES)
@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_fednorm_is_the_weighted_mean_per_modality_worked_out_by_hand(
    scans, tmp_path, monkeypatch, kind, optimizer_state
):
    job = provision(tmp_path, settings(scans, kind, "fednorm", optimizer_state=optimizer_state, rounds=1))
    seen = Uploads(monkeypatch)
    state = train(job)
    initial, layout = layout_of(job)
    own = set_positions(layout)
    sums = {"CT": [], "MR": []}
    for trained, encoded in seen.trained[1]:
        sums[trained.modality].append(trained)
        slots = vector_format(layout, job.plan, cohort_size=len(SITES))
        other = "mr" if trained.modality == "CT" else "ct"
        assert not encoded[slots.slice_of(f"delta_{other}")].any()
        assert not encoded[slots.slice_of(f"weight_{other}")].any()
        assert not encoded[own].any(), "nobody uses the layers in the model itself"
        np.testing.assert_array_equal(trained.start[own], initial[layout.set_of(trained.modality)])
    moments = len(own) - layout.count("parameter", "CT") - layout.count("buffer", "CT")
    model = own[: len(own) - moments]
    for modality, trained in sums.items():
        assert len(trained) == 2
        weights = [one.example_weight for one in trained]
        after = np.average([one.weights for one in trained], axis=0, weights=weights)
        place = layout.set_of(modality)
        found = state.model[place][: len(model)]
        statistics = np.flatnonzero(model >= layout.num_parameters)
        affine = np.flatnonzero(model < layout.num_parameters)
        np.testing.assert_allclose(found[affine], after[model][affine], atol=2e-6)
        np.testing.assert_allclose(found[statistics], after[model][statistics], atol=1e-3)
        np.testing.assert_allclose(state.model[place][len(model) :], after[own][len(model) :], atol=2e-6)
    # Not the mean over everybody, which both modalities would share.
    assert not np.allclose(state.model[layout.set_of("CT")], state.model[layout.set_of("MR")], atol=1e-4)
    np.testing.assert_array_equal(state.model[own], initial[own])


@pytest.mark.parametrize("mode", ["masked", "encrypted"])
@pytest.mark.parametrize(("kind", "rule"), [("batch", "fednorm"), ("batch", "fedbn"), ("batch", "silobn")])
def test_protection_changes_no_bit_of_the_model_and_of_what_stays_at_sites(scans, tmp_path, kind, rule, mode):
    jobs = {}
    for each in ("plain", mode):
        found = settings(scans, kind, rule, mode=each, rounds=3, optimizer_state="average", validate_every=1)
        jobs[each] = provision(tmp_path / each, found)
        train(jobs[each])
    assert digest(jobs[mode]) == digest(jobs["plain"])
    if rule != "fednorm":
        plain, protected = kept(jobs["plain"]), kept(jobs[mode])
        for name in SITES:
            np.testing.assert_array_equal(protected[name], plain[name])


class Stopped(BaseException):
    """The coordinator's process ends here."""


@pytest.mark.parametrize("optimizer_state", STATES)
@pytest.mark.parametrize(("kind", "rule"), [*RULES, ("batch", "fednorm")])
def test_a_round_that_is_run_again_gives_the_same_integers(scans, tmp_path, monkeypatch, kind, rule, optimizer_state):
    run_config = settings(scans, kind, rule, optimizer_state=optimizer_state, rounds=3)
    undisturbed = provision(tmp_path / "undisturbed", run_config)
    train(undisturbed)
    job = provision(tmp_path / "job", run_config)
    seen = Uploads(monkeypatch)
    original = Checkpoints.save

    def stop(self, state, layout):
        if state.completed == 2:
            raise Stopped
        original(self, state, layout)

    # All sites have trained and written what they keep; the coordinator has no checkpoint of the round.
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(Stopped):
            train(job)
    first = seen.integers(2)
    seen.trained.clear()
    train(job)
    assert seen.integers(2) == first
    assert len(set(first)) == len(SITES)
    assert digest(job) == digest(undisturbed)
    if rule != "fednorm":
        for name, layers in kept(job).items():
            np.testing.assert_array_equal(layers, kept(undisturbed)[name])


def test_a_site_killed_between_training_and_sending_gives_the_same_integers(scans, tmp_path, monkeypatch):
    """Its reply never leaves; the coordinator asks again, in the same round."""
    run_config = settings(scans, "batch", "fedbn", rounds=2, min_cohort=4)
    monkeypatch.setattr("aggregator.admission.time", JumpingClock())
    undisturbed = provision(tmp_path / "undisturbed", run_config)
    train(undisturbed)
    job = provision(tmp_path / "job", run_config)
    seen = Uploads(monkeypatch)
    faults = Faults({("mr-a", "train"): "lost"}, times=1, skip=1)
    train(job, intercept_reply=faults.reply)
    assert len(seen.trained[2]) > len(SITES)
    assert len(set(seen.integers(2))) == len(SITES)
    assert digest(job) == digest(undisturbed)


def test_validation_passes_the_site_s_own_layers(scans, tmp_path, monkeypatch):
    import clients.evaluation

    job = provision(tmp_path, settings(scans, "batch", "fedbn", rounds=2, validate_every=1))
    scored, honest = [], clients.evaluation.mean_dice_by_modality

    def watch(vector, layout, cases, **rest):
        scored.append(np.array(vector))
        return honest(vector, layout, cases, **rest)

    monkeypatch.setattr(clients.evaluation, "mean_dice_by_modality", watch)
    train(job)
    own, first = own_positions(job), kept(job, after=1)
    before = [vector[own].tobytes() for vector in scored]
    assert before.count(layout_of(job)[0][own].tobytes()) == len(SITES)
    for name in SITES:
        assert before.count(first[name].tobytes()) == 1


def test_a_site_that_comes_late_starts_from_the_layers_the_run_started_from(scans, tmp_path, monkeypatch):
    job = provision(tmp_path, settings(scans, "batch", "fedbn", rounds=3))
    faults = Faults({("mr-b", "train"): "error"}, times=1)
    seen = Uploads(monkeypatch)
    train(job, intercept=faults.request)
    assert [len(seen.trained[number]) for number in (1, 2, 3)] == [3, 4, 4]
    own, initial = own_positions(job), layout_of(job)[0]
    fresh = [trained for trained, _ in seen.trained[2] if np.array_equal(trained.start[own], initial[own])]
    assert len(fresh) == 1
    assert not np.array_equal(fresh[0].start, initial)


def test_a_modality_whose_sites_all_drop_out_keeps_its_set(scans, tmp_path):
    one, two = (settings(scans, "batch", "fednorm", rounds=rounds) for rounds in (1, 2))
    before = train(provision(tmp_path / "one", one)).model
    job = provision(tmp_path / "two", two)
    faults = Faults({("mr-a", "train"): "error", ("mr-b", "train"): "error"}, times=1, skip=1)
    after = train(job, intercept=faults.request).model
    layout = layout_of(job)[1]
    assert not np.array_equal(after[layout.set_of("CT")], layout_of(job)[0][layout.set_of("CT")])
    initial = layout_of(job)[0]
    assert not np.array_equal(before[layout.set_of("MR")], initial[layout.set_of("MR")])
    # Learning rates depend on the number of rounds, so the first round is looked up in the run itself.
    checkpoints = job.aggregator_folder / "checkpoints"
    first, _, _ = load_vector(checkpoints / "round-000001.safetensors")
    second, _, _ = load_vector(checkpoints / "round-000002.safetensors")
    np.testing.assert_array_equal(second[layout.set_of("MR")], first[layout.set_of("MR")])
    assert not np.array_equal(second[layout.set_of("CT")], first[layout.set_of("CT")])


def test_a_site_with_both_modalities_has_no_set_to_train(scans, tmp_path):
    found = tree(
        scans,
        federation={"normalisation": "fednorm", "rounds": 1, "min_cohort": 3},
        protection={"mode": "plain"},
    )
    job = provision(tmp_path, parse_run_config(found))
    folder = job.site_folders[0]
    text = (folder / "site.toml").read_text()
    mixed = text + text[text.index("[[data]]") : text.index("[policy]")].replace("ct-a", "mr-a").replace("CT", "MR")
    (folder / "site.toml").write_text(mixed)
    with pytest.raises(DataError, match="trains on CT and MR"):
        modality_of(Site(folder), job.plan)
    train(job)
    assert "trains on CT and MR" in site_log(job, "ct-a")


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_a_given_model_brings_the_layers_that_sites_start_from(scans, tmp_path, monkeypatch, kind):
    earlier = provision(tmp_path / "earlier", settings(scans, kind, "shared"))
    given, layout = train(earlier).model, layout_of(earlier)[1]
    save_vector(tmp_path / "given.safetensors", given, layout, {})
    for rule in ("fedbn", "fednorm"):
        found = tree(scans, federation={"normalisation": rule, "rounds": 1}, model={"normalisation": kind})
        found |= {"start_from": str(tmp_path / "given.safetensors"), "references": ["centralised"]}
        for model in ("federated", "centralised"):
            job = provision(tmp_path / rule, parse_run_config(found), model=model)
            with monkeypatch.context() as patch:
                seen = Uploads(patch)
                train(job)
            for trained, _ in seen.trained[1]:
                np.testing.assert_array_equal(trained.start, given)


def test_the_owner_of_a_site_exports_a_model_with_the_site_s_own_layers(scans, tmp_path):
    job = provision(tmp_path / "run", settings(scans, "batch", "fedbn", mode="encrypted"))
    state = train(job)
    own, layers = own_positions(job), kept(job)
    for name, folder in zip(job.site_names, job.site_folders, strict=True):
        out = tmp_path / f"{name}.safetensors"
        export_model(Site(folder), out=out)
        vector, _, metadata = load_vector(out)
        np.testing.assert_array_equal(vector[own], layers[name])
        others = np.setdiff1d(np.arange(len(vector)), own)
        np.testing.assert_array_equal(vector[others], state.model[others])
        assert metadata["normalisation"] == f"fedbn, of site {name}"
    site = Site(job.site_folders[0])
    for path in (site.state / FOLDER).rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(RunFolderError, match="no other site has them"):
        export_model(site, out=tmp_path / "again.safetensors")


def test_the_owner_of_a_site_exports_a_model_with_its_modality_s_layers(scans, tmp_path):
    job = provision(tmp_path / "run", settings(scans, "batch", "fednorm", mode="encrypted"))
    state, layout = train(job), layout_of(job)[1]
    for name, folder in zip(job.site_names, job.site_folders, strict=True):
        out = tmp_path / f"{name}.safetensors"
        export_model(Site(folder), out=out)
        place = layout.set_of(SITES[name])
        np.testing.assert_array_equal(load_vector(out)[0][set_positions(layout)], state.model[place])


def test_kept_layers_of_another_network_are_refused(scans, tmp_path):
    job = provision(tmp_path, settings(scans, "batch", "fedbn"))
    layout = layout_of(job)[1]
    layers = KeptLayers.of(Site(job.site_folders[0]), job.plan, layout, run=bytes(32))
    save_vector(layers.files.path(1), np.zeros(layout.size, np.float32), layout, {})
    with pytest.raises(RunFolderError, match="another network"):
        layers.newest(before=2)


def test_files_of_rounds_are_found_by_number_and_pruned_on_both_sides(tmp_path):
    files = RoundFiles(tmp_path, "round")
    assert files.newest(before=9) is None
    for number in (1, 2, 999_999, 1_000_000, 7):
        files.path(number).touch()
    (tmp_path / "round-x.safetensors").touch()
    assert files.newest(before=1_000_001) == files.path(1_000_000)
    assert files.newest(before=7) == files.path(2)
    assert files.newest(before=1) is None
    files.prune(7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000007.safetensors", "round-x.safetensors"]


def test_the_sums_of_a_modality_open_to_its_weighted_sum_and_nothing_of_the_other(scans, tmp_path, monkeypatch):
    """What the aggregator of a masked run learns beside the model: the summed weight of each modality."""
    job = provision(tmp_path, settings(scans, "instance", "fednorm", rounds=1))
    seen = Uploads(monkeypatch)
    train(job)
    layout = layout_of(job)[1]
    slots = vector_format(layout, job.plan, cohort_size=len(SITES))
    total = np.sum([encoded for _, encoded in seen.trained[1]], axis=0, dtype=np.uint32)
    values = decode_sum(total, vector_format=slots)
    examples = {"ct": [1, 2], "mr": [3, 1]}
    for modality, counts in examples.items():
        expected = sum(example_weight(count, job.plan.federation) for count in counts)
        assert values[slots.slice_of(f"weight_{modality}")][0] == pytest.approx(expected, abs=1e-6)
