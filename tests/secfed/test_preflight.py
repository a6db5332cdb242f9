"""The preflight tells the truth about a run: its range, its bytes, its quorum, and who would refuse it."""

import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from command_line import call
from hypothesis import given
from hypothesis import strategies as st
from provisioned import NAMES, make_place
from small_federation import config, journal, provision, train, tree

from privacy.errors import RangeError
from privacy.fixed_point import decode_sum, encode
from privacy.he.evaluator import CiphertextSum
from privacy.he.key_holder import GroupKey
from privacy.he.parameters import HeParameters
from privacy.streams import Keystream
from secfed import cli
from secfed.config import TrainingPlan
from secfed.errors import ConfigError, RoundAborted
from secfed.federation_config import FederationConfig
from secfed.model import initial_model, state_layout
from secfed.parameters import ParameterLayout, TensorSpec, save_vector
from secfed.preflight import rehearsal
from secfed.preflight.encryption import encryption_of, time_encryption
from secfed.preflight.quorum import Quorum
from secfed.preflight.rehearsal import rehearse
from secfed.preflight.timing import time_masking, time_training
from secfed.preflight.value_range import value_range
from secfed.protected_vector import vector_format
from secfed.provisioning.consortium import sign_next
from secfed.site_config import SiteData, SiteFile, SitePolicy, load_site_file, save_site_file

DEMO = Path(cli.__file__).parent / "configs" / "demo.toml"
TINY = ParameterLayout((TensorSpec("weight", (3,), "parameter"), TensorSpec("mean", (2,), "buffer")))


@pytest.fixture
def preflight(monkeypatch, capfd):
    """Run the command in this process without measuring: (exit code, standard output, standard error)."""

    def preflight(*arguments, columns=120):
        found = call(monkeypatch, capfd, "preflight", "--no-measure", *arguments, columns=columns)
        assert "Traceback" not in found[2]
        return found

    return preflight


@pytest.fixture
def no_rehearsal(monkeypatch):
    """For tests about something else: nothing is counted, and nothing takes time."""
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: None)


def write(folder, **changes):
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tree(Path("nowhere"), **changes)))
    return path


def sites(count):
    return [{"name": f"site-{index}", "modality": "CT", "folder": "nowhere"} for index in range(count)]


def site_folder(folder, **policy):
    data = (SiteData(name="ct-a", folder=folder, cache=folder),)
    save_site_file(folder, SiteFile(name="ct-a", data=data, policy=SitePolicy(**policy)))
    return folder


def layout_of(run_config):
    model = initial_model(run_config.model, 9, 0)
    return state_layout(model, run_config.training.optimizer_state, run_config.federation.normalisation)


# Range


