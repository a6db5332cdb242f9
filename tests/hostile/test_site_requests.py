"""What a corrupt aggregator may ask of a site, and what the site answers: one public word, and its state is untouched.

A real masked run is recorded. Before every request of its second round one site's folder is copied, so that each test
can put another question to the site at exactly that moment. Encrypted runs: test_encrypted_requests.py.
"""

import contextlib
import dataclasses
import json
import resource
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from asked_site import Moment, ask, assert_refused, log_of, rebound, record, state_of
from flwr.app import Message, RecordDict
from small_federation import config, provision

import clients.app
from clients.site import Site
from privacy.secagg.differencing import OpenedSums
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, RoundInvitation, UnmaskRequest
from secfed.engines.in_process import InProcessGrid
from secfed.messages import Refusal, Reply, Request, Stage, decode_reply, encode_request
from secfed.parameters import ParameterLayout, TensorSpec
from secfed.site_config import SitePolicy, load_site_file, save_site_file

SITE, NODE = "ct-a", 1000
ROUND_STAGES = (Stage.TRAIN, Stage.AGREE, Stage.UNMASK)
STAGES = (Stage.JOIN, Stage.ENCAPSULATE, Stage.CONFIRM, Stage.SHARE, *ROUND_STAGES)
SESSION_STAGES = STAGES[1:]


@pytest.fixture(scope="module")
def recorded(scans, tmp_path_factory):
    """Moments by (stage, round), and the site's folder after the run."""
    tmp_path = tmp_path_factory.mktemp("recorded")
    job = provision(tmp_path, config(scans, federation={"rounds": 3, "min_cohort": 3}))
    return record(job, node=NODE, folder=tmp_path), job.site_folders[0]


@pytest.fixture
def moment(recorded, tmp_path):
    """A copy of a moment that a test may spoil: by stage, in the second round where the stage has rounds."""

    def at(stage, server_round=2):
        number = server_round if stage in ROUND_STAGES else 1 if stage is Stage.SHARE else 0
        found = recorded[0][stage, number]
        folder = tmp_path / "site"
        shutil.copytree(found.folder, folder)
        return Moment(found.request, folder)

    return at


def invited(request, **changes):
    """A share request whose invitation says something else; invitations carry no signature."""
    invitation = dataclasses.replace(RoundInvitation.from_bytes(request.payloads[0]), **changes)
    return dataclasses.replace(request, payloads=(invitation.to_bytes(), *request.payloads[1:]))


def announced(request, **changes):
    """A train request whose announcement says something else; announcements carry no signature either."""
    announcement = dataclasses.replace(RoundAnnouncement.from_bytes(request.payloads[0]), **changes)
    return dataclasses.replace(request, payloads=(announcement.to_bytes(), *request.payloads[1:]))


@pytest.mark.parametrize("stage", STAGES)
def test_the_recorded_request_itself_is_answered(moment, stage):
    found = moment(stage)
    if stage is Stage.JOIN:
        assert state_of(found.folder) == {}
    answer, _ = ask(found.folder, found.request)
    assert isinstance(answer, Reply)
    assert answer.binding == found.request.binding
    assert (answer.vector is not None) == (stage is Stage.TRAIN)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage is not Stage.SHARE])
def test_a_request_that_was_answered_is_refused_the_second_time(moment, stage):
    found = moment(stage)
    assert isinstance(ask(found.folder, found.request)[0], Reply)
    reason = "policy" if stage is Stage.JOIN else "protocol"
    assert_refused(found.folder, found.request, reason, "already" if stage is Stage.JOIN else "")


def test_the_same_invitation_gets_the_same_shares_again_without_the_confirmations(moment):
    found = moment(Stage.SHARE)
    first, _ = ask(found.folder, found.request)
    assert_refused(found.folder, found.request, "protocol", "steps follow the order")
    before = state_of(found.folder)
    again, _ = ask(found.folder, dataclasses.replace(found.request, payloads=found.request.payloads[:1]))
    assert isinstance(first, Reply)
    assert isinstance(again, Reply)
    assert again.payloads == first.payloads
    assert state_of(found.folder) == before


