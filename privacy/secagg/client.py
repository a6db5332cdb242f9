"""The client's side of secure aggregation: one state machine per session.

Run by a site. Methods take UNVERIFIED bytes and return the bytes to send next:

    CREATED       advertise_keys        -> ADVERTISED      S0
    ADVERTISED    encapsulate_keys      -> ENCAPSULATED    S1
    ENCAPSULATED  confirm_keys          -> CONFIRMED       S2
    CONFIRMED     accept_confirmations  -> READY
    READY         share                 -> SHARED          R1
    SHARED        accept                -> ACCEPTED        R2, or -> READY with a complaint
    ACCEPTED      mask                  -> UPLOADED        R2, once per round
    UPLOADED      agree                 -> AGREED          R3, once per round
    AGREED        unmask                -> READY           R4, once per round
    SHARED to AGREED   share for a later round -> SHARED; the open round and its secrets are given up

Anything else raises HostileInputError and changes nothing, because the order of steps is the aggregator's to drive and
so not to be trusted. **Store `to_bytes()` before sending what a method returned**: a client that forgets an upload
could be made to upload twice under one mask, one that forgets an agreement to agree twice.

Source: Bonawitz et al. 2017 (eprint 2017/281), figure 4, with hybrid pair keys and wrapped pair secrets in place of the
shared X25519 key. It does not protect what the sum itself says about a client.
"""

from collections.abc import Mapping, Sequence
from typing import NoReturn, Self

from privacy.entropy import SYSTEM_ENTROPY, Entropy
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg import client_round, client_setup
from privacy.secagg.channels import SessionChannels, derive_channels
from privacy.secagg.client_state import ClientFloors, ClientState, Stage
from privacy.secagg.differencing import NOTHING_OPENED, OpenedSums
from privacy.secagg.identity import Identity
from privacy.secagg.key_agreement import SessionKeys
from privacy.secagg.messages import session_context
from privacy.secagg.receipt import Receipt
from privacy.secagg.requests import RoundAnnouncement
from privacy.secagg.roster import Roster
from privacy.secagg.seat import Seat
from privacy.streams import Words

__all__ = ["ClientFloors", "OpenedSums", "SecAggClient"]

_SETUP = ("CREATED", "ADVERTISED", "ENCAPSULATED", "CONFIRMED")


