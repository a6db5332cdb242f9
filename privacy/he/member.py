"""The site's side of an encrypted run: one state machine per run, over any number of sessions.

Run by a site. Methods take UNVERIFIED bytes and return the bytes to send next:

    any but ENDED   offer                -> OFFERED     G0, once per session
    OFFERED         accept_offers        -> CONFIRMED   G1
    CONFIRMED       accept_confirmations -> READY
    READY to CLOSED accept               -> ACCEPTED    E0, with a sum to step on
                                         -> STEPPED     E0, where the site has stepped on it already
    ACCEPTED        record_model         -> STEPPED     after the server optimiser's step, which is outside
    STEPPED         encrypt              -> UPLOADED    E1, once per round
    STEPPED         close                -> CLOSED      E2, where the end was announced
    CLOSED          finish               -> ENDED       the group key is erased
    READY, UPLOADED withdraw             -> READY       the upload came too late: later sums go without it
    READY to CLOSED adopt_snapshot       -> READY       stand where a peer stands
    READY to CLOSED give_snapshot, read_snapshot        change nothing

Anything else raises HostileInputError and changes nothing, because the order of steps is the aggregator's to drive and
so not to be trusted. The channels of G0 and G1 come from a secure-aggregation client of the session. ACCEPTED and
STEPPED take the very announcement that they hold once more, for a process that died before it sent anything.

**Store `to_bytes()` before sending what a method returned, and also after `accept` raised**: a sum that does not
decrypt tells whoever sent it a little about the key, so the state counts them (`MAX_FAILED_SUMS`).

It does not protect against a peer that colludes with the aggregator: together they read every single update.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NoReturn, Self

from privacy.entropy import SYSTEM_ENTROPY, Entropy
from privacy.errors import HostileInputError, MisuseError
from privacy.he import member_round, member_setup
from privacy.he.errors import UnreadableSumError
from privacy.he.key_holder import GroupKey
from privacy.he.member_round import Snapshot
from privacy.he.member_setup import Site
from privacy.he.member_state import MemberStage, MemberState
from privacy.he.messages import require_run
from privacy.he.parameters import MAX_SUM, HeParameters
from privacy.he.receipt import EncryptedReceipt
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.channels import SessionChannels
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.envelope import DIGEST_BYTES
from privacy.secagg.identity import Identity
from privacy.secagg.requests import MAX_ROUND
from privacy.secagg.roster import Roster
from privacy.secagg.seat import Seat
from privacy.streams import Words

__all__ = ["MAX_FAILED_SUMS", "GroupMember", "Snapshot"]

MAX_FAILED_SUMS = 8
"""Sums in a run that may fail to decrypt at one site. Each failure is one bit about a key of thousands."""

_ALL: tuple[MemberStage, ...] = (
    "CREATED",
    "OFFERED",
    "CONFIRMED",
    "READY",
    "ACCEPTED",
    "STEPPED",
    "UPLOADED",
    "CLOSED",
)
_HOLDING = _ALL[3:]


class GroupMember:
    """One site in one run; build it with `create` or `from_bytes`."""

    def __init__(
        self,
        state: MemberState,
        *,
        identity: Identity,
        roster: Roster,
        parameters: HeParameters,
        floors: ClientFloors,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> None:
        if identity.name not in roster or roster.public_key(identity.name) != identity.public_key:
            raise MisuseError(
                f"the roster (version {roster.version}) does not list {identity.name!r} with this identity's key"
            )
        if state.name != identity.name or state.roster_digest != roster.digest:
            raise MisuseError(f"the state belongs to {state.name!r} or to another roster, not to {identity.name!r}")
        if state.parameters != parameters.digest:
            raise MisuseError("the state belongs to a run under other parameters of encryption")
        self._state = state
        self._identity, self._roster = identity, roster
        self._parameters, self._floors, self._entropy = parameters, floors, entropy
        self._key: GroupKey | None = None

    @classmethod
    def create(
        cls,
        *,
        identity: Identity,
        roster: Roster,
        run: bytes,
        parameters: HeParameters,
        floors: ClientFloors,
        model_hash: bytes,
        completed: int = 0,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> Self:
        """A site at the start of a run, or one that lost its state.

        `run` is 32 bytes that no other run uses, `model_hash` the SHA-256 of the model that the site stands on after
        `completed` rounds, as the site's own books say: 0 and the initial model at the start of a run.

        Raises:
            MisuseError: the identity is not in the roster, or an argument has the wrong length or range.
        """
        if len(model_hash) != DIGEST_BYTES or not 0 <= completed <= MAX_ROUND:
            raise MisuseError(
                f"model_hash has {len(model_hash)} bytes and completed = {completed}; {DIGEST_BYTES} bytes and a "
                f"number in [0, {MAX_ROUND}] are needed"
            )
        state = MemberState(
            stage="CREATED",
            name=identity.name,
            run=require_run(run),
            roster_digest=roster.digest,
            parameters=parameters.digest,
            completed=completed,
            model_hash=model_hash,
        )
        return cls(state, identity=identity, roster=roster, parameters=parameters, floors=floors, entropy=entropy)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        identity: Identity,
        roster: Roster,
        parameters: HeParameters,
        floors: ClientFloors,
        entropy: Entropy = SYSTEM_ENTROPY,
    ) -> Self:
        """A site as `to_bytes` stored it.

        Raises:
            MisuseError: damaged bytes, or another site's, or another roster, or other parameters.
        """
        state = MemberState.from_bytes(data)
        return cls(state, identity=identity, roster=roster, parameters=parameters, floors=floors, entropy=entropy)

    def to_bytes(self) -> bytes:
        """Everything that the next process needs. The bytes hold the group key."""
        return self._state.to_bytes()

    @property
    def stage(self) -> MemberStage:
        """Where in the list of transitions the site stands."""
        return self._state.stage

    @property
    def completed(self) -> int:
        """The sums of the run that the site stepped on."""
        return self._state.completed

    @property
    def model_hash(self) -> bytes:
        """The SHA-256 of the model that the site stands on."""
        return self._state.model_hash

    @property
    def last_round(self) -> int:
        """The newest round number that the site accepted; only later ones are."""
        return self._state.last_round

    @property
    def fingerprint(self) -> bytes:
        """Which group key the site holds, 32 bytes; empty without one."""
        return self._state.fingerprint

    @property
    def members(self) -> tuple[str, ...]:
        """From READY on, who confirmed the group key in this session, this site included."""
        return self._state.members if self.stage in _HOLDING else ()

    @property
    def standings(self) -> Mapping[str, int]:
        """The rounds that each site said in its offer to have completed, this site included."""
        return dict(self._state.standings)

    @property
    def disagreeing(self) -> tuple[str, ...]:
        """Peers whose offers said that after as many rounds they stand on another model than this site."""
        standings, tags = self._state.standings, self._state.tags
        own = tags.get(self._state.name)
        return tuple(
            sorted(
                name
                for name, tag in tags.items()
                if own is not None and standings[name] == standings[self._state.name] and tag != own
            )
        )

    @property
    def excluded(self) -> Mapping[str, str]:
        """Sites whose setup messages were refused, with the reason."""
        return dict(self._state.excluded)

    @property
    def announcement(self) -> EncryptedAnnouncement | None:
        """What the open round is about, to be compared with the plan and policy at hand."""
        return EncryptedAnnouncement.from_bytes(self._state.announcement) if self._state.announcement else None

    @property
    def receipt(self) -> EncryptedReceipt | None:
        """What to keep of a round or of the end once this site signed its part, for an audit; None at other stages."""
        return member_round.receipt(self._state) if self.stage in ("UPLOADED", "CLOSED") else None

    def offer(self, channels: SessionChannels) -> tuple[bytes, bytes]:
        """G0, and the sealed group key that travels beside it (empty where this site has none to offer).

        `channels` come from `SecAggClient.channels(distribution.CHANNEL_PURPOSE)`. An open round is given up.

        Raises:
            HostileInputError: this site has made its offer in this session before.
            MisuseError: the channels belong to another site.
        """
        self._require(*_ALL)
        if channels.name != self._state.name:
            raise MisuseError(f"the channels belong to {channels.name!r}, not to {self._state.name!r}")
        if channels.session == self._state.session:
            raise HostileInputError("this site has made its offer in this session; a new session is needed")
        site = self._site(session=channels.session)
        self._state, message, sealed = member_setup.offer(self._state, site, channels)
        return message, sealed

    def accept_offers(
        self, channels: SessionChannels, offers: Iterable[bytes], sealed_keys: Iterable[bytes] = ()
    ) -> bytes:
        """G1: given every site's G0 (own included), and a sealed key that one of them signs where this site lacks it.

        Raises:
            GroupKeyLostError: rounds are completed and nobody holds the key.
            TooFewSurvivorsError: fewer offers than this site's floors ask for.
            HostileInputError: own message missing or changed, a sender named twice, bytes that name no member,
                different keys on offer (the message names the parties), none, or one that does not open.
        """
        self._require("OFFERED")
        self._require_channels(channels)
        self._state, message = member_setup.accept_offers(self._state, self._site(), channels, offers, sealed_keys)
        return message

    def accept_confirmations(self, channels: SessionChannels, confirmations: Iterable[bytes]) -> None:
        """Given every site's G1 (own included), hold the key for the run.

        Raises:
            TooFewSurvivorsError: fewer sites than this site's floors ask for confirmed this key after the same offers.
            HostileInputError: own message missing or changed, a sender named twice, or another key confirmed.
        """
        self._require("CONFIRMED")
        self._require_channels(channels)
        self._state = member_setup.accept_confirmations(self._state, self._site(), channels, confirmations)

    def accept(
        self,
        announcement: bytes,
        *,
        previous: bytes | None = None,
        total: bytes | None = None,
        max_abs: int = MAX_SUM,
    ) -> Words | None:
        """E0: check what is announced, and return the sum to step on, uint32 of shape (vector_length,) of its round.

        None where the site has stepped on it already, or in the first round. `previous` holds the headers of the sum
        before (`requests.PreviousRound`), `total` is that sum; `max_abs` is the largest magnitude that the vector
        format allows for a sum. Who contributed is `announcement.contributors`.

        Raises:
            StaleMemberError: an earlier sum is missing here too; adopt a snapshot, or accept the announcements that
                were missed in this session, and then this one again.
            TooFewSurvivorsError: the sum has fewer contributors than its minimum, or too few sites confirmed the key.
            HostileInputError: malformed, for another session, run, roster, key or parameters, not newer, below a floor;
                or the headers are not those of one round on one model, this site's own among them; or the sum is
                another one than announced.
            UnreadableSumError: the sum does not decrypt for exactly these contributors, or too many have not before.
        """
        self._require(*_HOLDING)
        following, found = member_round.accept(self._state, self._site(), announcement, previous, total)
        words = None if found is None else self._decrypt(found, max_abs=max_abs)
        self._state = following
        return words

    def record_model(self, model_hash: bytes) -> None:
        """The site stepped on the sum and now stands on the model with this SHA-256.

        Raises:
            MisuseError: the hash has not 32 bytes.
        """
        self._require("ACCEPTED")
        if len(model_hash) != DIGEST_BYTES:
            raise MisuseError(f"model_hash has {len(model_hash)} bytes, {DIGEST_BYTES} are needed")
        self._state = member_round.record_model(self._state, model_hash)

    def encrypt(self, words: Words) -> tuple[bytes, bytes]:
        """E1: the signed header and the ciphertext, both to be sent.

        `words` is uint32 of shape (vector_length,), as `fixed_point.encode` returns it; it is not changed.

        Raises:
            HostileInputError: the end was announced, not a round.
            MisuseError: another type or length than announced, or an entry out of range.
        """
        self._require("STEPPED")
        self._state, header, ciphertext = member_round.encrypt(self._state, self._site(), words)
        return header, ciphertext

    def withdraw(self) -> None:
        """Give up the last upload, which the aggregator said came too late: later sums may go without it."""
        self._require("READY", "UPLOADED")
        self._state = member_round.withdraw(self._state)

    def close(self) -> bytes:
        """E2: with which model this site ends the run.

        Raises:
            HostileInputError: a round was announced, not the end.
        """
        self._require("STEPPED")
        self._state, message = member_round.close(self._state, self._site())
        return message

    def finish(self, endings: Iterable[bytes]) -> None:
        """Given every site's E2 (own included), end the run and erase the group key.

        Raises:
            TooFewSurvivorsError: fewer than the announced minimum.
            HostileInputError: own message missing or changed, a sender named twice or not invited, or another model.
        """
        self._require("CLOSED")
        self._state = member_round.finish(self._state, self._site(), endings)
        self._key = None

    def give_snapshot(self, payload: bytes) -> tuple[bytes, bytes]:
        """A signed header and the sealed payload, for sites that missed rounds; it travels through the aggregator.

        `payload` is the model, and what else the next step needs, after `completed` rounds.

        Raises:
            MisuseError: the payload is empty or too long.
        """
        self._require(*_HOLDING)
        return member_round.give_snapshot(self._state, self._site(), payload)

    def read_snapshot(self, header: bytes, sealed: bytes) -> Snapshot:
        """What a peer says of where it stands; nothing changes until it is adopted.

        Raises:
            HostileInputError: not signed for this run and group key, older than where this site stands, or sealed
                otherwise.
        """
        self._require(*_HOLDING)
        return member_round.read_snapshot(self._state, self._site(), header, sealed)

    def adopt_snapshot(self, header: bytes, *, model_hash: bytes) -> None:
        """Stand where the snapshot's giver stands; `model_hash` is of the model that the caller found inside.

        Raises:
            HostileInputError: as for `read_snapshot`, or the model is not the one that the header tags.
        """
        self._require(*_HOLDING)
        self._state = member_round.adopt_snapshot(self._state, self._site(), header, model_hash)

    def _decrypt(self, found: member_round.CheckedSum, *, max_abs: int) -> Words:
        if self._state.failed_sums >= MAX_FAILED_SUMS:
            raise UnreadableSumError(
                f"{MAX_FAILED_SUMS} sums of this run did not decrypt at this site; it looks at no more under this key. "
                "Start a new run, with a new key"
            )
        key = self._open_key()
        try:
            return found.decrypt(key, max_abs=max_abs)
        except HostileInputError as error:
            self._state = replace(self._state, failed_sums=self._state.failed_sums + 1)
            raise UnreadableSumError(error.reason) from error

    def _site(self, *, session: bytes | None = None) -> Site:
        """Everything that a step needs beside the state."""
        seat = Seat(
            identity=self._identity,
            roster=self._roster,
            session=self._state.session if session is None else session,
        )
        return Site(
            seat=seat,
            parameters=self._parameters,
            floors=self._floors,
            entropy=self._entropy,
            open_key=self._open_key,
        )

    def _open_key(self) -> GroupKey:
        """The group key in working order; opened once and only where needed, because that takes milliseconds."""
        state = self._state
        if self._key is None or self._key.fingerprint != state.fingerprint:
            if not state.group_key:
                raise MisuseError("the stored state holds no group key")
            try:
                self._key = GroupKey.from_bytes(state.group_key, parameters=self._parameters)
            except HostileInputError as error:
                raise MisuseError(f"the stored group key cannot be read: {error}") from error
        return self._key

    def _require_channels(self, channels: SessionChannels) -> None:
        if channels.name != self._state.name or channels.session != self._state.session:
            raise MisuseError(f"the channels belong to {channels.name!r} or to another session than the open one")

    def _require(self, *stages: MemberStage) -> None:
        if self.stage not in stages:
            raise HostileInputError(
                f"this step is legal in {' or '.join(stages)}, but the site is in {self.stage}: "
                "steps follow the order in privacy.he.member"
            )

    def __repr__(self) -> str:
        return f"GroupMember(name={self._state.name!r}, stage={self.stage}, completed={self.completed}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a GroupMember cannot be pickled: it holds secrets; use to_bytes and a private file")