@pytest.mark.usefixtures("no_rehearsal")
def test_a_hundred_sites_leave_24_bits_for_every_value_of_the_demo(preflight):
    code, out, err = preflight(DEMO, "--clients", 100, "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert (said["range"]["max_clients"], said["range"]["bits"]) == (4, 28)
    asked = said["range_asked"]
    assert (asked["max_clients"], asked["bits"], asked["can_wrap"]) == (100, 24, False)
    assert asked["worst_integer"] == 100 * asked["max_integer"] < 2**31
    assert len(asked["lines"]) == len(asked["segments"]) + 1
    assert "no wraparound" in asked["lines"][-1]


@given(
    clients=st.integers(1, 10**6),
    tail=st.integers(0, 2**31 - 1 - 10**6),
    clip_norm=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
)
def test_no_configuration_lets_all_clients_at_their_limit_and_the_noise_wrap(clients, tail, clip_norm, sign):
    plan = TrainingPlan(federation=FederationConfig(clip_norm=clip_norm))
    found = value_range(TINY, plan, max_clients=clients, noise_tail=tail)
    assert found.analysis.worst_integer <= 2**31 - 1
    # The integers themselves, from the code that sites run, with every entry at the end of its range.
    slots = vector_format(TINY, plan, cohort_size=clients)
    slots = type(slots)(segments=slots.segments, max_clients=clients, noise_tail=tail)
    extreme = sign * np.concatenate([np.full(segment.length, segment.max_abs) for segment in slots.segments])
    one = encode(extreme, vector_format=slots, rounding=Keystream(bytes(32))).view(np.int32)
    exact = [clients * int(value) + sign * tail for value in one]
    assert max(map(abs, exact)) <= 2**31 - 1
    wrapped = np.array([value % 2**32 for value in exact], np.uint32)
    quanta = np.concatenate([np.full(segment.length, slots.quantum(segment)) for segment in slots.segments])
    np.testing.assert_array_equal(decode_sum(wrapped, vector_format=slots), np.array(exact) * quanta)


@given(clients=st.integers(1, 10**5), seed=st.integers(0, 2**32 - 1))
def test_rounding_stays_below_the_error_that_is_stated(clients, seed):
    plan = TrainingPlan()
    slots = vector_format(TINY, plan, cohort_size=clients)
    delta = np.zeros(slots.length)
    delta[:3] = np.random.default_rng(seed).uniform(-1, 1, 3) * plan.federation.clip_norm
    coded = encode(delta, vector_format=slots, rounding=Keystream(seed.to_bytes(32, "big")))
    error = (decode_sum(coded, vector_format=slots) - delta)[:3] / plan.federation.clip_norm
    found = value_range(TINY, plan, max_clients=clients)
    slack = 1 + 1e-6  # the comparison itself is in floating point
    assert np.abs(error).max() <= found.entry_error * slack
    assert np.linalg.norm(error) <= found.update_error * slack


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--clients", 2**31), ["at most 2147483647 clients", "2^31"]),
        (("--noise-tail", 2**31 - 2), ["4 clients", "at most 1 clients", "a noise tail of at most 2147483643"]),
        (("--noise-tail", 2**31), ["a noise tail of at most 2147483643"]),
    ],
    ids=["clients", "tail", "tail beyond the modulus"],
)
def test_an_impossible_range_is_refused_and_what_would_do_is_said(preflight, tmp_path, options, words):
    code, out, err = preflight(write(tmp_path), *options)
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err


def test_what_an_impossible_range_is_told_would_do_does():
    with pytest.raises(ConfigError, match="at most 1 clients or a noise tail of at most 2147483643"):
        value_range(TINY, TrainingPlan(), max_clients=4, noise_tail=2**31 - 2)
    assert value_range(TINY, TrainingPlan(), max_clients=1, noise_tail=2**31 - 2).analysis.headroom == 0
    assert value_range(TINY, TrainingPlan(), max_clients=4, noise_tail=2147483643).analysis.headroom == 0


@pytest.mark.usefixtures("no_rehearsal")
def test_a_coarse_range_is_warned_of(preflight, tmp_path):
    path = write(tmp_path)
    assert "rounding" not in json.loads(preflight(path, "--json")[1])["warnings"]
    warnings = json.loads(preflight(path, "--clients", 10**7, "--json")[1])["warnings"]
    assert any("10000000 sites" in warning and "of the clip norm" in warning for warning in warnings)


# Bytes


@pytest.mark.parametrize(
    ("protection", "kind", "whose"),
    [
        ({"mode": "masked"}, "instance", "shared"),
        ({"mode": "plain"}, "instance", "shared"),
        ({"mode": "encrypted"}, "instance", "shared"),
        ({"mode": "encrypted", "scheme": "ckks"}, "instance", "shared"),
        ({"mode": "masked"}, "batch", "fednorm"),
        ({"mode": "masked"}, "batch", "silobn"),
    ],
    ids=["masked", "plain", "bfv", "ckks", "sets of modalities", "statistics that stay"],
)
def test_bytes_and_exchanges_are_those_that_a_real_run_counts(scans, tmp_path, protection, kind, whose):
    run_config = config(
        scans,
        model={"channels": [8, 16, 16], "normalisation": kind},
        training={"patch_size": [16, 16], "optimizer_state": "average"},
        federation={"rounds": 4, "normalisation": whose},
        protection=protection,
    )
    found = rehearse(run_config, layout_of(run_config))
    job = provision(tmp_path, run_config)
    train(job)
    rounds = journal(job)
    setup, first, later = len(found.setup), len(found.first_round), len(found.later_round)
    assert [entry["exchanges"] for entry in rounds[:3]] == [setup + first, later, later]
    assert found.exchanges_per_run == sum(entry["exchanges"] for entry in rounds)
    # Numbers in headers are coded in one to nine bytes, so a few bytes a message may differ.
    for counted, predicted in (("bytes_up", found.up_bytes_per_run), ("bytes_down", found.down_bytes_per_run)):
        real = sum(entry[counted] for entry in rounds) / 4
        assert predicted == pytest.approx(real, rel=0.002)
        assert predicted > 4 * 4 * layout_of(run_config).size


