"""A small world for tests of secure aggregation: honest clients, an aggregator, and the means to forge messages."""

import dataclasses
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.differencing import NOTHING_OPENED, OpenedSums
from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.messages import ShareMessage
from privacy.secagg.requests import RoundAnnouncement, RoundInvitation
from privacy.secagg.roster import Member, Roster
from privacy.secagg.server import AggregateSum, SecAggRound, SecAggServer

LENGTH = 8
ROUND_STEPS = ("share", "upload", "agree", "unmask")


def model_hash(number: int) -> bytes:
    """The model of a round, where a test does not say otherwise: every round has its own."""
    return number.to_bytes(32, "big")


def contexts(round_: SecAggRound) -> tuple[bytes, bytes]:
    """What R1 and what everything from R2 on is signed under."""
    return RoundInvitation.from_bytes(round_.invitation).context, announced(round_).context


def announced(round_: SecAggRound) -> RoundAnnouncement:
    return RoundAnnouncement.from_bytes(round_.messages.announcement)


class World:
    """Clients a, b, c and so on in one session; every method plays honest steps unless its name says otherwise."""

    def __init__(self, *, count: int = 4, setup: bool = True, **floors: Any) -> None:
        self.names = tuple("abcdefghij"[:count])
        self.identities = {name: Identity.generate(name) for name in self.names}
        self.roster = Roster(
            consortium="consortium",
            version=1,
            expires=2**40,
            members=tuple(Member(name, self.identities[name].public_key) for name in self.names),
        )
        self.floors = ClientFloors(**{"min_cohort": 2, "max_vector_length": 1000, **floors})
        self.vectors = {name: np.full(LENGTH, 10**i, dtype=np.uint32) for i, name in enumerate(self.names)}
        self.start_session(setup=setup)

    def start_session(self, *, setup: bool = True, opened: Mapping[str, OpenedSums] | None = None) -> None:
        """Fresh clients, which know of earlier sessions what `opened` says."""
        self.session = secrets.token_bytes(32)
        self.clients = {name: self.new_client(name, opened=(opened or {}).get(name)) for name in self.names}
        self.server = SecAggServer(roster=self.roster, session=self.session)
        if setup:
            self.set_up()

    def new_client(self, name: str, *, session: bytes | None = None, opened: OpenedSums | None = None) -> SecAggClient:
        return SecAggClient.create(
            identity=self.identities[name],
            roster=self.roster,
            session=session or self.session,
            floors=self.floors,
            opened=opened or NOTHING_OPENED,
        )

    def restore(self, name: str) -> SecAggClient:
        """A new process of the client, from its stored bytes."""
        stored = self.clients[name].to_bytes()
        self.clients[name] = SecAggClient.from_bytes(stored, identity=self.identities[name], roster=self.roster)
        return self.clients[name]

    def set_up(self) -> None:
        clients = self.clients.values()
        self.advertised = self.server.collect_advertisements([client.advertise_keys() for client in clients])
        self.encapsulated = self.server.collect_encapsulations(
            [client.encapsulate_keys(self.advertised) for client in clients]
        )
        self.confirmed = self.server.collect_confirmations(
            [client.confirm_keys(self.encapsulated) for client in clients]
        )
        for client in clients:
            client.accept_confirmations(self.confirmed)

    def invitation(self, number: int = 1, **changes: Any) -> bytes:
        """Any invitation that a malicious aggregator could write."""
        honest = RoundInvitation(
            session=self.session,
            round_number=number,
            roster_hash=self.roster.digest,
            invited=self.names,
            threshold=2 * len(self.names) // 3 + 1,
        )
        return dataclasses.replace(honest, **changes).to_bytes()

    def announcement(self, invitation: bytes, **changes: Any) -> bytes:
        """Any announcement that a malicious aggregator could write for an invitation."""
        invited = RoundInvitation.from_bytes(invitation)
        honest = RoundAnnouncement(
            invitation=invited,
            model_hash=model_hash(invited.round_number),
            plan_hash=b"p" * 32,
            policy_hash=bytes(32),
            vector_length=LENGTH,
        )
        return dataclasses.replace(honest, **changes).to_bytes()

    def deal(self, round_: SecAggRound, *, absent: str = "") -> tuple[bytes, ...]:
        return tuple(self.clients[name].share(round_.invitation) for name in round_.invited if name not in absent)

    def announce(self, round_: SecAggRound, *, model: bytes | None = None) -> bytes:
        number = RoundInvitation.from_bytes(round_.invitation).round_number
        return round_.announce(model_hash=model or model_hash(number), plan_hash=b"p" * 32, vector_length=LENGTH)

    def begin(
        self,
        number: int = 1,
        *,
        model: bytes | None = None,
        invited: Iterable[str] | None = None,
        absent: str = "",
        corrupt: Mapping[str, Callable[[ShareMessage], ShareMessage]] | None = None,
    ) -> SecAggRound:
        """An announced round with everybody's shares but those of `absent`; `corrupt` says who changes its own how."""
        round_ = self.server.invite(round_number=number, invited=invited)
        dealt = list(self.deal(round_, absent=absent))
        for name, change in (corrupt or {}).items():
            self.deal_falsely(dealt, round_, name, change)
        round_.collect_shares(dealt)
        self.announce(round_, model=model)
        return round_

    def accept(self, round_: SecAggRound, name: str) -> bytes | None:
        return self.clients[name].accept(round_.messages.announcement, round_.shares)

    def upload(self, round_: SecAggRound, *, absent: str = "") -> dict[str, bytes]:
        headers = {}
        for name in (name for name in round_.cohort if name not in absent):
            if self.clients[name].stage != "ACCEPTED":
                assert self.accept(round_, name) is None
            headers[name], masked = self.clients[name].mask(self.vectors[name])
            round_.add_upload(headers[name], masked)
        return headers

    def agree(self, round_: SecAggRound, *, absent: str = "", evidence: Iterable[bytes] = ()) -> dict[str, bytes]:
        request = round_.request_agreement(evidence)
        signed = {name: self.clients[name].agree(request) for name in round_.uploaded if name not in absent}
        round_.collect_agreements(signed.values())
        return signed

    def finish(self, round_: SecAggRound, *, absent: str = "") -> AggregateSum:
        release = round_.request_unmask()
        return round_.finish(self.clients[name].unmask(release) for name in round_.agreed if name not in absent)

    def play(
        self,
        number: int = 1,
        *,
        silent: Mapping[str, str] | None = None,
        model: bytes | None = None,
        invited: Iterable[str] | None = None,
    ) -> AggregateSum:
        """One honest round; `silent` names for each client that drops the first of ROUND_STEPS that it misses."""

        def absent(step: str) -> str:
            return "".join(
                name for name, since in (silent or {}).items() if ROUND_STEPS.index(since) <= ROUND_STEPS.index(step)
            )

        round_ = self.begin(number, model=model, invited=invited, absent=absent("share"))
        self.upload(round_, absent=absent("upload"))
        self.agree(round_, absent=absent("agree"))
        return self.finish(round_, absent=absent("unmask"))

    def total(self, names: Iterable[str]) -> list[int]:
        return sum((self.vectors[name].astype(np.uint64) for name in names), np.zeros(LENGTH, np.uint64)).tolist()

    def digest(self, message: bytes, body_type: Any, context: bytes) -> bytes:
        return open_envelope(message, body_type, context=context, roster=self.roster).digest

    def forge(
        self,
        message: bytes,
        body_type: Any,
        context: bytes,
        change: Callable[[Any], Any] = lambda body: body,
        *,
        sender: str | None = None,
        previous: bytes | None = None,
    ) -> bytes:
        """What a corrupt sender could have sent instead of a message: another body, properly signed."""
        found = open_envelope(message, body_type, context=context, roster=self.roster)
        return self.sign(
            change(found.body),
            context,
            sender=sender or found.sender,
            previous=found.previous if previous is None else previous,
        )

    def sign(self, body: Any, context: bytes, *, sender: str, previous: bytes, key_of: str | None = None) -> bytes:
        """A message in the name of `sender`, by default with its own key."""
        sign = self.identities[key_of or sender].sign
        return seal_envelope(body, context=context, sender=sender, previous=previous, sign=sign)[0]

    def deal_falsely(
        self, dealt: list[bytes], round_: SecAggRound, name: str, change: Callable[[ShareMessage], ShareMessage]
    ) -> None:
        """The corrupt client `name` sends other shares, and goes on as if these were what it made."""
        context = RoundInvitation.from_bytes(round_.invitation).context
        index = round_.invited.index(name)
        dealt[index] = self.forge(dealt[index], ShareMessage, context, change)
        client = self.clients[name]
        changed = dataclasses.replace(
            client._state.round, own_shares_digest=self.digest(dealt[index], ShareMessage, context)
        )
        client._state = dataclasses.replace(client._state, round=changed)


def with_peer(body: ShareMessage, peer: str, **changes: bytes) -> ShareMessage:
    """R1 with other words in the row for one peer."""
    row = dataclasses.replace(body.peers[peer], **changes)
    return dataclasses.replace(body, peers={**body.peers, peer: row})
