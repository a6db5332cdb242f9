"""Secrets stay where they belong: in the stored state, and in no repr, message, pickle or later stage."""

import dataclasses
import pickle
from collections.abc import Mapping

import pytest
from secagg_world import announced, with_peer

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import MisuseError
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientState
from privacy.secagg.envelope import open_envelope
from privacy.secagg.key_agreement import SessionKeys, pair_secret
from privacy.secagg.messages import Complaint, UnmaskReply
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, UnmaskRequest

SECRET_FIELDS = (
    "exchange_key",
    "encapsulation_key",
    "chain_keys",
    "self_seed",
    "pair_secrets",
    "seal_secrets",
    "seed_shares",
    "wrap_shares",
)


def secrets_of(client):
    """Every secret byte string that the client holds now."""
    found = []
    for record in (client._state, client._state.round):
        for name in SECRET_FIELDS if record is not None else ():
            value = getattr(record, name, b"")
            found += list(value.values()) if isinstance(value, Mapping) else [value]
    return [secret for secret in found if secret]


def assert_hidden(client, *messages):
    shown = repr(client) + str(client) + repr(client._state) + repr(client._state.round) + repr(client._seat.identity)
    assert "<secret>" in shown
    for secret in secrets_of(client):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
        for message in messages:
            assert secret not in message


def test_no_secret_shows_in_a_repr_or_a_message_of_any_stage(make_world):
    world = make_world(setup=False)
    client = world.clients["a"]

    def checked(message):
        assert secrets_of(client)
        assert_hidden(client, message)
        return message

    others = [world.clients[name] for name in "bcd"]
    advertised = [checked(client.advertise_keys()), *(other.advertise_keys() for other in others)]
    encapsulated = [checked(client.encapsulate_keys(advertised)), *(o.encapsulate_keys(advertised) for o in others)]
    confirmed = [checked(client.confirm_keys(encapsulated)), *(o.confirm_keys(encapsulated) for o in others)]
    for other in (client, *others):
        other.accept_confirmations(confirmed)
    invitation = world.invitation()
    announcement = world.announcement(invitation)
    shared = [checked(client.share(invitation)), *(other.share(invitation) for other in others)]
    for other in (client, *others):
        assert other.accept(announcement, shared) is None
        assert_hidden(other)
    header, masked = client.mask(world.vectors["a"])
    headers = (checked(header + masked.tobytes())[: len(header)], *(o.mask(world.vectors["a"])[0] for o in others))
    context = RoundAnnouncement.from_bytes(announcement).context
    checked(client.agree(AgreementRequest(context=context, headers=headers).to_bytes()))


def test_unmask_reply_hides_its_shares_in_its_repr(world):
    reply = UnmaskReply(seed_shares={"a": b"s" * 32}, wrap_shares={"b": b"w" * 32})
    assert "sss" not in repr(reply)
    assert "www" not in repr(reply)
    assert "sss" not in repr(Complaint(dealer="a", seal_secret=b"s" * 32))


def test_secrets_are_erased_when_their_stage_is_over(world):
    client = world.clients["a"]
    assert (client._state.exchange_key, client._state.encapsulation_key) == (b"", b"")
    before = dict(client._state.chain_keys)
    round_ = world.begin()
    assert not set(before.values()) & set(client._state.chain_keys.values()), "the ratchet erased the earlier keys"
    dealt = client._state.round
    assert world.accept(round_, "a") is None
    after_accept = client.to_bytes()
    assert len(dealt.seal_secrets) == 3
    for secret in dealt.seal_secrets.values():
        assert secret not in after_accept
    client = world.restore("a")
    round_.add_upload(*client.mask(world.vectors["a"]))
    after_upload = client.to_bytes()
    for secret in (dealt.self_seed, *dealt.pair_secrets.values(), *dealt.seal_secrets.values()):
        assert secret not in after_upload
    shares = [*client._state.round.seed_shares.values(), *client._state.round.wrap_shares.values()]
    assert len(shares) == 7
    for name in "bcd":
        assert world.accept(round_, name) is None
        round_.add_upload(*world.clients[name].mask(world.vectors[name]))
    world.agree(round_)
    world.finish(round_)
    after_unmask = client.to_bytes()
    assert client._state.round is None
    for share in shares:
        assert share not in after_unmask


def test_a_round_that_is_given_up_or_complained_about_leaves_no_secret(world):
    """Also where the round ends without unmasking: by a complaint, or because a later round was begun."""
    round_ = world.begin(corrupt={"b": lambda body: with_peer(body, "a", sealed_seed_share=bytes(48))})
    held = {name: secrets_of(world.clients[name]) for name in "ac"}
    assert world.accept(round_, "a") is not None
    assert world.clients["a"]._state.round is None
    world.clients["c"].share(world.invitation(2))
    for name, found in held.items():
        kept = set(world.clients[name]._state.chain_keys.values())
        for secret in set(found) - kept:
            assert secret not in world.clients[name].to_bytes()