def test_an_encrypted_round_is_one_exchange_in_which_the_sum_before_comes_down(scans):
    encrypted = config(
        scans,
        model={"channels": [8, 16, 16]},
        training={"optimizer_state": "average"},
        protection={"mode": "encrypted"},
        federation={"rounds": 9},
    )
    found = rehearse(encrypted, layout_of(encrypted))
    slots = vector_format(layout_of(encrypted), encrypted, cohort_size=4)
    ciphertexts = HeParameters.exact(max_clients=4).chunks(slots.length)
    assert ciphertexts > 1
    assert found.vector_bytes == found.sum_bytes == pytest.approx(ciphertexts * 49152, abs=200)
    assert [len(found.setup), len(found.first_round), len(found.later_round), len(found.ending)] == [5, 1, 1, 2]
    [first], [later] = found.first_round, found.later_round
    assert first.down_bytes < found.sum_bytes < later.down_bytes
    assert later.up_bytes == pytest.approx(found.vector_bytes, abs=2000)
    assert later.down_bytes == pytest.approx(found.sum_bytes, abs=4000)
    assert found.model_bytes == 0
    assert found.exchanges_per_run == 5 + 9 + 2


def test_the_sealed_key_of_a_large_cohort_is_not_extrapolated_as_if_every_site_sent_it(monkeypatch, tmp_path):
    six = config(tmp_path, sites=sites(6), federation={"rounds": 1}, protection={"mode": "encrypted"})
    layout = layout_of(six)
    monkeypatch.setattr(rehearsal, "MOST_SITES", 5)
    monkeypatch.setattr(rehearsal, "_EXTRAPOLATED_FROM", (3, 4, 5))
    extrapolated = rehearse(six, layout)
    monkeypatch.setattr(rehearsal, "MOST_SITES", 6)
    measured = rehearse(six, layout)
    assert (extrapolated.measured_with, measured.measured_with) == ((3, 4, 5), (6,))
    for one, other in zip(extrapolated.setup, measured.setup, strict=True):
        assert one.stage == other.stage
        assert one.up_bytes == pytest.approx(other.up_bytes, rel=0.001)
        assert one.down_bytes == pytest.approx(other.down_bytes, rel=0.001)


def test_masking_takes_at_most_three_exchanges_a_round_after_the_setup_and_plain_takes_one(scans):
    masked = config(scans)
    plain = config(scans, protection={"mode": "plain"})
    found = rehearse(masked, layout_of(masked))
    assert (len(found.setup), len(found.later_round)) == (3, 3)
    assert len(found.first_round) <= 4
    found = rehearse(plain, layout_of(plain))
    assert (len(found.setup), len(found.first_round), len(found.later_round)) == (1, 1, 1)


def test_a_run_that_starts_from_a_given_model_is_rehearsed_in_miniature_too(scans, tmp_path):
    fresh = config(scans)
    layout, start = layout_of(fresh), tmp_path / "start.safetensors"
    save_vector(start, np.zeros(layout.size, np.float32)[: layout.model_size], layout.model_layout(), {})
    given = fresh.model_copy(update={"start_from": start})
    assert rehearse(given, layout).vector_bytes == rehearse(fresh, layout).vector_bytes


def test_large_cohorts_are_extrapolated_from_small_ones(monkeypatch, tmp_path):
    ten = config(tmp_path, sites=sites(10), federation={"rounds": 2})
    layout = layout_of(ten)
    extrapolated = rehearse(ten, layout)
    monkeypatch.setattr(rehearsal, "MOST_SITES", 10)
    measured = rehearse(ten, layout)
    assert (extrapolated.measured_with, measured.measured_with) == ((4, 6, 8), (10,))
    assert extrapolated.up_bytes_per_run == pytest.approx(measured.up_bytes_per_run, rel=0.01)
    assert extrapolated.down_bytes_per_run == pytest.approx(measured.down_bytes_per_run, rel=0.01)


def test_a_run_in_miniature_that_fails_says_what_the_site_said(preflight, monkeypatch, tmp_path):
    monkeypatch.setattr(rehearsal, "_invent_scans", lambda folder, task: folder / "nowhere")
    code, out, err = preflight(write(tmp_path), "--json")
    said = json.loads(out)
    assert (code, err) == (RoundAborted.exit_code, "")
    assert (said["ready"], said["bytes"]) == (False, None)
    [reason] = said["refusals"]
    assert "the run in miniature failed" in reason
    assert "nowhere: no such file" in reason


