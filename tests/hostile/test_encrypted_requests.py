"""What a corrupt aggregator may ask of a site in an encrypted run: one public word in answer, and an untouched state.

A real run is recorded in which the site takes part in every stage: it takes over the key, gives a snapshot, misses a
round and is given one. Before every request its folder is copied, so that each test can put another question to it.
"""

import dataclasses
import shutil
import stat

import pytest
from asked_site import Moment, ask, assert_refused, rebound, record, state_of
from flwr.app import Error, RecordDict
from hostile_bytes import hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from small_federation import NAMES, config, provision

from privacy.he.member_state import MemberState
from privacy.he.requests import EncryptedAnnouncement, PreviousRound
from secfed.messages import Refusal, Reply, Request, Stage
from secfed.site_config import SitePolicy, load_site_file, save_site_file

NODE = 1001
SESSION_STAGES = (Stage.JOIN, Stage.ENCAPSULATE, Stage.CONFIRM, Stage.OFFER, Stage.TAKE)
FOREIGN = (Stage.SHARE, Stage.AGREE, Stage.UNMASK)
STAGES = tuple(stage for stage in Stage if stage not in FOREIGN)
MOMENTS = {Stage.TRAIN: 2, Stage.SNAPSHOT: 3, Stage.RESTORE: 4, Stage.END: 5, Stage.FINISH: 5}


@pytest.fixture(scope="module")
def recorded(scans, tmp_path_factory):
    """Moments by (stage, round), and the site's folder after the run."""
    folder = tmp_path_factory.mktemp("recorded")
    run_config = config(
        scans,
        protection={"mode": "encrypted"},
        federation={"rounds": 4, "min_cohort": 3},
        training={"steps_per_round": 1},
    )
    job = provision(folder, run_config)

    def disturb(node, message):
        told = (NAMES[node], message.metadata.message_type, message.metadata.group_id)
        misses = told in (("mr-b", "train", "2"), ("ct-b", "train", "3"))
        # The first by name is asked for a snapshot first, and the recorded site is the second.
        return Error(2, "the site's program failed") if misses or told[:2] == ("ct-a", "query.snapshot") else message

    return record(job, node=NODE, folder=folder, intercept=disturb), job.site_folders[1]


@pytest.fixture
def moment(recorded, tmp_path):
    """A copy of a moment that a test may spoil."""

    def at(stage, server_round=None):
        found = recorded[0][stage, MOMENTS.get(stage, 0) if server_round is None else server_round]
        folder = tmp_path / "site"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(found.folder, folder)
        return Moment(found.request, folder)

    return at


def announced(request, **changes):
    """The same request with an announcement that says something else; announcements carry no signature."""
    announcement = dataclasses.replace(EncryptedAnnouncement.from_bytes(request.payloads[0]), **changes)
    return dataclasses.replace(request, payloads=(announcement.to_bytes(), *request.payloads[1:]))


def flipped(data, place=-1):
    return data[:place] + bytes([data[place] ^ 1]) + data[place:][1:]


@pytest.mark.parametrize("stage", STAGES)
def test_the_recorded_request_itself_is_answered(moment, stage):
    found = moment(stage)
    answer, records = ask(found.folder, found.request)
    assert isinstance(answer, Reply)
    assert answer.binding == found.request.binding
    assert ("attachment" in records) == (stage in (Stage.TRAIN, Stage.SNAPSHOT))
    assert "vector" not in records


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in (Stage.SNAPSHOT, Stage.RESTORE)])
def test_a_request_that_was_answered_is_refused_the_second_time(moment, stage):
    found = moment(stage)
    assert isinstance(ask(found.folder, found.request)[0], Reply)
    reason = "policy" if stage is Stage.JOIN else "protocol"
    assert_refused(found.folder, found.request, reason, "")


