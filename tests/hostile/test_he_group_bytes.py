"""Whatever bytes arrive: an error of the PrivacyError family and no state has moved, or a message read exactly."""

import hashlib

import pytest
from he_group_world import GroupWorld
from hostile_bytes import damaged, hostile, with_other_fields
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError, PrivacyError
from privacy.he.group_round import EncryptedRound
from privacy.he.member_state import MemberState
from privacy.he.messages import (
    EncryptedInput,
    FinalModel,
    GroupKeyConfirmation,
    GroupKeyOffer,
    SnapshotHeader,
    group_context,
)
from privacy.he.requests import EncryptedAnnouncement, PreviousRound
from privacy.secagg.envelope import open_envelope

STEPS = ("accept_offers", "accept_confirmations", "accept", "finish", "read_snapshot", "adopt_snapshot")


class Recording:
    """One run of three sites: every message that was sent, and what a held before each step."""

    def __init__(self):
        world = self.world = GroupWorld(count=3, ready=False)
        self.stored, self.bodies = {}, {}
        offers = world.offers()
        self.offers = [message for message, _ in offers.values()]
        self.sealed = [offers["a"][1]]
        self.stored["accept_offers"] = world.members["a"].to_bytes()
        relayed = world.server.collect_offers(offers.values())
        self.confirmed = list(world.confirmations(relayed, self.sealed).values())
        self.stored["accept_confirmations"] = world.members["a"].to_bytes()
        world.server.collect_confirmations(self.confirmed)
        for name in world.names:
            world.members[name].accept_confirmations(world.channels[name], self.confirmed)
        self.published, _ = world.play()
        self.snapshot = world.snapshot("b")
        self.context = EncryptedAnnouncement.from_bytes(self.published.announcement).context
        end = world.end()
        self.announcement = end.announcement
        self.stored |= dict.fromkeys(("accept", "read_snapshot", "adopt_snapshot"), world.members["a"].to_bytes())
        for name in world.names:
            world.accept(name, end.announcement)
        self.endings = [world.members[name].close() for name in world.names]
        self.stored["finish"] = world.members["a"].to_bytes()
        group = group_context(world.run, fingerprint=world.server.fingerprint)
        end_context = EncryptedAnnouncement.from_bytes(end.announcement).context
        for message, body_type, context in (
            (self.offers[0], GroupKeyOffer, world.setup_context),
            (self.confirmed[0], GroupKeyConfirmation, world.setup_context),
            (self.published.headers[0], EncryptedInput, self.context),
            (self.endings[0], FinalModel, end_context),
            (self.snapshot[0], SnapshotHeader, group),
        ):
            self.bodies[body_type] = (message, context)
        self.requests = {
            EncryptedAnnouncement: (self.published.announcement, self.announcement),
            PreviousRound: (self.published.previous_round,),
        }

    def site(self, step):
        return self.world.load("a", self.stored[step])

    def arguments(self, step):
        """The honest arguments of a step, by where untrusted bytes stand in them."""
        return {
            "accept_offers": [*self.offers, *self.sealed],
            "accept_confirmations": self.confirmed,
            "accept": [self.announcement, self.published.previous_round, self.published.total],
            "finish": self.endings,
            "read_snapshot": list(self.snapshot),
            "adopt_snapshot": [self.snapshot[0]],
        }[step]

    def call(self, member, step, found):
        channels = self.world.channels["a"]
        if step == "accept_offers":
            return member.accept_offers(channels, found[:3], found[3:])
        if step == "accept_confirmations":
            return member.accept_confirmations(channels, found)
        if step == "accept":
            return member.accept(found[0], previous=found[1], total=found[2])
        if step == "finish":
            return member.finish(found)
        if step == "read_snapshot":
            return member.read_snapshot(*found)
        return member.adopt_snapshot(found[0], model_hash=hashlib.sha256(b"no model").digest())


@pytest.fixture(scope="module")
def recording():
    return Recording()


def unharmed(before, after):
    """The states differ in nothing but the count of sums that did not decrypt."""
    one, other = MemberState.from_bytes(before), MemberState.from_bytes(after)
    return {**vars(one), "failed_sums": 0} == {**vars(other), "failed_sums": 0}


@settings(max_examples=150)
@given(data=st.data())
def test_a_step_given_hostile_bytes_goes_right_or_raises_and_changes_nothing(recording, data):
    step = data.draw(st.sampled_from(STEPS))
    found = list(recording.arguments(step))
    where = data.draw(st.integers(0, len(found) - 1))
    large = step in ("accept", "accept_offers", "read_snapshot") and len(found[where]) > 4096
    opaque = large or (step == "read_snapshot" and where == 1)
    found[where] = data.draw(damaged(found[where]) if opaque else hostile(found[where]))
    member = recording.site(step)
    try:
        recording.call(member, step, found)
    except HostileInputError:
        assert unharmed(recording.stored[step], member.to_bytes())
    else:
        # Peers' messages that do not verify are left out, and a holder of the key needs no sealed one.
        assert step in ("accept_offers", "accept_confirmations")


@pytest.mark.parametrize("step", STEPS)
def test_the_honest_bytes_are_accepted(recording, step):
    """Otherwise the test above would show nothing."""
    member = recording.site(step)
    if step == "adopt_snapshot":
        with pytest.raises(HostileInputError, match="another model"):
            recording.call(member, step, recording.arguments(step))
        return
    recording.call(member, step, recording.arguments(step))


@settings(max_examples=150)
@given(data=st.data())
def test_a_signed_body_with_other_fields_is_refused_or_read_exactly(recording, data):
    body_type = data.draw(st.sampled_from(list(recording.bodies)))
    message, context = recording.bodies[body_type]
    honest = open_envelope(message, body_type, context=context, roster=recording.world.roster).body
    fields = data.draw(with_other_fields(from_cbor(to_cbor(honest.to_fields()))))
    try:
        found = body_type.from_fields(fields)
    except HostileInputError:
        return
    assert from_cbor(to_cbor(found.to_fields())) == fields


@settings(max_examples=100)
@given(data=st.data())
def test_a_request_of_other_bytes_is_refused_or_read_exactly(recording, data):
    request_type = data.draw(st.sampled_from(list(recording.requests)))
    message = data.draw(st.sampled_from(recording.requests[request_type]))
    found = data.draw(hostile(message))
    try:
        parsed = request_type.from_bytes(found)
    except HostileInputError:
        return
    assert parsed.to_bytes() == found


@settings(max_examples=60)
@given(data=st.data())
def test_an_input_of_hostile_bytes_is_refused_by_the_aggregator_and_the_rest_counts(recording, data):
    world = recording.world
    announced = EncryptedAnnouncement.from_bytes(recording.published.announcement)
    round_ = EncryptedRound(announced, roster=world.roster, parameters=world.parameters, follows=bytes(32))
    header = recording.published.headers[0]
    with pytest.raises(PrivacyError):
        round_.add_input(data.draw(hostile(header)), data.draw(st.binary(max_size=200)))
    assert round_.uploaded == ()
    assert round_.excluded


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_states_are_refused_or_read_exactly(recording, data):
    stored = recording.stored["accept"]
    fields = from_cbor(stored, max_bytes=2**24)
    found = to_cbor(data.draw(with_other_fields(fields)))
    try:
        parsed = MemberState.from_bytes(found)
    except MisuseError:
        return
    assert parsed.to_bytes() == found