# Quorum


@pytest.mark.parametrize(
    ("count", "threshold", "dropouts", "active", "curious"),
    [(3, 3, 0, 2, 2), (4, 3, 1, 1, 2), (5, 4, 1, 2, 3), (10, 7, 3, 3, 6), (100, 67, 33, 33, 66)],
)
def test_the_quorum_is_that_of_the_threat_model(count, threshold, dropouts, active, curious):
    quorum = Quorum(sites=count, min_cohort=2, threshold=threshold)
    assert (quorum.dropouts_before_upload, quorum.dropouts_while_unmasking) == (dropouts, dropouts)
    assert (quorum.colluding_with_active, quorum.colluding_with_curious) == (active, curious)
    # n_c < 2 t - n and n_c < t, each as tight as it can be.
    assert active < 2 * threshold - count <= active + 1
    assert curious < threshold <= curious + 1


def test_min_cohort_may_ask_for_more_than_the_threshold():
    quorum = Quorum(sites=10, min_cohort=9, threshold=7)
    assert (quorum.needed, quorum.dropouts_before_upload, quorum.dropouts_while_unmasking) == (9, 1, 3)
    assert quorum.colluding_while_two_remain == 7


@pytest.mark.parametrize(
    ("count", "word"), [(2, "hides nothing"), (3, "does not hide a site"), (4, "does not hide a site"), (5, None)]
)
@pytest.mark.usefixtures("no_rehearsal")
def test_small_cohorts_are_told_what_masking_does_not_hide(preflight, tmp_path, count, word):
    code, out, _ = preflight(write(tmp_path, sites=sites(count)), "--json")
    warnings = " ".join(json.loads(out)["warnings"])
    assert code == 0
    assert (word or "") in warnings
    assert ("hide" in warnings) == (word is not None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protection": {"threshold": 2}}, ["threshold = 2 of 4 sites is refused by every site", "at least 3"]),
        ({"sites": sites(5), "protection": {"threshold": 3}}, ["threshold 3 of 5 sites, but 4 is the least"]),
        ({"sites": sites(1), "federation": {"min_cohort": 1}}, ["one site alone cannot be masked"]),
        (
            {"sites": sites(1), "federation": {"min_cohort": 1}, "protection": {"mode": "encrypted"}},
            ["one site alone cannot be encrypted"],
        ),
        (
            {"protection": {"mode": "encrypted", "threshold": 2}},
            ["threshold = 2 of 4 sites", "at least 3", "split the sites into two groups"],
        ),
        (
            {"sites": sites(1025), "protection": {"mode": "encrypted", "scheme": "ckks"}},
            ["protection.scheme = 'ckks' with 1025 sites", "at most 1024"],
        ),
        ({"federation": {"min_cohort": 1}}, ["min_cohort = 1 must be at least 2"]),
        ({"federation": {"rounds": 10_001}}, ["10001 rounds", "allows 10000"]),
        ({"training": {"class_weights": [1.0, 2.0]}}, ["class_weights has 2 numbers", "9 classes"]),
    ],
    ids=[
        *("t at most n/2", "t below the default", "one site", "one encrypted site", "encrypted t at most n/2", "CKKS"),
        *("min_cohort", "rounds", "class weights"),
    ],
)
def test_a_plan_that_sites_would_refuse_ends_with_the_configuration_s_exit_code(preflight, tmp_path, changes, words):
    code, out, err = preflight(write(tmp_path, **changes), "--json")
    said = json.loads(out)
    assert (code, err) == (2, "")
    assert (said["ready"], said["exit_code"], said["bytes"]) == (False, 2, None)
    assert all(word in " ".join(said["refusals"]) for word in words), said["refusals"]


# The site's own policy


