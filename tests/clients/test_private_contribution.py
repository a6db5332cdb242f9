"""One site under differential privacy: what it pays, what it lets out again, and what it refuses before it looks."""

import dataclasses
import hashlib

import numpy as np
import pytest
from private_runs import CAP, CLIP, ask, charges_of, ledger_of, one_site, private_config

import clients.private_contribution
from clients.contribution import contribute
from clients.private_contribution import RELEASES, require_affordable
from clients.releases import Releases
from clients.site import Site, SiteCases
from clients.training import TrainingSource
from privacy.ledger_entries import BudgetSpentError, LedgerError
from privacy.streams import little_endian_bytes
from secfed.errors import DataError, PolicyRefusal
from secfed.provisioning.files import SIMULATED_NOISE_FILE
from secfed.site_config import load_site_file, save_site_file

MODES = ("local", "distributed", "silo")


class Killed(BaseException):
    """The process ends here."""


def kill(*args, **kwargs):
    raise Killed


@pytest.fixture
def asked(scans, tmp_path):
    """A site of three patients in a distributed run, whose keys come from the operating system."""
    site, session, model = one_site(tmp_path, private_config(scans, "distributed"))
    (site.folder / SIMULATED_NOISE_FILE).unlink()
    return site, session, model


def with_policy(site, **changes):
    policy = site.file.policy.model_copy(update=changes)
    save_site_file(site.folder, site.file.model_copy(update={"policy": policy}))
    return Site(site.folder)