def test_two_snapshots_of_one_state_are_sealed_differently_and_change_nothing(moment):
    found = moment(Stage.SNAPSHOT)
    before = state_of(found.folder)
    first, second = (ask(found.folder, found.request)[0] for _ in range(2))
    assert first.attachment != second.attachment
    assert state_of(found.folder) == before


def test_a_snapshot_that_was_adopted_leads_to_the_same_state_again(moment):
    found = moment(Stage.RESTORE)
    (member,) = found.folder.glob("state/encrypted/*/member.cbor")
    states = [member.read_bytes()]
    for _ in range(2):
        assert isinstance(ask(found.folder, found.request)[0], Reply)
        states.append(member.read_bytes())
    assert states[0] != states[1] == states[2]


@pytest.mark.parametrize(("stage", "server_round"), [(Stage.TRAIN, 1), (Stage.TRAIN, 4), (Stage.END, 5)])
def test_nothing_is_signed_or_given_after_the_end(recorded, tmp_path, stage, server_round):
    shutil.copytree(recorded[1], tmp_path / "site")
    for request in (
        recorded[0][stage, server_round].request,
        recorded[0][Stage.SNAPSHOT, 3].request,
        recorded[0][Stage.FINISH, 5].request,
    ):
        assert_refused(tmp_path / "site", request, "protocol", "the site is in ENDED")


def test_a_run_that_has_ended_is_not_gone_on_with_in_a_new_session(recorded, tmp_path):
    shutil.copytree(recorded[1], tmp_path / "site")
    (member,) = (tmp_path / "site").glob("state/encrypted/*/member.cbor")
    before = member.read_bytes()
    join = rebound(recorded[0][Stage.JOIN, 0].request, session=b"n" * 32)
    assert isinstance(ask(tmp_path / "site", join)[0], Reply)
    offer = rebound(recorded[0][Stage.OFFER, 0].request, session=b"n" * 32)
    assert isinstance(ask(tmp_path / "site", offer)[0], Refusal)
    assert member.read_bytes() == before


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("change", [{"session": bytes(32)}, {"run": bytes(32)}], ids=["session", "run"])
def test_a_request_of_another_session_or_run_is_refused(moment, stage, change):
    found = moment(stage)
    assert_refused(found.folder, rebound(found.request, **change), "policy", "session that this site has not joined")


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_under_another_stage_s_name_is_refused(moment, stage):
    found = moment(stage)
    other = "query.join" if stage is not Stage.JOIN else "query.offer"
    assert_refused(found.folder, found.request, "protocol", "came as", message_type=other)


@pytest.mark.parametrize("stage", STAGES)
def test_a_record_that_is_no_request_is_refused(moment, stage):
    found = moment(stage)
    assert_refused(found.folder, found.request, "protocol", "no 'secfed' record", content=RecordDict())


@pytest.mark.parametrize("stage", FOREIGN)
@pytest.mark.parametrize("at", [Stage.ENCAPSULATE, Stage.OFFER, Stage.TRAIN])
def test_a_stage_of_masked_runs_is_refused_in_an_encrypted_session(moment, stage, at):
    found = moment(at)
    request = Request(stage=stage, binding=found.request.binding, payloads=found.request.payloads)
    because = f"'{stage}' does not belong to a run with protection = 'encrypted'"
    assert_refused(found.folder, request, "policy", because)


@pytest.mark.parametrize(
    ("stage", "reason", "because"),
    [
        (Stage.OFFER, "protocol", ""),
        (Stage.TAKE, "protocol", ""),
        (Stage.TRAIN, "policy", "at least 2 payloads"),
        (Stage.RESTORE, "policy", "at least 1 payloads"),
        (Stage.END, "policy", "at least 2 payloads"),
        (Stage.FINISH, "protocol", ""),
    ],
)
def test_a_request_without_its_payloads_is_refused(moment, stage, reason, because):
    found = moment(stage)
    assert_refused(found.folder, dataclasses.replace(found.request, payloads=()), reason, because)


