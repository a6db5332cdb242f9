"""Whatever bytes arrive: HostileInputError and no state has moved, or a message that was read exactly."""

import math

import pytest
from hostile_bytes import damaged, hostile, with_other_fields
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from secagg_world import announced, contexts

from privacy.cbor import MAX_MESSAGE_BYTES, from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError, ProvenCheatingError
from privacy.secagg.blame import Evidence, convict
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientState
from privacy.secagg.differencing import OpenedSums
from privacy.secagg.envelope import open_envelope
from privacy.secagg.messages import (
    Complaint,
    KeyAdvertisement,
    KeyConfirmation,
    KeyEncapsulation,
    MaskedInput,
    ShareMessage,
    SurvivorAgreement,
    UnmaskReply,
    session_context,
)
from privacy.secagg.receipt import Receipt
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, RoundInvitation, UnmaskRequest

UNSIGNED = (RoundInvitation, RoundAnnouncement, AgreementRequest, UnmaskRequest, Evidence)
BODIES = (
    KeyAdvertisement,
    KeyEncapsulation,
    KeyConfirmation,
    ShareMessage,
    Complaint,
    MaskedInput,
    SurvivorAgreement,
    UnmaskReply,
)
STEPS = (
    "encapsulate_keys",
    "confirm_keys",
    "accept_confirmations",
    "share",
    "accept",
    "agree",
    "unmask",
)


class Recording:
    """A run in which b cheats: every message that was sent, and what a and the aggregator held before each step."""

    def __init__(self, world):
        self.world, self.stored = world, {}
        a, others = world.clients["a"], [world.clients[name] for name in world.names[1:]]
        session = session_context(world.session, world.roster)

        def keep(step):
            self.stored[step] = a.to_bytes()

        advertised = [a.advertise_keys(), *(other.advertise_keys() for other in others)]
        keep("encapsulate_keys")
        encapsulated = [a.encapsulate_keys(advertised), *(other.encapsulate_keys(advertised) for other in others)]
        keep("confirm_keys")
        confirmed = [a.confirm_keys(encapsulated), *(other.confirm_keys(encapsulated) for other in others)]
        keep("accept_confirmations")
        server = world.server
        for collect, messages in (
            (server.collect_advertisements, advertised),
            (server.collect_encapsulations, encapsulated),
            (server.collect_confirmations, confirmed),
        ):
            collect(messages)
        for client in (a, *others):
            client.accept_confirmations(confirmed)
        keep("share")
        round_ = self.round = server.invite(round_number=1)
        dealt = list(world.deal(round_))
        world.deal_falsely(dealt, round_, "b", lambda body: type(body)(**{**vars(body), "seed_commitment": bytes(32)}))
        keep("accept")
        round_.collect_shares(dealt)
        world.announce(round_)
        headers = world.upload(round_, absent="d")
        keep("agree")
        self.agreement_request = round_.request_agreement()
        agreements = {name: world.clients[name].agree(self.agreement_request) for name in headers}
        round_.collect_agreements(agreements.values())
        keep("unmask")
        self.receipt = a.receipt
        self.release = round_.request_unmask()
        replies = [world.clients[name].unmask(self.release) for name in headers]
        with pytest.raises(ProvenCheatingError) as caught:
            round_.finish(replies)
        self.evidence = caught.value.evidence
        self.opened = a.opened.to_bytes()
        invited, context = contexts(round_)
        complaint = world.sign(Complaint(dealer="b", seal_secret=bytes(32)), context, sender="a", previous=context)
        self.signed = {
            KeyAdvertisement: (advertised[0], session),
            KeyEncapsulation: (encapsulated[0], session),
            KeyConfirmation: (confirmed[0], session),
            ShareMessage: (dealt[0], invited),
            Complaint: (complaint, context),
            MaskedInput: (headers["a"], context),
            SurvivorAgreement: (agreements["a"], context),
            UnmaskReply: (replies[0], context),
        }
        self.unsigned = {
            RoundInvitation: round_.invitation,
            RoundAnnouncement: round_.messages.announcement,
            AgreementRequest: AgreementRequest(
                context=context, headers=tuple(headers.values()), evidence=(self.evidence,)
            ).to_bytes(),
            UnmaskRequest: self.release,
            Evidence: self.evidence,
        }
        self.lists = {
            "encapsulate_keys": advertised,
            "confirm_keys": encapsulated,
            "accept_confirmations": confirmed,
            "accept": dealt,
        }

    def client(self, step):
        return SecAggClient.from_bytes(self.stored[step], identity=self.world.identities["a"], roster=self.world.roster)


