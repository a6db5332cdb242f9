"""Bytes that nobody honest sent: every parser of signed messages answers with HostileInputError, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_world import announced, contexts

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.secagg.envelope import open_envelope, seal_envelope
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
from privacy.secagg.roster import generate_consortium_key, sign_roster, verify_roster

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


class Sample:
    """One genuine message of every kind, and its context."""

    def __init__(self, world):
        self.world = world
        round_ = world.begin()
        headers = world.upload(round_, absent="d")
        agreements = world.agree(round_)
        reply = world.clients["a"].unmask(round_.request_unmask())
        session = session_context(world.session, world.roster)
        invited, context = contexts(round_)
        complaint = world.sign(
            Complaint(dealer="b", seal_secret=bytes(32)), context, sender="a", previous=announced(round_).context
        )
        self.signed = {
            KeyAdvertisement: (world.advertised[0], session),
            KeyEncapsulation: (world.encapsulated[0], session),
            KeyConfirmation: (world.confirmed[0], session),
            ShareMessage: (round_.shares[0], invited),
            Complaint: (complaint, context),
            MaskedInput: (headers["a"], context),
            SurvivorAgreement: (agreements["a"], context),
            UnmaskReply: (reply, context),
        }

    def open(self, body_type, data):
        return open_envelope(data, body_type, context=self.signed[body_type][1], roster=self.world.roster)


@pytest.fixture(scope="module")
def sample(make_world):
    return Sample(make_world())


@pytest.mark.parametrize("body_type", BODIES)
def test_genuine_messages_are_admitted(sample, body_type):
    found = sample.open(body_type, sample.signed[body_type][0])
    assert found.sender == "a"
    assert isinstance(found.body, body_type)


@pytest.mark.parametrize("body_type", BODIES)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_of_a_signed_message_is_refused(sample, body_type, position, flip):
    message = sample.signed[body_type][0]
    where = int(position * len(message))
    changed = message[:where] + bytes([message[where] ^ flip]) + message[where + 1 :]
    with pytest.raises(HostileInputError):
        sample.open(body_type, changed)


@pytest.mark.parametrize("body_type", BODIES)
@given(data=st.data())
def test_truncated_and_extended_messages_are_refused(sample, body_type, data):
    message = sample.signed[body_type][0]
    keep = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(HostileInputError):
        sample.open(body_type, message[:keep])
    with pytest.raises(HostileInputError):
        sample.open(body_type, message + data.draw(st.binary(min_size=1, max_size=20)))


@pytest.mark.parametrize("body_type", BODIES)
@pytest.mark.parametrize("other", BODIES)
def test_message_of_one_kind_is_not_read_as_another(sample, body_type, other):
    if body_type is not other:
        with pytest.raises(HostileInputError):
            sample.open(body_type, sample.signed[other][0])


@pytest.mark.parametrize("body_type", BODIES)
def test_same_body_under_another_kind_or_suite_is_refused(sample, body_type, monkeypatch):
    message, context = sample.signed[body_type]
    fields = sample.open(body_type, message).body.to_fields()

    class Relabelled:
        KIND = "S9 another step"

        def to_fields(self):
            return fields

    def sealed(body):
        sign = sample.world.identities["a"].sign
        return seal_envelope(body, context=context, sender="a", previous=bytes(32), sign=sign)[0]

    relabelled = sealed(Relabelled())
    with pytest.raises(HostileInputError, match="the message is 'S9 another step'"):
        sample.open(body_type, relabelled)
    Relabelled.KIND = body_type.KIND
    assert sample.open(body_type, sealed(Relabelled())).body == sample.open(body_type, message).body
    with monkeypatch.context() as patch:
        patch.setattr("privacy.secagg.envelope.SUITE", "secfed-secagg/0")
        older = sealed(Relabelled())
    with pytest.raises(HostileInputError, match="of 'secfed-secagg/0', expected"):
        sample.open(body_type, older)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_previous_that_is_no_digest_is_refused(sample, length):
    message, context = sample.signed[MaskedInput]
    forged = sample.world.forge(message, MaskedInput, context, lambda body: body, previous=bytes(length))
    with pytest.raises(HostileInputError, match="a digest has 32") as caught:
        sample.open(MaskedInput, forged)
    assert caught.value.party == "a"


@pytest.mark.parametrize("body_type", BODIES)
def test_message_under_another_context_is_refused(sample, body_type):
    with pytest.raises(HostileInputError, match="another session, round or announcement"):
        open_envelope(sample.signed[body_type][0], body_type, context=bytes(32), roster=sample.world.roster)


@pytest.mark.parametrize("body_type", BODIES)
def test_message_signed_by_another_member_is_refused(sample, body_type):
    message, context = sample.signed[body_type]
    body = sample.open(body_type, message).body
    forged, _ = seal_envelope(
        body, context=context, sender="a", previous=bytes(32), sign=sample.world.identities["b"].sign
    )
    with pytest.raises(HostileInputError, match="signature") as caught:
        sample.open(body_type, forged)
    assert caught.value.party == "a"


@pytest.mark.parametrize("body_type", BODIES)
@given(data=st.data())
def test_signed_bodies_with_other_fields_or_types_are_refused(sample, body_type, data):
    """A corrupt member can sign anything: a field too many, too few, or of another type is refused all the same."""
    message, context = sample.signed[body_type]
    fields = dict(sample.open(body_type, message).body.to_fields())
    name = data.draw(st.sampled_from(sorted(fields)))
    action = data.draw(st.sampled_from(["drop", "add", "retype"]))
    if action == "drop":
        del fields[name]
    elif action == "add":
        fields["extra"] = 1
    else:
        fields[name] = data.draw(st.sampled_from([[], "no name!", b"short", {"a": 7}, {"A!": b""}, {"a": b""}, [1]]))

    class Odd:
        KIND = body_type.KIND

        def to_fields(self):
            return fields

    forged, _ = seal_envelope(
        Odd(), context=context, sender="a", previous=bytes(32), sign=sample.world.identities["a"].sign
    )
    if action == "retype" and body_type is ShareMessage and name == "wrapped" and isinstance(fields[name], bytes):
        return  # the wrap is opaque until its owner drops, see test_secagg_corrupt_client
    if action == "retype" and fields[name] == [] and body_type is SurvivorAgreement:
        return  # a set of names that is too small is refused by what it binds, see test_secagg_survivors
    with pytest.raises(HostileInputError) as caught:
        sample.open(body_type, forged)
    assert caught.value.party == "a"


@given(noise=st.binary(max_size=200))
def test_noise_is_refused_by_every_parser(sample, noise):
    for body_type in BODIES:
        with pytest.raises(HostileInputError):
            sample.open(body_type, noise)
    with pytest.raises(HostileInputError):
        verify_roster(noise, anchor=bytes(32), now=0)


@given(noise=st.binary(max_size=64))
def test_decoder_accepts_exactly_what_the_encoder_writes(noise):
    try:
        value = from_cbor(noise)
    except HostileInputError:
        return
    assert to_cbor(value) == noise


@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("1817"),  # 23 in two bytes
        bytes.fromhex("20"),  # a negative integer
        bytes.fromhex("f4"),  # false
        bytes.fromhex("fb3ff0000000000000"),  # a float
        bytes.fromhex("c074323032302d30312d30315430303a30303a30305a"),  # a tagged date
        bytes.fromhex("5f41004100ff"),  # an indefinite byte string
        bytes.fromhex("a2616201616101"),  # keys out of order
        bytes.fromhex("a2616101616101"),  # one key twice
        bytes.fromhex("a10101"),  # a key that is no text
        bytes.fromhex("61ff"),  # text that is not UTF-8
        bytes.fromhex("9bffffffffffffffff"),  # an array longer than memory
        bytes.fromhex("5bffffffffffffffff"),  # a byte string longer than memory
        b"\x81" * 100,  # nested too deep
        b"",
        b"\x00\x00",
        "text",
    ],
)
def test_decoder_refuses_what_is_not_deterministic(data):
    with pytest.raises(HostileInputError):
        from_cbor(data)


def test_oversized_messages_are_refused_before_parsing():
    with pytest.raises(HostileInputError, match="more than the"):
        from_cbor(bytes(5 * 2**20))


def test_forged_expired_and_malformed_rosters_are_refused(sample):
    roster, key = sample.world.roster, generate_consortium_key()
    anchor = key.public_key().public_bytes_raw()
    signed = sign_roster(roster, key)
    assert verify_roster(signed, anchor=anchor, now=0) == roster
    for data, when, reason in (
        (signed, roster.expires, "expired"),
        (sign_roster(roster, generate_consortium_key()), 0, "not signed by the consortium"),
        (signed[:-1], 0, "end inside a value"),
    ):
        with pytest.raises(HostileInputError, match=reason):
            verify_roster(data, anchor=anchor, now=when)
    rows = [[member.name, member.public_key] for member in roster.members]
    for bad_rows, reason in (
        ([*rows, rows[-1]], "sorted by name, each name once"),
        (rows[::-1], "sorted by name"),
        ([rows[0], ["b", rows[0][1]]], "same public key"),
        ([*rows[:1], ["b", b"short"]], "32 bytes"),
        ([*rows[:1], ["B!", rows[1][1]]], "1 to 31"),
        (rows[:1], "2 to 256"),
        ([*rows, ["e"]], "row is an array"),
    ):
        payload = to_cbor(["secfed-roster/1", "consortium", 1, 2**40, bad_rows])
        with pytest.raises(HostileInputError, match=reason):
            verify_roster(to_cbor([payload, key.sign(payload)]), anchor=anchor, now=0)


@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_of_a_roster_is_refused(sample, position, flip):
    key = generate_consortium_key()
    signed = sign_roster(sample.world.roster, key)
    where = int(position * len(signed))
    changed = signed[:where] + bytes([signed[where] ^ flip]) + signed[where + 1 :]
    with pytest.raises(HostileInputError):
        verify_roster(changed, anchor=key.public_key().public_bytes_raw(), now=0)