def under(session, **tables):
    """The same session of a plan with other settings."""
    changed = {
        name: getattr(session.plan, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in tables.items()
    }
    plan = session.plan.model_copy(update=changed)
    return dataclasses.replace(session, plan=plan, run=plan.digest())


@pytest.mark.parametrize("mode", [*MODES, "clip_only"])
def test_the_same_question_gets_the_same_integers_and_is_paid_for_once(scans, tmp_path, mode):
    site, session, model = one_site(tmp_path, private_config(scans, mode))
    (site.folder / SIMULATED_NOISE_FILE).unlink()
    first, again = ask(site, session, model), ask(site, session, model)
    assert np.array_equal(first.encoded, again.encoded)
    charges = charges_of(site.folder)
    assert [(charge.round, charge.attempt) for charge in charges] == ([(1, 0)] if mode in MODES else [])
    if charges:
        sent = hashlib.sha256(little_endian_bytes(first.encoded)).hexdigest()
        assert ledger_of(site.folder).uploads == {charges[0].release: sent}


def test_a_kill_before_any_integers_were_named_leaves_the_charge_for_the_next_answer(asked, monkeypatch):
    site, session, model = asked
    for last in ("poisson_lot", "_encode"):
        with monkeypatch.context() as during:
            during.setattr(clients.private_contribution, last, kill)
            with pytest.raises(Killed):
                ask(site, session, model)
        assert not ledger_of(site.folder).uploads
    with monkeypatch.context() as during:
        during.setattr(Releases, "keep", kill)
        with pytest.raises(Killed):
            ask(site, session, model)
    made = ask(site, session, model)
    # Nothing that was drawn before ever left the process, so one charge pays for the one answer that does.
    assert [charge.attempt for charge in charges_of(site.folder)] == [0]
    sent = hashlib.sha256(little_endian_bytes(made.encoded)).hexdigest()
    assert list(ledger_of(site.folder).uploads.values()) == [sent]


def test_a_charge_of_another_price_is_not_used_up(asked, monkeypatch):
    site, session, model = asked
    with monkeypatch.context() as during:
        during.setattr(clients.private_contribution, "poisson_lot", kill)
        with pytest.raises(Killed):
            ask(site, session, model)
    # The same run by name, in which every site adds less noise.
    cheaper = dataclasses.replace(under(session, privacy={"noise_multiplier": 0.5}), run=session.run)
    ask(site, cheaper, model)
    first, second = charges_of(site.folder)
    assert first.noise_multiplier == pytest.approx(2 * second.noise_multiplier)
    assert [release[2] for release in ledger_of(site.folder).uploads] == [1]


def test_a_kill_after_the_integers_were_kept_loses_nothing_and_costs_nothing(asked, monkeypatch):
    site, session, model = asked
    with monkeypatch.context() as during:
        during.setattr("clients.budget.bind", kill)
        with pytest.raises(Killed):
            ask(site, session, model)
    (kept,) = (site.state / RELEASES).iterdir()
    assert not ledger_of(site.folder).uploads
    found = ask(site, session, model)
    assert little_endian_bytes(found.encoded).tobytes() == kept.read_bytes()
    assert [charge.attempt for charge in charges_of(site.folder)] == [0]
    assert len(ledger_of(site.folder).uploads) == 1
    # Killed between that and the reply: the third answer is the same.
    assert np.array_equal(ask(site, session, model).encoded, found.encoded)
    assert len(charges_of(site.folder)) == 1


def test_integers_that_were_lost_are_drawn_anew_and_paid_again(asked):
    site, session, model = asked
    first = ask(site, session, model)
    for path in (site.state / RELEASES).iterdir():
        path.unlink()
    second = ask(site, session, model)
    assert np.count_nonzero(first.encoded != second.encoded) > 1000
    assert [charge.attempt for charge in charges_of(site.folder)] == [0, 1]


def test_a_file_that_was_cut_short_is_not_let_out(asked):
    site, session, model = asked
    first = ask(site, session, model)
    (kept,) = (site.state / RELEASES).iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert not np.array_equal(ask(site, session, model).encoded, first.encoded)
    assert len(charges_of(site.folder)) == 2


def test_seeded_noise_repeats_itself_and_is_paid_for_all_the_same(scans, tmp_path):
    site, session, model = one_site(tmp_path, private_config(scans, "distributed"))
    assert (site.folder / SIMULATED_NOISE_FILE).exists()
    first = ask(site, session, model)
    for path in (site.state / RELEASES).iterdir():
        path.unlink()
    assert np.array_equal(ask(site, session, model).encoded, first.encoded)
    assert len(charges_of(site.folder)) == 2


@pytest.mark.parametrize("other", ["model", "round", "plan", "plain instead of masked", "number of sites", "data"])
def test_another_question_gets_other_noise_and_is_paid_for(scans, tmp_path, other):
    site, session, model = one_site(tmp_path / "one", private_config(scans, "distributed", protection="masked"))
    first = ask(site, session, model)
    server_round = 1
    match other:
        case "model":
            model = model + np.float32(1e-3)
        case "round":
            server_round = 2
        case "plan":
            session = under(session, seed=99)
        case "plain instead of masked":
            # What was let out under masks was paid for as a share of a sum, not as something that is read alone.
            session = under(session, protection={"mode": "plain"})
        case "number of sites":
            session = dataclasses.replace(session, max_clients=8)
        case "data":
            whole = site.cases(session.plan).sources[0]
            fewer = TrainingSource(site=whole.site, cases=whole.cases[1:])
            site.cases = lambda plan: SiteCases(sources=(fewer,), validation=())
    second = ask(site, session, model, server_round=server_round)
    # Of a kept release nothing is trained; of a new question something is, even where the coins chose nobody.
    assert second.training_seconds > 0, "the integers of another question were let out"
    if other == "plain instead of masked":
        # In a simulation the model must not depend on how updates travel; the price does.
        assert np.array_equal(first.encoded, second.encoded)
        masked, plain = charges_of(site.folder)
        assert masked.noise_multiplier == pytest.approx(2 * plain.noise_multiplier)
    else:
        assert np.count_nonzero(first.encoded != second.encoded) > 1000
        ledgers = [path for path in (site.folder / "ledgers").iterdir() if path.name.endswith(".ledger")]
        assert len(ledgers) == (2 if other == "data" else 1)
        if other != "data":
            assert len(charges_of(site.folder)) == 2


def test_scores_of_private_cases_stay_whatever_the_request_asks_for(scans, tmp_path, monkeypatch):
    site, session, model = one_site(tmp_path, private_config(scans, "distributed"))
    monkeypatch.setattr("clients.evaluation.mean_dice_by_modality", kill)
    contribute(site, session, model=model, server_round=1, validate=True)
    assert {segment.name for segment in session.slots.segments} == {"delta", "weight"}


def test_clip_only_takes_part_in_validation_as_an_unprotected_run_does(scans, tmp_path):
    run_config = private_config(scans, "clip_only", federation={"validate_every": 1})
    site, session, model = one_site(tmp_path, run_config, "ct-a")
    made = contribute(site, session, model=model, server_round=1, validate=True)
    cases = made.encoded[session.slots.slice_of("validation_cases_ct")].view(np.int32)
    segment = next(segment for segment in session.slots.segments if segment.name == "validation_cases_ct")
    assert cases[0] * session.slots.quantum(segment) == pytest.approx(1.0, abs=1e-3)


def test_the_budget_ends_where_the_policy_says_and_nothing_is_looked_at_any_more(scans, tmp_path, monkeypatch):
    site, session, model = one_site(tmp_path, private_config(scans, "distributed", rounds=3))
    site = with_policy(site, max_epsilon=15.0)
    require_affordable(site, session)
    log = (site.folder / "books" / "site.log").read_text()
    assert '"rounds_to_go": 3, "rounds_that_fit": 2' in log
    for server_round in (1, 2):
        ask(site, session, model, server_round=server_round)
    monkeypatch.setattr("clients.private_contribution.poisson_lot", kill)
    with pytest.raises(BudgetSpentError, match=r"cap is epsilon 15 .* 0 more rounds of this kind fit"):
        ask(site, session, model, server_round=3)
    assert len(charges_of(site.folder)) == 2
    # The two that were paid for may leave again, and a run that only repeats them is not turned away.
    with pytest.raises(BudgetSpentError):
        require_affordable(site, session)
    require_affordable(site, shortened(session))
    assert ask(site, session, model, server_round=2).samples == 0


def shortened(session):
    """The same run, of which the last round is the one that was paid for last."""
    federation = session.plan.federation.model_copy(update={"rounds": 2})
    return dataclasses.replace(session, plan=session.plan.model_copy(update={"federation": federation}))


def test_more_patients_than_the_cap_are_refused_before_the_charge(scans, tmp_path):
    site, session, model = one_site(tmp_path, private_config(scans, "distributed", federation={"example_cap": 2}))
    for refused in (lambda: require_affordable(site, session), lambda: ask(site, session, model)):
        with pytest.raises(DataError, match=r"3 patients, federation.example_cap = 2"):
            refused()
    assert charges_of(site.folder) == []


def test_a_cap_below_the_ledger_s_holds_from_now_on_and_one_above_needs_a_signature(asked):
    site, session, model = asked
    site = with_policy(site, max_epsilon=40.0)
    ask(site, session, model)
    with_policy(site, max_epsilon=9.6)
    lower = Site(site.folder)
    with pytest.raises(BudgetSpentError, match=r"cap is epsilon 9.6"):
        ask(lower, session, model, server_round=2)
    higher = with_policy(site, max_epsilon=50.0)
    with pytest.raises(LedgerError, match=r"9.6, and 50 was asked for.*raise_cap"):
        ask(higher, session, model, server_round=2)
    assert len(charges_of(site.folder)) == 1


def test_a_damaged_ledger_and_one_of_another_data_set_stop_the_site_before_it_looks(asked, monkeypatch):
    site, session, model = asked
    ask(site, session, model)
    (ledger,) = (path for path in (site.folder / "ledgers").iterdir() if path.name.endswith(".ledger"))
    whole = ledger.read_bytes()
    monkeypatch.setattr("clients.private_contribution.poisson_lot", kill)
    ledger.write_bytes(whole.replace(b'"steps": 1', b'"steps": 0', 1))
    for refused in (lambda: require_affordable(site, session), lambda: ask(site, session, model, server_round=2)):
        with pytest.raises(LedgerError, match="damaged"):
            refused()
    ledger.write_bytes(whole)
    other = bytes(32)
    monkeypatch.setattr(Site, "ledger_path", lambda self, fingerprint: ledger)
    monkeypatch.setattr("clients.patients.fingerprint_of", lambda patients: other)
    monkeypatch.setattr("clients.budget.dataset_fingerprint", lambda digests: other)
    with pytest.raises(LedgerError, match="of another data set"):
        ask(site, session, model, server_round=2)


def test_a_network_that_couples_patients_is_refused_at_the_join(scans, tmp_path, monkeypatch):
    import torch

    site, session, _ = one_site(tmp_path, private_config(scans, "distributed"))

    class Remembers(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.seen = network, 0.0

        def forward(self, images):
            scores = self.network(images) * (1.0 + self.seen)
            self.seen = float(images.detach().mean()) + 1.0
            return scores

    from clients import patient_training

    build = patient_training.network_for
    monkeypatch.setattr(patient_training, "network_for", lambda plan, device: Remembers(build(plan, device)))
    monkeypatch.setattr(patient_training, "load_flat", lambda *args: None)
    monkeypatch.setattr(patient_training, "trained_positions", lambda *args: np.zeros(1, np.intp))
    with pytest.raises(PolicyRefusal, match=r"privacy.mode = 'distributed' cannot be held here.*patients over"):
        require_affordable(site, session)
    assert charges_of(site.folder) == []


def test_a_plan_whose_noise_cannot_be_accounted_is_refused_at_the_join(scans, tmp_path):
    site, session, _ = one_site(tmp_path, private_config(scans, "distributed"))
    for broken, reason in (
        ({"noise_multiplier": 1e-6}, r"must be 0 \(no noise\) or lie in"),
        ({"noise_multiplier": None, "epsilon": 3.0}, "has not been resolved"),
    ):
        with pytest.raises(PolicyRefusal, match=reason):
            require_affordable(site, under(session, privacy=broken))
    assert charges_of(site.folder) == []


def test_the_policy_s_modes_and_its_largest_delta_bound_a_plan(scans, tmp_path):
    site, session, _ = one_site(tmp_path, private_config(scans, "distributed"))
    policy = load_site_file(site.folder).policy
    for changes, reason in (({"privacy": ("local",)}, "privacy.mode = 'distributed'"), ({"max_delta": 1e-6}, "delta")):
        with pytest.raises(PolicyRefusal, match=reason):
            policy.model_copy(update=changes).check_plan(session.plan, num_parameters=session.layout.num_parameters)


def test_a_silo_whose_training_diverges_sends_noise_and_does_not_stay_away(scans, tmp_path, monkeypatch):
    from clients import training

    site, session, model = one_site(tmp_path, private_config(scans, "silo"))

    def diverge(**kwargs):
        raise training.TrainingDiverged("loss or weights are not finite")

    monkeypatch.setattr(training, "train_one_round", diverge)
    made = ask(site, session, model)
    segment = session.slots.segments[0]
    noise = made.encoded[: segment.length].view(np.int32) * session.slots.quantum(segment)
    assert np.std(noise) == pytest.approx(CLIP / 2, rel=0.1)
    assert "nothing but noise" in (site.folder / "books" / "site.log").read_text()


def test_the_weight_is_the_public_number_of_patients(asked):
    site, session, model = asked
    made = ask(site, session, model)
    segment = session.slots.segments[-1]
    weight = made.encoded[session.slots.slice_of("weight")].view(np.int32)[0] * session.slots.quantum(segment)
    assert weight == pytest.approx(3 / CAP, abs=1e-6)


def test_modes_are_those_of_the_configuration():
    assert set(clients.private_contribution._MODES) == {*MODES, "clip_only"}


def test_a_simulation_s_key_in_a_real_site_s_folder_is_refused_before_the_charge(scans, tmp_path):
    site, session, model = one_site(tmp_path, private_config(scans, "distributed"))
    save_site_file(site.folder, site.file.model_copy(update={"durable_state": True}))
    real = Site(site.folder)
    with pytest.raises(PolicyRefusal, match="noise from a seed hides nobody"):
        require_affordable(real, session)
    assert charges_of(site.folder) == []
    (site.folder / SIMULATED_NOISE_FILE).unlink()
    require_affordable(real, session)
    # Two answers of a real site to one question that was lost in between have noise of their own.
    first = ask(real, session, model)
    for path in (real.state / RELEASES).iterdir():
        path.unlink()
    assert np.count_nonzero(ask(real, session, model).encoded != first.encoded) > 1000