@pytest.mark.usefixtures("no_rehearsal")
@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"min_cohort": 5}, "cohort of 4 sites is below this site's min_cohort = 5"),
        ({"min_threshold": 4}, "threshold 3 of 4 sites, but 4 is the least"),
        ({"protection": ("plain",)}, "allows only ['plain']"),
        ({"max_parameters": 10}, "allows 10"),
        ({"max_rounds": 1}, "allows 1"),
    ],
    ids=["cohort", "threshold", "protection", "parameters", "rounds"],
)
def test_a_site_that_would_refuse_is_told_so_with_exit_code_5(preflight, tmp_path, policy, words):
    path, folder = write(tmp_path), site_folder(tmp_path / "site", **policy)
    code, out, err = preflight(path, "--site", folder, "--json")
    said = json.loads(out)
    assert (code, err, said["exit_code"]) == (5, "", 5)
    assert said["site"]["takes_part"] is False
    assert words in said["site"]["refusals"][0]
    code, out, _ = preflight(path, "--site", folder, columns=200)
    assert code == 5
    assert "It would refuse" in out
    assert words in out
    assert "Ready" not in out


@pytest.mark.usefixtures("no_rehearsal")
@pytest.mark.parametrize(
    ("scheme", "policy", "words"),
    [
        ("bfv", {}, "allows only ['masked']"),
        ("ckks", {"protection": ("masked", "encrypted")}, "protection.scheme = 'ckks', but this site's policy allows"),
        ("bfv", {"protection": ("encrypted",), "encryption_schemes": ("ckks",)}, "allows only ['ckks']"),
        ("bfv", {"protection": ("encrypted",), "min_threshold": 4}, "threshold 3 of 4 sites, but 4 is the least"),
        ("bfv", {"protection": ("encrypted",)}, None),
        ("ckks", {"protection": ("encrypted",), "encryption_schemes": ("bfv", "ckks")}, None),
    ],
    ids=["by default", "ckks by default", "bfv not allowed", "threshold", "bfv allowed", "ckks allowed"],
)
def test_a_site_takes_part_in_encrypted_runs_where_its_policy_says_so(preflight, tmp_path, scheme, policy, words):
    path = write(tmp_path, protection={"mode": "encrypted", "scheme": scheme})
    folder = site_folder(tmp_path / "site", **policy)
    code, out, _ = preflight(path, "--site", folder, "--json")
    assert code == (0 if words is None else 5)
    refusals = json.loads(out)["site"]["refusals"]
    assert (refusals == []) if words is None else words in refusals[0]


@pytest.mark.usefixtures("no_rehearsal")
@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_sites_that_a_run_makes_accept_its_own_scheme(preflight, tmp_path, scheme):
    assert preflight(write(tmp_path, protection={"mode": "encrypted", "scheme": scheme}))[0] == 0


@pytest.mark.usefixtures("no_rehearsal")
def test_a_site_that_would_take_part_is_told_so(preflight, tmp_path):
    path, folder = write(tmp_path), site_folder(tmp_path / "site")
    code, out, _ = preflight(path, "--site", folder)
    assert code == 0
    assert "It would take part in this plan." in out
    assert "Ready" in out


@pytest.mark.usefixtures("no_rehearsal")
def test_what_a_site_trains_on_is_shown_and_held_against_the_plan(preflight, tmp_path):
    path, folder = write(tmp_path), site_folder(tmp_path / "site")
    plain = load_site_file(folder)

    def said(*options, **changes):
        save_site_file(folder, plain.model_copy(update=changes))
        return preflight(path, "--site", folder, *options, columns=200)

    code, out, _ = said(devices=2, compile=True, device="cpu")
    assert code == 0
    assert "It trains with device = cpu, devices = 2 and compile = true." in out
    code, out, _ = said("--json", devices=3)
    found = json.loads(out)
    assert (code, found["site"]["devices"], found["site"]["compile"]) == (5, 3, False)
    assert "devices = 3: a step of this plan has 2 images" in found["site"]["refusals"][0]
    # The machine that asks need not be the site's.
    code, out, _ = said("--json", device="cpu", devices=(0, 1))
    assert code == 0
    assert any("numbers CUDA devices" in warning for warning in json.loads(out)["warnings"])


@pytest.mark.usefixtures("no_rehearsal")
def test_a_site_that_lowered_its_floor_may_accept_what_others_refuse(preflight, tmp_path):
    path = write(tmp_path, sites=sites(5), protection={"threshold": 3})
    folder = site_folder(tmp_path / "site", min_threshold=3)
    assert preflight(path)[0] == 2
    code, out, _ = preflight(path, "--site", folder, "--json")
    said = json.loads(out)
    assert (code, said["site"]["takes_part"], said["site"]["in_run"]) == (0, True, False)
    assert any("'ct-a' is not one of this run's" in warning for warning in said["warnings"])