@pytest.fixture(scope="module")
def recording(make_world):
    return Recording(make_world(setup=False))


@pytest.mark.parametrize("message_type", UNSIGNED)
@settings(max_examples=120)
@given(data=st.data())
def test_an_unsigned_message_is_refused_or_read_exactly(recording, message_type, data):
    """Equal bytes and equal meaning are the same: what is accepted encodes to the bytes that were given."""
    message = recording.unsigned[message_type]
    assert message_type.from_bytes(message).to_bytes() == message
    changed = data.draw(hostile(message))
    try:
        found = message_type.from_bytes(changed)
    except HostileInputError:
        return
    assert found.to_bytes() == changed


@pytest.mark.parametrize("body_type", BODIES)
@settings(max_examples=80)
@given(data=st.data())
def test_a_signed_message_with_other_fields_is_refused_or_read_exactly(recording, body_type, data):
    """A corrupt member can sign anything: whatever is in its place, the parser reads just that, or refuses."""
    message, context = recording.signed[body_type]
    roster = recording.world.roster
    body = open_envelope(message, body_type, context=context, roster=roster).body
    fields = data.draw(with_other_fields(from_cbor(to_cbor(body.to_fields()))))

    class Odd:
        KIND = body_type.KIND

        def to_fields(self):
            return fields

    signed = recording.world.sign(Odd(), context, sender="a", previous=bytes(32))
    try:
        found = open_envelope(signed, body_type, context=context, roster=roster)
    except HostileInputError as error:
        assert error.party in ("a", None)
        return
    assert to_cbor(found.body.to_fields()) == to_cbor(fields)


@pytest.mark.parametrize("body_type", BODIES)
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_signed_messages_are_refused(recording, body_type, data):
    message, context = recording.signed[body_type]
    with pytest.raises(HostileInputError):
        open_envelope(data.draw(hostile(message)), body_type, context=context, roster=recording.world.roster)


@pytest.mark.parametrize("body_type", BODIES)
def test_messages_of_another_session_round_or_suite_are_refused(recording, make_world, body_type, monkeypatch):
    """Genuine messages of a second run of the same sites, and one that is signed under a later suite's name."""
    message, context = recording.signed[body_type]
    roster = recording.world.roster
    for wrong in (bytes(32), *{other for _, other in recording.signed.values()} - {context}):
        with pytest.raises(HostileInputError, match="another session, round or announcement"):
            open_envelope(message, body_type, context=wrong, roster=roster)
    with pytest.raises(HostileInputError):
        open_envelope(message, body_type, context=context, roster=make_world(setup=False).roster)
    with monkeypatch.context() as patch:
        patch.setattr("privacy.secagg.envelope.SUITE", "secfed-secagg/3")
        with pytest.raises(HostileInputError, match="expected"):
            open_envelope(message, body_type, context=context, roster=roster)


@pytest.mark.parametrize("message_type", UNSIGNED)
def test_requests_of_another_suite_are_refused(recording, message_type):
    fields = from_cbor(recording.unsigned[message_type])
    for suite in ("secfed-secagg/1", "", 2, b"suite"):
        with pytest.raises(HostileInputError):
            message_type.from_bytes(to_cbor({**fields, "suite": suite}))