@pytest.mark.parametrize("server_round", [1, 2, 3])
@pytest.mark.parametrize("stage", ROUND_STAGES)
def test_every_request_of_a_finished_run_is_refused(recorded, tmp_path, stage, server_round):
    shutil.copytree(recorded[1], tmp_path / "site")
    before = state_of(tmp_path / "site")
    answer, _ = ask(tmp_path / "site", recorded[0][stage, server_round].request)
    assert isinstance(answer, Refusal)
    assert answer.reason in ("policy", "protocol")
    assert state_of(tmp_path / "site") == before


def test_a_request_of_an_earlier_round_is_refused_in_a_later_one(recorded, moment):
    for stage in ROUND_STAGES:
        found = moment(stage)
        before = state_of(found.folder)
        assert isinstance(ask(found.folder, recorded[0][stage, 1].request)[0], Refusal)
        assert state_of(found.folder) == before
        shutil.rmtree(found.folder)


@pytest.mark.parametrize("stage", SESSION_STAGES)
@pytest.mark.parametrize("change", [{"session": bytes(32)}, {"run": bytes(32)}], ids=["session", "run"])
def test_a_request_of_another_session_or_run_is_refused(moment, stage, change):
    found = moment(stage)
    assert_refused(found.folder, rebound(found.request, **change), "policy", "session that this site has not joined")


@pytest.mark.parametrize("sequence", [0, 1, 3, 2**40])
def test_a_request_that_is_bound_to_another_round_is_refused(moment, sequence):
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, rebound(found.request, sequence=sequence), "policy", "round")


@pytest.mark.parametrize("server_round", [0, 4, 2**63])
def test_training_for_a_round_that_the_plan_does_not_have_is_refused(moment, server_round):
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, rebound(found.request, server_round=server_round), "policy", "rounds 1 to 3")


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in STAGES])
@pytest.mark.parametrize("at", [Stage.ENCAPSULATE, Stage.TRAIN])
def test_a_stage_of_encrypted_runs_is_refused_in_a_masked_session(moment, stage, at):
    found = moment(at)
    request = Request(stage=stage, binding=found.request.binding, payloads=found.request.payloads)
    assert_refused(found.folder, request, "policy", f"'{stage}' does not belong to a run with protection = 'masked'")


@pytest.mark.parametrize("stage", STAGES)
def test_a_request_under_another_stage_s_name_is_refused(moment, stage):
    found = moment(stage)
    other = "query.join" if stage is not Stage.JOIN else "query.unmask"
    assert_refused(found.folder, found.request, "protocol", "came as", message_type=other)