def test_stored_keys_cannot_reproduce_a_round_that_was_dealt(world):
    """Forward secrecy: whoever takes the state after R1 cannot derive the pair secrets of that round again."""
    client = world.clients["a"]
    world.deal(world.server.invite(round_number=3))
    state = client._state
    assert state.chain_round == 4
    for peer, key in state.chain_keys.items():
        assert pair_secret(key, session=state.session, round_number=3) != state.round.pair_secrets[peer]


def test_reply_never_holds_both_kinds_for_one_client(world):
    round_ = world.begin()
    world.upload(round_, absent="d")
    world.agree(round_)
    context = announced(round_).context
    message = world.clients["a"].unmask(round_.request_unmask())
    reply = open_envelope(message, UnmaskReply, context=context, roster=world.roster).body
    assert set(reply.seed_shares) == {"a", "b", "c"}
    assert set(reply.wrap_shares) == {"d"}


@pytest.mark.parametrize("kind", ["client", "state", "round", "identity", "keys"])
def test_nothing_secret_can_be_pickled(world, kind):
    world.deal(world.server.invite(round_number=1))
    client = world.clients["a"]
    record = {
        "client": client,
        "state": client._state,
        "round": client._state.round,
        "identity": client._seat.identity,
        "keys": SessionKeys.generate(),
    }[kind]
    with pytest.raises(MisuseError, match="cannot be pickled"):
        pickle.dumps(record)


def test_state_survives_storage_at_every_stage(make_world):
    """Bytes out and in again change nothing, whatever the stage; run_secure_aggregation then shows the same sums."""
    world = make_world(setup=False)
    client, seen = world.clients["a"], []

    def restored():
        data = client.to_bytes()
        again = SecAggClient.from_bytes(data, identity=world.identities["a"], roster=world.roster)
        assert again.to_bytes() == data
        assert again._state == client._state
        seen.append(again.stage)
        world.clients["a"] = again
        return again

    client = restored()
    others = [world.clients[name] for name in "bcd"]
    advertised = [client.advertise_keys(), *(other.advertise_keys() for other in others)]
    client = restored()
    encapsulated = [client.encapsulate_keys(advertised), *(other.encapsulate_keys(advertised) for other in others)]
    client = restored()
    confirmed = [client.confirm_keys(encapsulated), *(other.confirm_keys(encapsulated) for other in others)]
    client = restored()
    for other in (client, *others):
        other.accept_confirmations(confirmed)
    client = restored()
    invitation = world.invitation()
    announcement = world.announcement(invitation)
    shared = [client.share(invitation), *(other.share(invitation) for other in others)]
    client = restored()
    for other in (client, *others):
        assert other.accept(announcement, shared) is None
    client = restored()
    headers = (client.mask(world.vectors["a"])[0], *(other.mask(world.vectors["a"])[0] for other in others))
    client = restored()
    context = RoundAnnouncement.from_bytes(announcement).context
    request = AgreementRequest(context=context, headers=headers).to_bytes()
    agreements = (client.agree(request), *(other.agree(request) for other in others))
    client = restored()
    client.unmask(UnmaskRequest(context=context, agreements=agreements).to_bytes())
    client = restored()
    assert client.opened.last_survivors == world.names
    rounds = ["SHARED", "ACCEPTED", "UPLOADED", "AGREED", "READY"]
    assert seen == ["CREATED", "ADVERTISED", "ENCAPSULATED", "CONFIRMED", "READY", *rounds]


def test_live_and_restored_clients_give_the_same_sums_over_rounds(world):
    for number, absent in ((1, ""), (2, "d"), (5, "a")):
        result = world.play(number, silent=dict.fromkeys(absent, "upload"))
        survivors = [name for name in world.names if name != absent]
        assert result.total.tolist() == world.total(survivors)
        assert result.dropped == tuple(absent)
        for name in world.names:
            world.restore(name)


def test_damaged_state_is_refused(world):
    client = world.clients["a"]
    data = client.to_bytes()
    for damaged in (b"", data[:-1], data + b"\x00", to_cbor(["another suite", "client state", {}])):
        with pytest.raises(MisuseError, match="stored state"):
            ClientState.from_bytes(damaged)
    suite, label, fields = from_cbor(data)
    for name, value in (("stage", "UNHEARD"), ("last_round", b"1"), ("chain_keys", {"b": "text"}), ("round", 7)):
        with pytest.raises(MisuseError, match="stored"):
            ClientState.from_bytes(to_cbor([suite, label, {**fields, name: value}]))
    for name, value in (("last_survivors", 7), ("last_survivors", [7]), ("survivor_sets", {}), ("records", [])):
        with pytest.raises(MisuseError, match="stored"):
            ClientState.from_bytes(to_cbor([suite, label, {**fields, "opened": {**fields["opened"], name: value}}]))
    with pytest.raises(MisuseError, match="other fields"):
        ClientState.from_bytes(to_cbor([suite, label, {**fields, "extra": 1}]))


def test_state_of_another_site_is_refused(world):
    with pytest.raises(MisuseError, match="belongs to 'a'"):
        SecAggClient.from_bytes(world.clients["a"].to_bytes(), identity=world.identities["b"], roster=world.roster)


def test_records_cannot_be_changed_in_place(world):
    with pytest.raises(dataclasses.FrozenInstanceError):
        world.clients["a"]._state.last_round = 7