@pytest.mark.parametrize("stage", [Stage.OFFER, Stage.TAKE, Stage.FINISH])
def test_a_sender_that_is_relayed_twice_is_refused(moment, stage):
    found = moment(stage)
    twice = dataclasses.replace(found.request, payloads=(*found.request.payloads, found.request.payloads[0]))
    assert_refused(found.folder, twice, "protocol", "")


def test_the_key_is_not_taken_with_too_few_peers(moment):
    found = moment(Stage.TAKE)
    # Own offer and that of the first by name, who made the key.
    request = dataclasses.replace(found.request, payloads=found.request.payloads[:2])
    assert_refused(found.folder, request, "protocol", "3 are needed")


@pytest.mark.parametrize("stage", [Stage.TRAIN, Stage.SNAPSHOT, Stage.RESTORE, Stage.END])
def test_nothing_is_done_with_a_key_that_too_few_sites_confirmed(moment, recorded, stage):
    # The first request after `take` brings the confirmations; without them the site does not hold the key yet.
    found = moment(Stage.TRAIN, 1)
    binding = found.request.binding
    payloads = recorded[0][stage, MOMENTS[stage]].request.payloads[:2]
    request = Request(stage=stage, binding=binding, payloads=payloads, attachment=b"any")
    request = rebound(request, server_round=5) if stage is Stage.END else request
    assert_refused(found.folder, request, "protocol", "")


@pytest.mark.parametrize(
    ("stage", "attachment", "reason", "because"),
    [
        (Stage.TAKE, None, "protocol", "no sealed group key arrived"),
        (Stage.TAKE, "flipped", "protocol", "no sealed group key arrived"),
        (Stage.TAKE, "longer", "protocol", "no sealed group key arrived"),
        (Stage.TRAIN, None, "protocol", "did not come with the announcement"),
        (Stage.TRAIN, "flipped", "protocol", "not the one that was announced"),
        (Stage.TRAIN, "longer", "protocol", "not the one that was announced"),
        (Stage.TRAIN, "empty", "protocol", "0 bytes are no encrypted vector"),
        (Stage.RESTORE, None, "policy", "carries no snapshot"),
        (Stage.RESTORE, "flipped", "protocol", ""),
        (Stage.RESTORE, "longer", "protocol", ""),
        (Stage.RESTORE, "empty", "protocol", ""),
        (Stage.END, None, "protocol", "did not come with the announcement"),
        (Stage.END, "flipped", "protocol", "not the one that was announced"),
    ],
)
def test_an_attachment_that_is_missing_or_another_one_is_refused(moment, stage, attachment, reason, because):
    found = moment(stage)
    whole = found.request.attachment
    data = {None: None, "flipped": flipped(whole), "longer": whole + bytes(100_000), "empty": b""}[attachment]
    assert_refused(found.folder, dataclasses.replace(found.request, attachment=data), reason, because)


def test_an_attachment_above_the_program_s_limit_is_refused_unread(moment, monkeypatch):
    monkeypatch.setattr("clients.app.MAX_ATTACHMENT_BYTES", 1000)
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, found.request, "protocol", "above the limit of 1000")


