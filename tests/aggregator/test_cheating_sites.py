"""A site that cheats is named, left out for the rest of the job, and the round is run again with fresh secrets."""

import dataclasses

import pytest
from small_federation import config, digest, journal, provision, site_log, train

from privacy.secagg import client_round, dealing
from privacy.secagg.blame import convict
from privacy.secagg.messages import Complaint
from secfed.aggregator_files import EVIDENCE

CHEATER = "mr-b"
OTHERS = ["ct-a", "ct-b", "mr-a"]


def flipped(value):
    return bytes([value[0] ^ 1]) + value[1:]


@pytest.fixture
def cheat(monkeypatch):
    """Replaces what the cheater deals; everybody else deals honestly."""

    def install(change):
        honest = client_round.deal_shares

        def deal(**given):
            own_share, message = honest(**given)
            return (own_share, change(given, message)) if given["dealer"] == CHEATER else (own_share, message)

        monkeypatch.setattr(client_round, "deal_shares", deal)

    return install


def bad_polynomial(kind):
    """One share lies off the polynomial, and its commitment says so: no holder can see it."""

    def change(given, message):
        holder = "ct-a"
        share = b"\x07" * 32
        facts = {"dealer": CHEATER, "holder": holder, "context": given["context"]}
        row = dataclasses.replace(
            message.peers[holder],
            **{
                f"sealed_{kind}_share": dealing.seal_share(
                    share, kind=f"{kind} share", seal_secret=given["seal_secrets"][holder], **facts
                ),
                f"{kind}_share_commitment": dealing.commit_share(share, kind=f"{kind} share", **facts),
            },
        )
        return dataclasses.replace(message, peers={**message.peers, holder: row})

    return change


def bad_seal(_, message):
    """The sealed share of one holder is not the one that was committed to."""
    row = message.peers["ct-a"]
    row = dataclasses.replace(row, seed_share_commitment=flipped(row.seed_share_commitment))
    return dataclasses.replace(message, peers={**message.peers, "ct-a": row})


def bad_wrap(given, message):
    """The wrap holds other pair secrets than were committed to."""
    secrets = {peer: flipped(secret) for peer, secret in given["pair_secrets"].items()}
    wrapped = dealing.wrap_pair_secrets(secrets, wrap_key=given["wrap_key"], owner=CHEATER, context=given["context"])
    return dataclasses.replace(message, wrapped_pair_secrets=wrapped)


def gone(node, message):
    """The cheater drops out before it trains, so that its wrap has to be opened."""
    return None if node == 1003 and message.metadata.message_type == "train" else message


@pytest.fixture
def without_the_cheater(scans, tmp_path):
    """The model of a run in which the cheater never took part."""
    job = provision(tmp_path / "without", config(scans))
    train(job, intercept=lambda node, message: None if node == 1003 else message)
    return digest(job)


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    class Clock:
        now = 0.0
        perf_counter = staticmethod(lambda: 0.0)

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    monkeypatch.setattr("aggregator.admission.time", Clock())


@pytest.mark.parametrize(
    ("change", "drops", "because"),
    [
        (bad_polynomial("seed"), False, "do not give the self seed"),
        (bad_polynomial("wrap"), True, "do not give the wrap key"),
        (bad_wrap, True, "wrapped another pair secret"),
    ],
    ids=["seed shares", "wrap shares", "wrap"],
)
def test_a_dealer_that_shows_when_its_secrets_are_opened_is_convicted_and_left_out(
    scans, tmp_path, cheat, without_the_cheater, change, drops, because
):
    cheat(change)
    job = provision(tmp_path / "masked", config(scans))
    train(job, intercept=gone if drops else None)
    assert [entry["survivors"] for entry in journal(job)] == [OTHERS, OTHERS]
    (reason,) = journal(job)[0]["failed_attempts"]
    assert CHEATER in reason
    assert because in reason
    (path,) = (job.aggregator_folder / EVIDENCE).iterdir()
    from aggregator.folder import AggregatorFolder

    assert convict(path.read_bytes(), roster=AggregatorFolder(job.aggregator_folder).roster()).party == CHEATER
    assert digest(job) == without_the_cheater


def test_a_dealer_that_a_holder_catches_is_left_out_before_anything_is_opened(
    scans, tmp_path, cheat, without_the_cheater
):
    cheat(bad_seal)
    job = provision(tmp_path / "masked", config(scans))
    opened = []

    def watch(_, message):
        if message.metadata.message_type == "query.unmask":
            opened.append(message.metadata.group_id)
        return message

    train(job, intercept=watch)
    assert [entry["survivors"] for entry in journal(job)] == [OTHERS, OTHERS]
    (reason,) = journal(job)[0]["failed_attempts"]
    assert reason.startswith(f"{CHEATER}: the seed share is not the one that it committed to")
    assert len(opened) == 6
    assert digest(job) == without_the_cheater


def test_a_false_complaint_names_its_author_and_the_round_goes_on(scans, tmp_path, monkeypatch):
    honest = client_round.accept

    def accept(state, seat, announcement, shares):
        following, complaint = honest(state, seat, announcement, shares)
        if seat.name != CHEATER:
            return following, complaint
        secret = state.round.seal_secrets["ct-a"]
        announced = client_round.RoundAnnouncement.from_bytes(announcement)
        message, _ = seat.sign(
            Complaint(dealer="ct-a", seal_secret=secret),
            context=announced.context,
            previous=following.round.cohort_digest,
        )
        return dataclasses.replace(state, stage="READY", round=None), message

    monkeypatch.setattr(client_round, "accept", accept)
    job = provision(tmp_path, config(scans))
    train(job)
    assert [entry["survivors"] for entry in journal(job)] == [OTHERS, OTHERS]
    assert [entry["failed_attempts"] for entry in journal(job)] == [[], []]
    assert "complained about ct-a, whose shares are as committed" in journal(job)[0]["lost"][CHEATER]
    assert site_log(job, "ct-a") == ""