@pytest.mark.usefixtures("no_rehearsal")
def test_a_folder_without_a_site_file_is_named(preflight, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, out, err = preflight(write(tmp_path), "--site", folder)
        assert (code, out) == (2, "")
        assert f"{folder / 'site.toml'}: no such file" in err


# Configuration


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"federation": {"round": 3}}, ["'federation.round'", "did you mean 'rounds'?"]),
        ({"model": {"architecture": "basic_unet", "channels": [4, 8]}}, ["basic_unet", "exactly 5 levels"]),
        ({"sites": [*sites(3), {"name": "p", "modality": "CT", "phantom": {"protocol": "x-ray"}}]}, ["'x-ray'"]),
        ({"test": [{"name": "t", "phantom": {"protocol": "x-ray"}}]}, ["'t'", "'x-ray'", "ct-portal"]),
    ],
    ids=["unknown key", "channels", "site's protocol", "test set's protocol"],
)
def test_a_bad_configuration_is_named(preflight, tmp_path, changes, words):
    code, out, err = preflight(write(tmp_path, **changes))
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err


def test_a_missing_file_is_named(preflight, tmp_path):
    code, out, err = preflight(tmp_path / "nothing.toml")
    assert (code, out) == (2, "")
    assert "nothing.toml: no such file" in err


# Encryption