@pytest.mark.parametrize(
    ("change", "reason", "because"),
    [
        ({"plan_hash": bytes(32)}, "policy", "not the one that this site agreed to"),
        ({"vector_length": 7}, "policy", "not that of the agreed model"),
        ({"round_number": 9}, "policy", "not the one that the request is bound to"),
        ({"server_round": 1}, "protocol", ""),
        ({"step": "end", "vector_length": 0}, "policy", "came with the announcement of 'end'"),
        ({"session": bytes(32)}, "protocol", "another session"),
        ({"run": bytes(32)}, "protocol", "another run"),
        ({"roster_hash": bytes(32)}, "protocol", "another roster"),
        ({"parameters": bytes(32)}, "protocol", "other parameters"),
        ({"fingerprint": bytes(32)}, "protocol", "another group key"),
        ({"minimum": 2}, "protocol", ""),
        ({"invited": ("ct-a", "mr-a", "mr-b"), "minimum": 3}, "protocol", "do not include 'ct-b'"),
        ({"invited": ("ct-a", "ct-b", "stranger")}, "protocol", "stranger"),
        ({"invited": ("ct-a", "ct-b"), "minimum": 2}, "protocol", ""),
        ({"sum_root": b"\1" * 32}, "protocol", ""),
        ({"previous_round": b"\1" * 32}, "protocol", "not the one that the announcement names"),
        ({"contributors": ("ct-a", "ct-b", "mr-a")}, "protocol", "announced as contributors"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_an_announcement_that_breaks_the_agreement_is_refused(moment, change, reason, because):
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, announced(found.request, **change), reason, because)


@pytest.mark.parametrize("change", [{"sequence": 0}, {"sequence": 2**40}, {"server_round": 3}], ids=str)
def test_a_request_that_is_bound_to_another_round_is_refused(moment, change):
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, rebound(found.request, **change), "policy", "bound to")


@pytest.mark.parametrize("server_round", [0, 5, 2**63])
def test_training_for_a_round_that_the_plan_does_not_have_is_refused(moment, server_round):
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, rebound(found.request, server_round=server_round), "policy", "rounds 1 to 4")


def test_the_end_is_refused_before_the_last_round(moment):
    found = moment(Stage.TRAIN)
    request = announced(dataclasses.replace(found.request, stage=Stage.END), step="end", vector_length=0)
    assert_refused(found.folder, request, "policy", "the end was announced before round 4, the last")


def test_the_headers_of_the_sum_before_must_be_those_of_its_contributors(moment):
    found = moment(Stage.TRAIN)
    shown = PreviousRound.from_bytes(found.request.payloads[1])
    for headers in (shown.headers[:3], (*shown.headers[:3], shown.headers[0]), shown.headers[::-1][:3]):
        other = dataclasses.replace(shown, headers=headers).to_bytes()
        request = dataclasses.replace(found.request, payloads=(found.request.payloads[0], other))
        assert_refused(found.folder, request, "protocol", "")
        found = moment(Stage.TRAIN)


def test_a_round_that_a_site_has_left_behind_is_not_run_again(moment, recorded):
    old = recorded[0][Stage.TRAIN, 2].request
    found = moment(Stage.END)
    later = rebound(old, sequence=10**6, session=found.request.binding.session)
    assert_refused(found.folder, announced(later, round_number=10**6), "protocol", "this site has completed 3")


def test_a_snapshot_of_an_earlier_round_does_not_bring_a_site_back(moment, recorded):
    old = moment(Stage.SNAPSHOT)
    given, _ = ask(old.folder, old.request)
    found = moment(Stage.RESTORE)
    # The site's own snapshot, and the recorded one on a site that has gone on since.
    own = dataclasses.replace(found.request, payloads=(given.payload,), attachment=given.attachment)
    assert_refused(found.folder, own, "protocol", "own snapshot")
    later = moment(Stage.FINISH)
    request = dataclasses.replace(
        rebound(found.request, **dataclasses.asdict(later.request.binding)), payloads=found.request.payloads[:1]
    )
    assert_refused(later.folder, request, "protocol", "but this site has completed 4")


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        (Stage.OFFER, 0),
        (Stage.TAKE, 0),
        (Stage.TRAIN, 0),
        (Stage.TRAIN, 1),
        (Stage.RESTORE, 0),
        (Stage.END, 0),
        (Stage.FINISH, 0),
    ],
)
def test_hostile_bytes_are_refused_as_protocol_or_policy_and_change_nothing(moment, stage, place):
    """Damaged bytes never become an internal error, which would show that a check is missing."""
    found = moment(stage)
    payloads = found.request.payloads

    @settings(max_examples=12)
    @given(data=st.data())
    def check(data):
        damaged = (*payloads[:place], data.draw(hostile(payloads[place])), *payloads[place + 1 :])
        before = state_of(found.folder)
        answer, _ = ask(found.folder, dataclasses.replace(found.request, payloads=damaged))
        if isinstance(answer, Refusal):
            assert answer.reason in ("policy", "protocol")
            assert state_of(found.folder) == before
        else:
            # What is unsigned, or a damaged message of one peer, need not keep a site from going on.
            moment(stage)

    check()