@pytest.mark.parametrize("message_type", UNSIGNED)
def test_a_repeated_or_unsorted_key_is_refused(recording, message_type):
    """The second value of a key would be read by some parsers and the first by others."""
    message = recording.unsigned[message_type]
    count = len(from_cbor(message))
    assert message[0] == 0xA0 + count
    name = b"\x65suite"
    start = message.index(name)
    value = to_cbor(from_cbor(message)["suite"])
    pair = name + value
    assert message[start:].startswith(pair)
    repeated = bytes([0xA0 + count + 1]) + message[1:start] + pair + message[start:]
    moved = message[:1] + message[1:start] + message[start + len(pair) :] + pair
    for changed in (repeated, moved):
        if changed != message:
            with pytest.raises(HostileInputError, match="repeated or not in bytewise order"):
                message_type.from_bytes(changed)


@pytest.mark.parametrize("message_type", UNSIGNED)
def test_oversized_messages_are_refused_before_they_are_read(recording, message_type):
    large = recording.unsigned[message_type] + bytes(MAX_MESSAGE_BYTES)
    with pytest.raises(HostileInputError, match="are more than"):
        message_type.from_bytes(large)
    with pytest.raises(HostileInputError, match="are more than"):
        open_envelope(large, MaskedInput, context=bytes(32), roster=recording.world.roster)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_evidence_convicts_nobody(recording, data):
    assert convict(recording.evidence, roster=recording.world.roster).party == "b"
    changed = data.draw(hostile(recording.evidence))
    try:
        found = convict(changed, roster=recording.world.roster)
    except HostileInputError:
        return
    # A reply more or less, or their order, can be changed without breaking the proof; the culprit stays the same.
    assert found.party == "b"


@pytest.fixture(scope="module")
def five(make_world):
    """A world for many rounds, one after the other."""
    return make_world(count=5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(data=st.data())
def test_a_receipt_is_refused_or_read_exactly(recording, data):
    record = recording.receipt.to_json()
    assert Receipt.from_json(record) == recording.receipt
    action = data.draw(st.sampled_from(["replace", "drop", "add", "other"]))
    name = data.draw(st.sampled_from(sorted(record)))
    changed = {key: value for key, value in record.items() if key != name or action == "other"}
    if action == "replace":
        changed[name] = data.draw(JSON)
    elif action == "add":
        changed = {**record, "extra": data.draw(JSON)}
    elif action == "other":
        changed = data.draw(JSON)
    try:
        found = Receipt.from_json(changed)
    except HostileInputError:
        return
    assert found.to_json() == changed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("round_number", math.inf),
        ("round_number", math.nan),
        ("round_number", True),
        ("round_number", "1"),
        ("round_number", 0),
        ("round_number", 2**40),
        ("site", 7),
        ("site", "../elsewhere"),
        ("survivors", "ab"),
        ("survivors", ["b", "a"]),
        ("survivors", ["a", "a"]),
        ("survivors", [1]),
        ("session", ""),
        ("session", "zz"),
        ("context", "00" * 31),
        ("context", "AA" * 32),
        ("context", " " + "00" * 32),
        ("context", None),
        ("survivors_digest", "\u0661" * 64),
    ],
)
def test_mistyped_receipts_are_refused(recording, name, value):
    with pytest.raises(HostileInputError, match=r"receipt|name"):
        Receipt.from_json({**recording.receipt.to_json(), name: value})


@settings(max_examples=150)
@given(data=st.data())
def test_a_site_s_own_files_are_read_exactly_or_refused_as_damaged(recording, data):
    for parse, stored in (
        (ClientState.from_bytes, recording.stored["agree"]),
        (OpenedSums.from_bytes, recording.opened),
    ):
        assert parse(stored).to_bytes() == stored
        changed = data.draw(hostile(stored))
        try:
            found = parse(changed)
        except MisuseError:
            continue
        assert found.to_bytes() == changed


