"""The client's steps S0 to S2: fresh keys, pair keys, confirmation. Each takes a state and returns the next one.

Run by a site, through `privacy.secagg.client`, which checks the order. A peer whose message is refused is excluded and
named; a peer that was silent is simply not there. What the aggregator must not do (drop or change this client's own
message, name a sender twice, relay bytes of no member) raises HostileInputError instead.

It does not notice that the aggregator shows different clients to different clients: a round does, in R2.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from privacy.errors import HostileInputError
from privacy.secagg.client_state import ClientState
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, Body
from privacy.secagg.key_agreement import (
    PairContext,
    SessionKeys,
    confirmation_tag,
    decapsulate_from,
    encapsulate_to,
    first_chain_key,
)
from privacy.secagg.messages import EXCHANGE_KEY_BYTES, KeyAdvertisement, KeyConfirmation, KeyEncapsulation
from privacy.secagg.sealing import matches
from privacy.secagg.seat import Seat

BodyT = TypeVar("BodyT", bound=Body)


def advertise_keys(state: ClientState, seat: Seat) -> tuple[ClientState, bytes]:
    """S0: the public halves of the session's fresh keys."""
    advertisement = _own_keys(state).advertisement()
    message, digest = seat.sign(advertisement, context=seat.session_context, previous=NO_PREVIOUS)
    return replace(state, stage="ADVERTISED", own_digest=digest), message


def encapsulate_keys(state: ClientState, seat: Seat, advertisements: Iterable[bytes]) -> tuple[ClientState, bytes]:
    """S1: pair keys with the peers that come later in the roster, and the ciphertexts that give them the same keys."""
    admitted, excluded = _admit(state, seat, advertisements, KeyAdvertisement, follows=None)
    own = _own_keys(state)
    keys, ciphertexts = {}, {}
    for peer, found in admitted.items():
        if peer > seat.name:
            try:
                keys[peer], ciphertexts[peer] = encapsulate_to(
                    found.body, own=own, context=_pair_context(seat, own, peer, found.body)
                )
            except HostileInputError as error:
                excluded[peer] = str(error)
    message, digest = seat.sign(
        KeyEncapsulation(ciphertexts=ciphertexts), context=seat.session_context, previous=state.own_digest
    )
    accepted = {peer: found for peer, found in admitted.items() if peer not in excluded}
    following = replace(
        state,
        stage="ENCAPSULATED",
        own_digest=digest,
        chain_keys=keys,
        peer_keys={peer: _stored_keys(found.body) for peer, found in accepted.items()},
        setup_digests={peer: found.digest for peer, found in accepted.items()},
        excluded=excluded,
    )
    return following, message


def confirm_keys(state: ClientState, seat: Seat, encapsulations: Iterable[bytes]) -> tuple[ClientState, bytes]:
    """S2: pair keys with the peers that come earlier, and a tag for every peer; the private keys are erased."""
    admitted, excluded = _admit(state, seat, encapsulations, KeyEncapsulation, follows=state.setup_digests)
    own = _own_keys(state)
    keys: dict[str, bytes] = {}
    for peer, found in admitted.items():
        if peer > seat.name:
            keys[peer] = state.chain_keys[peer]
            continue
        ciphertext = found.body.ciphertexts.get(seat.name)
        if ciphertext is None:
            excluded[peer] = "encapsulated no key to this client"
            continue
        peer_keys = _restored_keys(state.peer_keys[peer])
        try:
            keys[peer] = decapsulate_from(
                peer_keys, ciphertext, own=own, context=_pair_context(seat, own, peer, peer_keys)
            )
        except HostileInputError as error:
            excluded[peer] = str(error)
    tags = {
        peer: confirmation_tag(key, sender=seat.name, recipient=peer, session=seat.session_context)
        for peer, key in keys.items()
    }
    message, digest = seat.sign(KeyConfirmation(tags=tags), context=seat.session_context, previous=state.own_digest)
    following = replace(
        state,
        stage="CONFIRMED",
        own_digest=digest,
        exchange_key=b"",
        encapsulation_key=b"",
        peer_keys={},
        chain_keys=keys,
        setup_digests={peer: admitted[peer].digest for peer in keys},
        excluded=excluded,
    )
    return following, message


def accept_confirmations(state: ClientState, seat: Seat, confirmations: Iterable[bytes]) -> ClientState:
    """Keep the peers whose tags match, and start every pair's ratchet."""
    admitted, excluded = _admit(state, seat, confirmations, KeyConfirmation, follows=state.setup_digests)
    keys = {}
    for peer, found in admitted.items():
        pair_key = state.chain_keys[peer]
        expected = confirmation_tag(pair_key, sender=peer, recipient=seat.name, session=seat.session_context)
        if matches(found.body.tags.get(seat.name, b""), expected):
            keys[peer] = first_chain_key(pair_key, session=seat.session_context)
        else:
            excluded[peer] = "key confirmation failed: the peer, or whoever relays, holds another key"
    return replace(
        state,
        stage="READY",
        chain_keys=keys,
        setup_digests={peer: admitted[peer].digest for peer in keys},
        excluded=excluded,
    )


def _admit(
    state: ClientState,
    seat: Seat,
    messages: Iterable[bytes],
    body_type: type[BodyT],
    *,
    follows: Mapping[str, bytes] | None,
) -> tuple[dict[str, Admitted[BodyT]], dict[str, str]]:
    """The peers' messages that count, and all exclusions so far; `follows` holds what each must come after."""
    excluded = dict(state.excluded)
    admitted = seat.admit(
        messages, body_type, context=seat.session_context, own_digest=state.own_digest, excluded=excluded
    )
    kept = {}
    for peer in sorted(set(admitted) - {seat.name} - set(excluded)):
        if follows is not None and peer not in follows:
            continue  # It was silent before, so there is nothing that this message could follow.
        if admitted[peer].previous == (NO_PREVIOUS if follows is None else follows[peer]):
            kept[peer] = admitted[peer]
        else:
            excluded[peer] = "does not follow the message that this client accepted before"
    return kept, excluded


def _own_keys(state: ClientState) -> SessionKeys:
    return SessionKeys(exchange=state.exchange_key, encapsulation=state.encapsulation_key)


def _pair_context(seat: Seat, own: SessionKeys, peer: str, peer_keys: KeyAdvertisement) -> PairContext:
    by_name = {seat.name: own.advertisement(), peer: peer_keys}
    first, second = sorted(by_name)
    return PairContext(
        session=seat.session_context,
        first=first,
        second=second,
        first_keys=by_name[first],
        second_keys=by_name[second],
    )


def _stored_keys(keys: KeyAdvertisement) -> bytes:
    return keys.exchange_key + keys.encapsulation_key


def _restored_keys(stored: bytes) -> KeyAdvertisement:
    return KeyAdvertisement(exchange_key=stored[:EXCHANGE_KEY_BYTES], encapsulation_key=stored[EXCHANGE_KEY_BYTES:])