def test_every_stage_of_a_run_that_the_policy_does_not_allow_ends_at_the_join(moment):
    found = moment(Stage.JOIN)
    site = load_site_file(found.folder)
    for policy, because in (
        (SitePolicy(protection=("masked",)), "allows only ['masked']"),
        (SitePolicy(protection=("encrypted",), encryption_schemes=("ckks",)), "allows only ['ckks']"),
        (SitePolicy(protection=("encrypted",), max_rounds=3), "asks for 4 rounds"),
    ):
        save_site_file(found.folder, site.model_copy(update={"policy": policy}))
        assert_refused(found.folder, found.request, "policy", because)
    assert not (found.folder / "state").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: {"plan": fields["plan"].replace('"seed":3', '"seed":4')},
        lambda fields: {"plan": fields["plan"].replace('"rounds":4', '"rounds":5')},
    ],
    ids=["seed", "rounds"],
)
def test_a_run_does_not_go_on_under_another_plan(moment, recorded, change):
    found = moment(Stage.TRAIN)
    join = rebound(recorded[0][Stage.JOIN, 0].request, session=b"n" * 32)
    other = dataclasses.replace(join, fields={**join.fields, **change(join.fields)})
    assert other.fields != join.fields
    assert_refused(found.folder, other, "policy", "not what this run had when it began")
    # Under a new name it is another run, with a model and a key of its own.
    fresh = rebound(other, run=b"r" * 32)
    assert isinstance(ask(found.folder, fresh)[0], Reply)
    assert len(list((found.folder / "state" / "encrypted").iterdir())) == 2


def test_a_state_of_another_roster_is_refused_and_not_overwritten(moment, recorded):
    """It holds the group key: whoever renews the roster in the middle of a run must be able to go back."""
    (path,) = moment(Stage.TRAIN).folder.glob("state/encrypted/*/member.cbor")
    state = MemberState.from_bytes(path.read_bytes())
    moved = dataclasses.replace(state, roster_digest=b"o" * 32).to_bytes()
    found = moment(Stage.OFFER)
    path.write_bytes(moved)
    assert_refused(found.folder, found.request, "internal", "another roster")


@pytest.mark.parametrize("durable", [True, False])
def test_keys_and_models_are_readable_by_their_owner_only(moment, durable):
    found = moment(Stage.TRAIN)
    site = load_site_file(found.folder)
    save_site_file(found.folder, site.model_copy(update={"durable_state": durable}))
    assert isinstance(ask(found.folder, found.request)[0], Reply)
    (run,) = (found.folder / "state" / "encrypted").iterdir()
    assert {path.name for path in run.iterdir()} == {"run.json", "member.cbor", "model"}
    for name in ("run.json", "member.cbor"):
        assert stat.S_IMODE((run / name).stat().st_mode) == 0o600
    for folder in (found.folder, found.folder / "state", run.parent, run, run / "model"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_gap_is_said_in_one_more_word_because_the_aggregator_has_to_act_on_it(moment, recorded):
    found = moment(Stage.RESTORE)
    train = recorded[0][Stage.TRAIN, 4].request
    assert_refused(found.folder, train, "stale", "needs a snapshot")
    found = moment(Stage.TRAIN, 4)
    for path in found.folder.glob("state/encrypted/*/model/*.safetensors"):
        path.write_bytes(b"damaged")
    assert_refused(found.folder, found.request, "stale", "the model after round 2 is lost here")