def extremes(found, sign):
    """Every entry of every site at the end of its range."""
    return np.full(found.entries, sign * (found.largest_sum // found.sites), np.int32).view(np.uint32)


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_what_preflight_says_of_a_scheme_holds_for_vectors_at_the_ends_of_their_range(scheme, sign):
    plan = TrainingPlan.model_validate({"protection": {"mode": "encrypted", "scheme": scheme}})
    found = encryption_of(TINY, plan, sites=3)
    key = GroupKey.generate(found.parameters)
    total = CiphertextSum.create(parameters=found.parameters, fingerprint=key.fingerprint, length=found.entries)
    names = ["a", "b", "c"]
    for name in names:
        upload = key.encrypt(extremes(found, sign), contributor=name, context=b"test")
        assert len(upload) == found.message_bytes
        total.add(upload, contributor=name)
    words = key.decrypt_sum(total.total(), length=found.entries, contributors=names, context=b"test")
    assert set(words.view(np.int32).tolist()) == {sign * 3 * (found.largest_sum // 3)}
    assert found.exact == (scheme == "bfv")
    assert "cannot fail" in found.lines()[1] or scheme == "ckks"


def test_the_largest_number_of_sites_is_that_which_the_parameters_accept():
    found = encryption_of(TINY, TrainingPlan.model_validate({"protection": {"mode": "encrypted"}}), sites=4)
    assert replace(found.parameters, max_clients=found.most_sites).most_additions == found.most_sites
    with pytest.raises(RangeError):
        replace(found.parameters, max_clients=found.most_sites + 1)


def test_the_protocol_holds_no_more_memory_than_preflight_says():
    layout = ParameterLayout((TensorSpec("weight", (300_000,), "parameter"),))
    found = encryption_of(layout, TrainingPlan.model_validate({"protection": {"mode": "encrypted"}}), sites=2)
    key = GroupKey.generate(found.parameters)
    words = np.zeros(found.entries, np.uint32)
    uploads = {name: key.encrypt(words, contributor=name, context=b"test") for name in ("a", "b")}
    before = bytes(found.message_bytes)

    def peak(act):
        tracemalloc.start()
        act()
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    def add():
        total = CiphertextSum.create(parameters=found.parameters, fingerprint=key.fingerprint, length=found.entries)
        for name, upload in uploads.items():
            total.add(upload, contributor=name)
        return total.total()

    site = peak(lambda: key.encrypt(words, contributor="c", context=b"test")) + words.nbytes + len(before)
    aggregator = peak(add) + len(uploads["a"]) + len(before)
    # The temporaries of a block of ciphertexts come on top; they do not grow with the model.
    for held, said in ((site, found.site_memory_bytes), (aggregator, found.aggregator_memory_bytes)):
        assert 0.9 * said < held < 1.1 * said


@pytest.mark.usefixtures("no_rehearsal")
def test_the_page_of_an_encrypted_plan_says_why_sums_are_right_and_whom_to_trust(preflight, tmp_path):
    path = write(tmp_path, protection={"mode": "encrypted"})
    code, out, _ = preflight(path)
    text = " ".join(out.split())
    assert code == 0
    for words in (
        "Encryption: BFV, exact",
        "Decryption cannot fail",
        "No sum wraps: 4 sites reach at most",
        "ciphertexts of 49.15 kB",
        "must be in every sum, threshold t 3",
        "may work with the aggregator: each reads every update 0",
        "any one site that works with the aggregator can read every update",
        "Every site reads the sum over 4 sites",
    ):
        assert words in text, words
    assert "keystream" not in text
    assert max(map(len, preflight(path, columns=80)[1].splitlines())) <= 80
    said = json.loads(preflight(path, "--json")[1])
    assert said["encryption"]["exact"] is True
    assert said["encryption"]["largest_sum"] == said["range"]["worst_integer"] < said["encryption"]["plain_modulus"] / 2
    assert said["quorum"]["colluding_with_curious_aggregator"] == 0
    assert said["trust"] in text
    approximate = " ".join(preflight(write(tmp_path, protection={"mode": "encrypted", "scheme": "ckks"}))[1].split())
    assert "Encryption: CKKS, approximate" in approximate
    assert "rounded to integers" in approximate
    assert "cannot fail" not in approximate


# Time


def test_encryption_time_is_scaled_by_whole_ciphertexts():
    plan = TrainingPlan.model_validate({"protection": {"mode": "encrypted"}})
    small = time_encryption(encryption_of(TINY, plan, sites=2))
    layout = ParameterLayout((TensorSpec("weight", (4092 * 640,), "parameter"),))
    large = time_encryption(encryption_of(layout, plan, sites=10))
    assert (small.ciphertexts, small.measured_ciphertexts) == (1, 1)
    assert (large.ciphertexts, large.measured_ciphertexts) == (641, 64)
    for seconds in ("encrypt_seconds", "decrypt_seconds", "add_seconds"):
        assert 0 < getattr(small, seconds) < getattr(large, seconds)
    assert large.aggregator_seconds == 10 * large.add_seconds
    assert large.as_dict()["aggregator_seconds"] == large.aggregator_seconds


def test_masking_time_grows_with_entries_and_sites():
    small, large = time_masking(entries=1000, sites=2), time_masking(entries=2**24, sites=64)
    assert (small.measured_entries, small.measured_streams) == (1000, 2)
    assert (large.measured_entries, large.measured_streams) == (2**22, 16)
    assert 0 < small.seconds < large.seconds


def test_training_time_counts_the_steps_of_every_site(tmp_path):
    phantom = {"protocol": "ct-portal", "train": 1}
    run_config = config(
        tmp_path,
        sites=[*sites(1), {"name": "p", "modality": "CT", "phantom": phantom}],
        training={"batch_cases": 2, "steps_per_round": 3},
        federation={"rounds": 5},
    )
    found = time_training(run_config)
    assert [(site.batch, site.batch_is_known) for site in found.sites] == [(2, False), (1, True)]
    rounds = [site.seconds_per_round for site in found.sites]
    assert rounds == [3 * site.seconds_per_step for site in found.sites]
    assert found.seconds_in_turn == pytest.approx(5 * sum(rounds))
    assert found.seconds_side_by_side == pytest.approx(5 * max(rounds))
    assert min(rounds) > 0


def test_steps_that_follow_from_the_scans_are_not_invented(tmp_path):
    found = time_training(config(tmp_path, training={"passes_per_round": 1.0}))
    assert {site.steps for site in found.sites} == {None}
    assert found.seconds_in_turn is found.seconds_side_by_side is None


# What is shown


def test_the_json_object_has_its_keys_and_nothing_is_left_behind(preflight, monkeypatch, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    path = write(tmp_path, federation={"rounds": 7})
    code, out, err = preflight(path, "--json")
    said = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert set(said) == {
        *("config", "name", "ready", "exit_code", "refusals", "warnings", "protection", "sites", "rounds"),
        *("parameters", "range", "range_asked", "bytes", "quorum", "masking", "training", "privacy", "site"),
        *("encryption", "encrypting", "trust", "network"),
    }
    assert said["network"] == "unet in 2D"
    assert said["encryption"] is said["encrypting"] is None
    assert said["masking"] is said["training"] is said["site"] is said["range_asked"] is None
    assert said["ready"] is True
    per_site = said["bytes"]["per_site"]
    assert set(per_site) == {"setup", "first_round", "later_round", "ending", "run"}
    train_stage = next(stage for stage in per_site["later_round"]["stages"] if stage["stage"] == "train")
    assert train_stage["up_bytes"] > said["bytes"]["vector_up_bytes"]
    assert list(temporary.iterdir()) == []


def test_the_command_explains_itself(preflight):
    code, out, err = preflight("--help")
    assert (code, err) == (0, "")
    for word in ("Usage", "Example: secfed", "--json", "--site", "--clients", "--noise-tail"):
        assert word in out


def test_no_epsilon_is_stated_where_there_is_none(preflight, tmp_path):
    path = write(tmp_path)
    code, out, _ = preflight(path)
    assert code == 0
    assert "No differential privacy in this plan: no epsilon can be stated." in out
    assert out.lower().count("epsilon") == 1


@pytest.mark.parametrize("columns", [80, 120])
def test_the_page_answers_every_question_and_fits_the_terminal(preflight, tmp_path, columns):
    code, out, _ = preflight(write(tmp_path), "--clients", 100, columns=columns)
    assert code == 0
    assert max(map(len, out.splitlines())) <= columns
    for heading in ("Range", "Bytes", "Quorum", "Time", "Privacy", "Ready"):
        assert any(line.startswith(heading) for line in out.splitlines())
    assert "no wraparound" in " ".join(out.split())
    assert "Not measured." in out


def test_the_measured_page_says_that_it_is_an_estimate_for_this_machine(tmp_path, capfd, monkeypatch):
    path = write(tmp_path, protection={"mode": "plain"})
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["secfed", "preflight", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, _ = capfd.readouterr()
    assert ended.value.code in (0, None)
    for words in ("an estimate for this machine", "leaves out reading data", "Plain mode: the aggregator can read"):
        assert words in out
    assert "keystream" not in out


def test_a_run_of_references_alone_is_told_what_a_federation_would_need(tmp_path, preflight):
    code, out, _ = preflight(write(tmp_path, federated=False, references=["centralised"]))
    assert code == 0
    assert "trains its references alone" in " ".join(out.split())


# A deployed run


@pytest.fixture
def members(tmp_path):
    """A consortium's folders, its first version accepted by everybody."""
    place = make_place(tmp_path)
    release = sign_next(place.consortium, requests=place.requests, server_request=place.aggregator / "server.csr")
    for folder in (*map(place.site, NAMES), place.aggregator):
        place.accept(folder, release.folder)
    return place


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.toml"
    own = {name: value for name, value in tree(Path("nowhere")).items() if name in TrainingPlan.model_fields}
    path.write_text(tomli_w.dumps(own))
    return path


@pytest.mark.parametrize("option", ["--site", "--roster"])
def test_a_plan_without_sites_is_looked_at_for_the_members_of_the_roster(preflight, members, plan_file, option):
    folder = members.site("ct-a") if option == "--site" else members.aggregator
    code, out, err = preflight(plan_file, option, folder, "--json")
    said = json.loads(out)
    assert (code, err, said["refusals"]) == (0, "", [])
    assert said["sites"] == 3
    assert said["bytes"]["per_site"]["run"]["up_bytes"] > 0
    if option == "--site":
        assert (said["site"]["in_run"], said["site"]["takes_part"]) == (True, True)


@pytest.mark.usefixtures("no_rehearsal")
def test_the_members_of_a_roster_stand_for_the_sites_of_a_whole_configuration(preflight, members, tmp_path):
    path = write(tmp_path, sites=sites(7))
    assert json.loads(preflight(path, "--roster", members.aggregator, "--json")[1])["sites"] == 3
    assert json.loads(preflight(path, "--site", members.site("ct-a"), "--json")[1])["sites"] == 7


@pytest.mark.usefixtures("no_rehearsal")
def test_what_only_a_deployed_run_refuses_is_refused(preflight, members, plan_file):
    plan_file.write_text(plan_file.read_text().replace("[federation]", '[federation]\nnormalisation = "fednorm"'))
    code, _, err = preflight(plan_file, "--roster", members.aggregator)
    assert code == 2
    assert "cannot be known before a deployed run" in err


def test_a_plan_without_sites_and_without_a_roster_says_what_is_missing(preflight, plan_file, tmp_path):
    code, _, err = preflight(plan_file)
    assert code == 2
    assert "--roster FOLDER, or --site FOLDER" in err
    code, _, err = preflight(plan_file, "--roster", tmp_path / "nowhere")
    assert code == 2
    assert "secfed provision check" in err