@pytest.mark.parametrize("step", STEPS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_step_with_hostile_bytes_raises_hostile_input_and_changes_nothing(recording, step, data):
    """Of a step that is taken all the same, nothing is claimed here but that the next one can be reached."""
    client, before = recording.client(step), recording.stored[step]
    lists, unsigned = recording.lists, recording.unsigned

    def one_damaged(messages):
        where = data.draw(st.integers(0, len(messages) - 1))
        return [*messages[:where], data.draw(hostile(messages[where])), *messages[where + 1 :]]

    act = {
        "share": lambda: client.share(data.draw(hostile(unsigned[RoundInvitation]))),
        "agree": lambda: client.agree(data.draw(hostile(unsigned[AgreementRequest]))),
        "unmask": lambda: client.unmask(data.draw(hostile(unsigned[UnmaskRequest]))),
        "accept": lambda: (
            client.accept(unsigned[RoundAnnouncement], one_damaged(lists["accept"]))
            if data.draw(st.booleans())
            else client.accept(data.draw(hostile(unsigned[RoundAnnouncement])), lists["accept"])
        ),
    }.get(step) or (lambda: getattr(client, step)(one_damaged(lists[step])))
    try:
        act()
    except HostileInputError:
        assert client.to_bytes() == before
    else:
        assert client.to_bytes() != before


@settings(max_examples=100)
@given(data=st.data())
def test_any_changed_byte_of_an_agreement_request_is_refused(recording, data):
    """All that R3 and R4 ask with was signed by clients, so that no change of it goes through."""
    client = recording.client("agree")
    with pytest.raises(HostileInputError):
        client.agree(data.draw(damaged(recording.agreement_request)))
    assert client.to_bytes() == recording.stored["agree"]


@settings(max_examples=100)
@given(data=st.data())
def test_any_changed_byte_of_an_unmask_request_is_refused(recording, data):
    client = recording.client("unmask")
    with pytest.raises(HostileInputError):
        client.unmask(data.draw(damaged(recording.release)))
    assert client.to_bytes() == recording.stored["unmask"]


@pytest.mark.parametrize("message_type", [RoundInvitation, RoundAnnouncement])
@settings(max_examples=60)
@given(data=st.data())
def test_changed_announcement_never_leads_to_the_same_round(recording, message_type, data):
    """Nobody signs what the aggregator announces: a change is refused, or all later messages have another context."""
    message = recording.unsigned[message_type]
    changed = data.draw(hostile(message))
    # A field may have been replaced by what it was.
    assume(changed != message)
    try:
        found = message_type.from_bytes(changed)
    except HostileInputError:
        return
    assert found.context != message_type.from_bytes(message).context


@settings(max_examples=60)
@given(data=st.data())
def test_the_aggregator_survives_hostile_messages_at_every_step(five, data):
    """Hostile messages beside the honest ones of the same senders cost nobody its place; the sum stays exact."""
    world = five
    number = world.server._last_round + 1
    round_ = world.server.invite(round_number=number)
    dealt = list(world.deal(round_))
    round_.collect_shares([data.draw(hostile(dealt[0])), *dealt])
    assert round_.cohort == world.names
    world.announce(round_)
    headers = world.upload(round_, absent="e")
    for name, message in headers.items():
        with pytest.raises(HostileInputError):
            round_.add_upload(data.draw(hostile(message)), world.vectors[name])
        with pytest.raises(HostileInputError):
            round_.add_complaint(data.draw(hostile(message)))
    request = round_.request_agreement()
    agreements = [world.clients[name].agree(request) for name in "abcd"]
    round_.collect_agreements([data.draw(hostile(agreements[0])), *agreements])
    release = round_.request_unmask()
    replies = [world.clients[name].unmask(release) for name in "abcd"]
    result = round_.finish([data.draw(hostile(replies[0])), *replies])
    assert result.total.tolist() == world.total("abcd")
    assert announced(round_).round_number == number