@pytest.mark.parametrize("stage", STAGES)
def test_a_record_that_is_no_request_is_refused(moment, stage):
    found = moment(stage)
    assert_refused(found.folder, found.request, "protocol", "no 'secfed' record", content=RecordDict())


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"threshold": 2}, "this site accepts 3 to 4"),
        ({"invited": ("ct-a", "mr-b"), "threshold": 2}, "floor is min_cohort = 3"),
        ({"invited": ("ct-b", "mr-a", "mr-b"), "threshold": 3}, "do not include 'ct-a'"),
        ({"invited": ("ct-a", "ct-b", "stranger"), "threshold": 3}, "stranger"),
        ({"session": bytes(32)}, "another session"),
        ({"roster_hash": bytes(32)}, "another roster"),
        ({"round_number": 2**31}, "rounds may be skipped"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_an_invitation_below_a_floor_is_refused(moment, change, because):
    found = moment(Stage.SHARE)
    assert_refused(found.folder, invited(found.request, **change), "protocol", because)


@pytest.mark.parametrize(
    ("change", "reason", "because"),
    [
        ({"plan_hash": bytes(32)}, "policy", "not the one that this site agreed to"),
        ({"vector_length": 7}, "policy", "not that of the agreed model"),
        ({"model_hash": bytes(32)}, "policy", "not the one that was announced"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_an_announcement_that_breaks_the_agreement_is_refused(moment, change, reason, because):
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, announced(found.request, **change), reason, because)


def test_an_announcement_for_another_invitation_is_refused(moment):
    found = moment(Stage.TRAIN)
    invitation = RoundAnnouncement.from_bytes(found.request.payloads[0]).invitation
    other = dataclasses.replace(invitation, threshold=4)
    request = announced(found.request, invitation=other)
    assert_refused(found.folder, request, "protocol", "not the one that this client shared secrets for")


def test_a_next_round_below_the_floors_does_not_keep_the_shares_of_this_one(moment):
    found = moment(Stage.UNMASK)
    invitation = dataclasses.replace(RoundInvitation.from_bytes(found.request.payloads[1]), threshold=2)
    request = dataclasses.replace(found.request, payloads=(found.request.payloads[0], invitation.to_bytes()))
    answer, _ = ask(found.folder, request)
    assert isinstance(answer, Reply)
    assert len(answer.payloads) == 1
    assert "this site accepts 3 to 4" in log_of(found.folder)[-1]["error"]


def test_a_request_without_its_payload_is_refused(moment):
    for stage, because in (
        (Stage.SHARE, "at least 1 payloads"),
        (Stage.TRAIN, "at least 1 payloads"),
        (Stage.AGREE, "carries one payload"),
        (Stage.UNMASK, "one or two payloads"),
    ):
        found = moment(stage)
        assert_refused(found.folder, dataclasses.replace(found.request, payloads=()), "policy", because)
        shutil.rmtree(found.folder)


def test_a_model_that_was_not_announced_is_not_trained_on(moment):
    found = moment(Stage.TRAIN)
    other = np.array(found.request.vector)
    other[5] += 1
    assert_refused(found.folder, dataclasses.replace(found.request, vector=other), "policy", "not the one that was ann")
    timings = (found.folder / "books" / "timings.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in timings] == [1]


@pytest.mark.parametrize("vector", [None, np.zeros(5, np.float32)], ids=["none", "too short"])
def test_a_train_request_without_the_whole_model_is_refused(moment, vector):
    found = moment(Stage.TRAIN)
    assert_refused(found.folder, dataclasses.replace(found.request, vector=vector), "policy", "agreed layout")


@pytest.mark.parametrize("keep", [0, 2, 3])
def test_shares_of_too_few_sites_are_not_masked_against(moment, keep):
    # Three of four would do, but only with this site's own message among them.
    found = moment(Stage.TRAIN)
    announcement, *shares = found.request.payloads
    payloads = (announcement, *shares[len(shares) - keep :])
    assert_refused(found.folder, dataclasses.replace(found.request, payloads=payloads), "protocol", "")


def test_agreeing_to_a_set_of_survivors_below_the_threshold_is_refused(moment):
    found = moment(Stage.AGREE)
    request = AgreementRequest.from_bytes(found.request.payloads[0])
    fewer = dataclasses.replace(request, headers=request.headers[:2]).to_bytes()
    assert_refused(found.folder, dataclasses.replace(found.request, payloads=(fewer,)), "protocol", "at least 3")


def test_unmasking_with_fewer_agreements_than_the_threshold_is_refused(moment):
    found = moment(Stage.UNMASK)
    request = UnmaskRequest.from_bytes(found.request.payloads[0])
    fewer = dataclasses.replace(request, agreements=request.agreements[:2]).to_bytes()
    assert_refused(found.folder, dataclasses.replace(found.request, payloads=(fewer,)), "protocol", "at least 3")


def test_a_second_sum_over_one_model_is_opened_for_the_same_survivors_only(moment, recorded):
    """The aggregator goes back to an old model in a new session: what the site opened then, it remembers."""
    folder = recorded[1]
    opened = OpenedSums.from_bytes((folder / "state" / "opened.cbor").read_bytes())
    assert len(opened.records) == 3 * 64
    join = recorded[0][Stage.JOIN, 0].request
    found = moment(Stage.JOIN)
    shutil.rmtree(found.folder)
    shutil.copytree(folder, found.folder)
    assert isinstance(ask(found.folder, rebound(join, session=b"n" * 32))[0], Reply)
    site = Site(found.folder)
    assert site.protocol_client().opened == opened
    (found.folder / "state" / "opened.cbor").write_bytes(b"damaged")
    assert_refused(found.folder, rebound(join, session=b"m" * 32), "internal", "opened.cbor")


def offered(request, **changes):
    return dataclasses.replace(request, fields={**request.fields, **changes})


def extra_layer(request):
    layout = ParameterLayout.from_json(request.fields["layout"])
    return ParameterLayout((TensorSpec("spy", (3,), "parameter"), *layout.tensors)).to_json()


@pytest.mark.parametrize(
    ("change", "reason", "because"),
    [
        (lambda request: {"layout": extra_layer(request)}, "policy", "not the one that the plan's architecture has"),
        (lambda _: {"layout": "[[]]"}, "protocol", "cannot be read"),
        (lambda _: {"layout": 7}, "policy", "must carry the text 'layout'"),
        (lambda _: {"plan": "{"}, "protocol", "cannot be read"),
        (lambda _: {"plan": '{"surprise": 1}'}, "protocol", "surprise"),
        (lambda _: {"max_clients": 9}, "policy", "is not the roster's 4"),
        (lambda _: {"max_clients": "4"}, "policy", "must carry the whole number 'max_clients'"),
        (lambda _: {"roster": "0", "roster_version": 2}, "roster", "that of this site is older"),
        (lambda _: {"roster": "0", "roster_version": 0}, "roster", "that of the aggregator is older"),
        (lambda _: {"roster": "0"}, "roster", "another one under the same number"),
        (lambda _: {"roster": 0}, "policy", "must carry the text 'roster'"),
        (
            lambda request: {"plan": request.fields["plan"].replace('"mode":"masked"', '"mode":"plain"')},
            "policy",
            "policy allows only ['masked']",
        ),
    ],
    ids=[
        "extra layer",
        "no layout",
        "number as layout",
        "cut plan",
        "unknown key",
        "too many",
        "text",
        "newer roster",
        "older roster",
        "other roster",
        "no roster",
        "plain",
    ],
)
def test_an_offer_that_the_site_does_not_accept_is_refused_at_the_join(moment, change, reason, because):
    found = moment(Stage.JOIN)
    request = offered(found.request, **change(found.request))
    assert request.fields != found.request.fields
    assert_refused(found.folder, request, reason, because)


@pytest.mark.parametrize(
    ("limit", "because"),
    [
        ({"max_parameters": 100}, "allows 100"),
        ({"max_rounds": 2}, "asks for 3 rounds"),
        ({"protection": ("plain",)}, "allows only ['plain']"),
        ({"min_samples_per_round": 5}, "draws 4 slices or patches here"),
    ],
    ids=["parameters", "rounds", "protection", "samples"],
)
def test_the_site_s_own_policy_wins_over_the_plan(moment, limit, because):
    found = moment(Stage.JOIN)
    site = load_site_file(found.folder)
    save_site_file(found.folder, site.model_copy(update={"policy": SitePolicy(**limit)}))
    assert_refused(found.folder, found.request, "policy", because)


@pytest.mark.parametrize(
    ("setting", "reason", "because"),
    [
        ({"devices": 3}, "policy", "devices = 3: a step of this plan has 2 images here"),
        ({"device": "cpu", "devices": (0, 1)}, "internal", "numbers CUDA devices"),
    ],
    ids=["too many", "of a CPU"],
)
def test_a_site_that_cannot_train_on_what_its_file_says_refuses_at_the_join(moment, setting, reason, because):
    found = moment(Stage.JOIN)
    save_site_file(found.folder, load_site_file(found.folder).model_copy(update=setting))
    assert_refused(found.folder, found.request, reason, because)


def test_a_site_without_a_compiler_says_so_at_the_join(moment, monkeypatch):
    def missing(graph, inputs):
        raise OSError("no compiler on this machine")

    monkeypatch.setattr("clients.compilation.BACKEND", missing)
    found = moment(Stage.JOIN)
    save_site_file(found.folder, load_site_file(found.folder).model_copy(update={"compile": True, "device": "cpu"}))
    assert_refused(found.folder, found.request, "internal", "compile = true: torch cannot compile")


@pytest.mark.parametrize(
    ("spoil", "reason", "because"),
    [
        (lambda folder: (folder / "identity.key").unlink(), "internal", "identity.key"),
        (lambda folder: (folder / "roster.cbor").write_bytes(b"\x00"), "roster", ""),
        (lambda folder: (folder / "anchor.pub").write_bytes(bytes(32)), "roster", ""),
        (lambda folder: (folder / "site.toml").write_text("name = 3"), "internal", "site.toml"),
        (lambda folder: (folder / "site.toml").unlink(), "internal", "site.toml"),
        (lambda folder: (folder / "rounding.key").unlink(), "internal", "rounding.key"),
    ],
    ids=["no identity", "damaged roster", "other anchor", "damaged site.toml", "no site.toml", "no rounding key"],
)
def test_what_is_wrong_inside_the_site_does_not_travel(moment, spoil, reason, because):
    found = moment(Stage.JOIN)
    spoil(found.folder)
    assert_refused(found.folder, found.request, reason, because)


def test_a_site_whose_scans_are_gone_says_data_and_names_them_only_to_itself(moment, tmp_path):
    found = moment(Stage.JOIN)
    site = load_site_file(found.folder)
    data = site.data[0].model_copy(update={"folder": tmp_path / "nowhere"})
    save_site_file(found.folder, site.model_copy(update={"data": (data,)}))
    assert_refused(found.folder, found.request, "data", "nowhere")


def test_a_refusal_leaves_even_where_the_log_cannot_be_written(moment, caplog):
    found = moment(Stage.JOIN)
    shutil.rmtree(found.folder)
    found.folder.write_text("a file where the site's folder should be")
    answer, _ = ask(found.folder, found.request)
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.site) == ("internal", "unknown")
    assert "log cannot be written" in caplog.text


@contextlib.contextmanager
def full_disk():
    """No file of this process can grow; every write fails as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "stage", [Stage.JOIN, Stage.ENCAPSULATE, Stage.CONFIRM, Stage.SHARE, Stage.TRAIN, Stage.AGREE, Stage.UNMASK]
)
def test_nothing_leaves_a_site_whose_disk_is_full_and_it_goes_on_when_there_is_room(moment, stage):
    found = moment(stage)
    # As in a deployment: a simulation, whose parties all stop together, may lose its session.
    site = load_site_file(found.folder)
    save_site_file(found.folder, site.model_copy(update={"durable_state": True}))
    before = state_of(found.folder)
    with full_disk():
        answer, _ = ask(found.folder, found.request)
    assert isinstance(answer, Refusal)
    assert answer.reason == "storage"
    assert state_of(found.folder) == before
    assert isinstance(ask(found.folder, found.request)[0], Reply)


def test_a_node_without_a_site_folder_refuses(moment, caplog):
    found = moment(Stage.JOIN)
    app = clients.app.create_app(lambda context: Path(str(context.node_config["no-such-key"])))
    with InProcessGrid(app, [found.folder]) as grid:
        message = Message(encode_request(found.request), dst_node_id=NODE, message_type="query.join")
        (reply,) = grid.pull_messages(grid.push_messages([message]))
    answer = decode_reply(reply.content, max_vector_length=1)
    assert isinstance(answer, Refusal)
    assert answer.reason == "internal"
    assert "without a site folder" in caplog.text


def test_a_damaged_state_ends_the_session_and_not_the_next_one(moment, recorded):
    found = moment(Stage.SHARE)
    path = found.folder / "state" / "session.cbor"
    path.write_bytes(path.read_bytes()[:50])
    assert_refused(found.folder, found.request, "internal", "session.cbor: damaged")
    join = recorded[0][Stage.JOIN, 0].request
    assert isinstance(ask(found.folder, rebound(join, session=b"n" * 32))[0], Reply)


def test_a_new_session_replaces_the_open_one(moment, recorded):
    found = moment(Stage.TRAIN)
    join = recorded[0][Stage.JOIN, 0].request
    assert isinstance(ask(found.folder, rebound(join, session=b"n" * 32))[0], Reply)
    assert_refused(found.folder, found.request, "policy", "has not joined")


@pytest.mark.parametrize("durable", [True, False])
def test_keys_and_state_are_readable_by_their_owner_only(moment, durable):
    found = moment(Stage.JOIN)
    site = load_site_file(found.folder)
    save_site_file(found.folder, site.model_copy(update={"durable_state": durable}))
    ask(found.folder, found.request)
    assert stat.S_IMODE(found.folder.stat().st_mode) == 0o700
    for name in ("identity.key", "rounding.key", "state/session.cbor"):
        assert stat.S_IMODE((found.folder / name).stat().st_mode) == 0o600
    assert [path.name for path in (found.folder / "state").iterdir()] == ["session.cbor"]