class SecAggClient:
    """One client in one session; build it with `create` or `from_bytes`."""

    def __init__(
        self, state: ClientState, *, identity: Identity, roster: Roster, entropy: Entropy = SYSTEM_ENTROPY
    ) -> None:
        if identity.name not in roster or roster.public_key(identity.name) != identity.public_key:
            raise MisuseError(
                f"the roster (version {roster.version}) does not list {identity.name!r} with this identity's key"
            )
        if state.name != identity.name or state.roster_digest != roster.digest:
            raise MisuseError(f"the state belongs to {state.name!r} or to another roster, not to {identity.name!r}")
        self._state = state
        self._entropy = entropy
        self._seat = Seat(identity=identity, roster=roster, session=state.session)

    @classmethod
    def create(
        cls,
        *,
        identity: Identity,
        roster: Roster,
        session: bytes,
        floors: ClientFloors,
        opened: OpenedSums = NOTHING_OPENED,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> Self:
        """A client at the start of a session; `session` is 16 to 32 bytes that no earlier session used.

        `opened` is what the site helped to open in earlier sessions.

        Raises:
            MisuseError: the identity is not in the roster, or the session has a wrong length.
        """
        session_context(session, roster)
        keys = SessionKeys.generate(entropy)
        state = ClientState(
            stage="CREATED",
            name=identity.name,
            session=session,
            roster_digest=roster.digest,
            floors=floors,
            exchange_key=keys.exchange,
            encapsulation_key=keys.encapsulation,
            peer_keys={},
            setup_digests={},
            chain_keys={},
            excluded={},
            opened=opened,
        )
        return cls(state, identity=identity, roster=roster, entropy=entropy)

    @classmethod
    def from_bytes(cls, data: bytes, *, identity: Identity, roster: Roster, entropy: Entropy = SYSTEM_ENTROPY) -> Self:
        """A client as `to_bytes` stored it.

        Raises:
            MisuseError: damaged bytes, or another site's, or another roster.
        """
        return cls(ClientState.from_bytes(data), identity=identity, roster=roster, entropy=entropy)

    def to_bytes(self) -> bytes:
        """Everything that the next process needs. The bytes hold secrets."""
        return self._state.to_bytes()

    @property
    def stage(self) -> Stage:
        """Where in the list of transitions the client stands."""
        return self._state.stage

    @property
    def last_round(self) -> int:
        """The newest round that the client shared secrets for; only later ones are accepted."""
        return self._state.last_round

    @property
    def peers(self) -> tuple[str, ...]:
        """From READY on, the clients with which pair keys are confirmed."""
        return tuple(sorted(self._state.chain_keys)) if self.stage not in _SETUP else ()

    @property
    def excluded(self) -> Mapping[str, str]:
        """Clients whose setup messages were refused, with the reason; a client that was merely silent is not named."""
        return dict(self._state.excluded)

    @property
    def announcement(self) -> RoundAnnouncement | None:
        """From ACCEPTED on, what the open round is about, to be compared with the model and plan at hand."""
        open_round = self._state.round
        if open_round is None or not open_round.announcement:
            return None
        return RoundAnnouncement.from_bytes(open_round.announcement)

    @property
    def opened(self) -> OpenedSums:
        """What this client has helped to open; it goes on into the site's next session."""
        return self._state.opened

    @property
    def receipt(self) -> Receipt | None:
        """In AGREED, what this site can later hold against a transcript; to be kept with the site's own books."""
        return client_round.receipt(self._state) if self.stage == "AGREED" else None

    def advertise_keys(self) -> bytes:
        """S0: fresh public keys, signed."""
        self._require("CREATED")
        self._state, message = client_setup.advertise_keys(self._state, self._seat)
        return message

    def encapsulate_keys(self, advertisements: Sequence[bytes]) -> bytes:
        """S1: given every client's S0 (own included), ciphertexts for the peers that come later in the roster.

        Raises:
            HostileInputError: own message missing or changed, a sender named twice, or bytes that name no member.
        """
        self._require("ADVERTISED")
        self._state, message = client_setup.encapsulate_keys(self._state, self._seat, advertisements)
        return message

    def confirm_keys(self, encapsulations: Sequence[bytes]) -> bytes:
        """S2: given every client's S1 (own included), one confirmation tag per peer; erases the session's private keys.

        Raises:
            HostileInputError: own message missing or changed, a sender named twice, or bytes that name no member.
        """
        self._require("ENCAPSULATED")
        self._state, message = client_setup.confirm_keys(self._state, self._seat, encapsulations)
        return message

    def accept_confirmations(self, confirmations: Sequence[bytes]) -> None:
        """Given every client's S2 (own included), keep the peers whose tags match and name the others.

        Raises:
            HostileInputError: own message missing or changed, a sender named twice, or bytes that name no member.
        """
        self._require("CONFIRMED")
        self._state = client_setup.accept_confirmations(self._state, self._seat, confirmations)

    def channels(self, purpose: str) -> SessionChannels:
        """Keys for another purpose with every confirmed peer; legal in READY, and it changes nothing.

        Two clients get equal keys while they stand at the same round, as they do at the start of a session.

        Raises:
            HostileInputError: the client is in another stage.
            MisuseError: the purpose is empty.
        """
        self._require("READY")
        return derive_channels(self._state, purpose=purpose, session_context=self._seat.session_context)

    def share(self, invitation: bytes) -> bytes:
        """R1: shares for a round that this site's floors allow; ratchets every pair key past the round.

        In SHARED, the same invitation gives the same bytes again, because an answer may get lost on its way.

        Raises:
            HostileInputError: the invitation is malformed, for another session or roster, not newer than the last
                round, below a floor, or names too few confirmed peers.
        """
        self._require("READY", "SHARED", "ACCEPTED", "UPLOADED", "AGREED")
        self._state, message = client_round.share(self._state, self._seat, invitation, self._entropy)
        return message

    def accept(self, announcement: bytes, shares: Sequence[bytes]) -> bytes | None:
        """R2, before training: check what the round is about, and the R1 messages of U1 (own included).

        Returns None where all is well. Otherwise a complaint to be sent instead of an upload: a dealer's shares
        contradict its commitments, and this client's part in the round is over.

        Raises:
            HostileInputError: the announcement is for another invitation, U1 is too small or lacks this client, or a
                message does not verify; `party` names the peer whose message is to blame.
        """
        self._require("SHARED")
        self._state, complaint = client_round.accept(self._state, self._seat, announcement, shares)
        return complaint

    def mask(self, vector: Words) -> tuple[bytes, Words]:
        """R2: the signed header and the masked vector, both to be sent.

        `vector` is uint32 of shape (vector_length,), as `fixed_point.encode` returns it; it is not changed.

        Raises:
            MisuseError: the vector has another type or length than announced.
        """
        self._require("ACCEPTED")
        self._state, header, masked = client_round.mask(self._state, self._seat, vector)
        return header, masked

    def agree(self, request: bytes) -> bytes:
        """R3: this client's one signature on the survivor set of the round.

        Raises:
            HostileInputError: the survivors are too few, lack this client, are no subset of U1, a header is not signed
                for this round and this U1, or the sum would single a site out (privacy.secagg.differencing).
        """
        self._require("UPLOADED")
        self._state, message = client_round.agree(self._state, self._seat, request)
        return message

    def unmask(self, request: bytes) -> bytes:
        """R4: for each survivor the share of its self seed, for each dropped client of U1 the share of its wrap key.

        Raises:
            HostileInputError: fewer than the threshold of survivors agreed, or one agreed to another set.
        """
        self._require("AGREED")
        self._state, message = client_round.unmask(self._state, self._seat, request)
        return message

    def _require(self, *stages: Stage) -> None:
        if self.stage not in stages:
            raise HostileInputError(
                f"this step is legal in {' or '.join(stages)}, but the client is in {self.stage}: "
                "steps follow the order in privacy.secagg.client, each once"
            )

    def __repr__(self) -> str:
        return f"SecAggClient(name={self._state.name!r}, stage={self.stage}, last_round={self.last_round}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a SecAggClient cannot be pickled: it holds secrets; use to_bytes and a private file")
