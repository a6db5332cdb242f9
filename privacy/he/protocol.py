"""The whole encrypted protocol on one page: vectors in, dropouts and lost states anywhere, every round's sum out.

For readers and tests; in a deployment the same calls happen in different places, with a network in between. Every
message crosses it as bytes, and every site is restored from its stored state before each step. The model is a stand-in:
the hash of all sums so far, which every site computes for itself.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar

from privacy.errors import MisuseError
from privacy.he.distribution import CHANNEL_PURPOSE
from privacy.he.errors import StaleMemberError
from privacy.he.group_server import GroupServer, PublishedSum
from privacy.he.member import GroupMember
from privacy.he.parameters import HeParameters
from privacy.secagg.channels import SessionChannels
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.messages import KeyConfirmation
from privacy.secagg.roster import Member, Roster
from privacy.secagg.server import SecAggServer
from privacy.streams import Words, little_endian_bytes

INITIAL_MODEL = hashlib.sha256(b"the model that the plan's seed gives").digest()
PLAN = hashlib.sha256(b"the plan").digest()

ArgumentsT = ParamSpec("ArgumentsT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class EncryptedRun:
    """What the sites know at the end: the sum and the contributors of every round, and the last model's hash by site.

    `sums` are uint32 of shape (vector_length,).
    """

    sums: tuple[Words, ...] = field(repr=False)
    contributors: tuple[tuple[str, ...], ...]
    models: Mapping[str, bytes]


def run_encrypted_aggregation(
    rounds: Sequence[Mapping[str, Words]],
    *,
    min_cohort: int = 2,
    silent: Mapping[int, Sequence[str]] | None = None,
    late: Mapping[int, Sequence[str]] | None = None,
    forgetful: Mapping[int, Sequence[str]] | None = None,
) -> EncryptedRun:
    """Sum the sites' vectors of each round, uint32 of one shape per round, without the aggregator seeing any sum.

    Rounds count from 1. `silent` sites hear and say nothing in a round, `late` ones take part but upload too late,
    `forgetful` ones lose their state just before the round and rejoin in a new session.

    Raises:
        TooFewSurvivorsError: fewer sites than the threshold remain; nothing is published.
        GroupKeyLostError: everybody forgot the group key.
        StaleMemberError: nobody is left who stepped on the sums up to the last but one.
        MisuseError: the rounds name different sites, or vectors of one round have different lengths.
    """
    if len({(*sorted(vectors),) for vectors in rounds}) != 1 or any(
        len({vector.size for vector in vectors.values()}) != 1 for vectors in rounds
    ):
        raise MisuseError(
            "at least one round is needed, and in each a vector of one length from each of the same sites"
        )
    sites = Sites(sorted(rounds[0]), min_cohort=min_cohort)
    server = sites.start_session(last_round=0)
    before: PublishedSum | None = None
    sums: list[Words] = []
    contributors: list[tuple[str, ...]] = []
    for number, vectors in enumerate(rounds, start=1):
        # A site without its state comes back in a new session: the key from a peer here, the model in step_on.
        lost = (forgetful or {}).get(number, ())
        if lost:
            sites.forget(lost)
            server = sites.start_session(last_round=number - 1)

        # E0: the aggregator names the sum of the round before, and whose inputs are inside.
        round_ = server.announce(
            round_number=number,
            server_round=number,
            vector_length=next(iter(vectors.values())).size,
            plan_hash=PLAN,
            before=before,
        )
        for name in (name for name in sites.names if name not in (silent or {}).get(number, ())):
            # E1: a site steps on that sum, trains, and encrypts; ciphertexts go straight into the accumulator.
            words = sites.step_on(name, round_.announcement, before)
            if words is not None and len(sums) < number - 1:
                sums.append(words)
            header, ciphertext = sites.act(name, GroupMember.encrypt, vectors[name])
            if name in (late or {}).get(number, ()):
                sites.act(name, GroupMember.withdraw)
            else:
                round_.add_input(header, ciphertext)
        before = round_.finish()
        contributors.append(before.contributors)

    # E0 and E2: the last sum, and every site's signed word on the model that it has now.
    if before is None:
        raise MisuseError("rounds = [] must hold at least one round")
    last = len(rounds) + 1
    end = server.announce_end(round_number=last, server_round=last, plan_hash=PLAN, before=before)
    for name in sites.names:
        words = sites.step_on(name, end.announcement, before)
        if words is not None and len(sums) < len(rounds):
            sums.append(words)
    endings = end.collect([sites.act(name, GroupMember.close) for name in sites.names])
    for name in sites.names:
        sites.act(name, GroupMember.finish, endings)
    return EncryptedRun(sums=tuple(sums), contributors=tuple(contributors), models=sites.models)


class Sites:
    """All sites of a run, each with what is on its own disk: its protocol state, and beside it the model."""

    def __init__(self, names: Sequence[str], *, min_cohort: int) -> None:
        # Before the run: identities, a roster, parameters, and what each site accepts.
        self.names = tuple(names)
        self.models = dict.fromkeys(names, INITIAL_MODEL)
        self.completed = dict.fromkeys(names, 0)
        self._identities = {name: Identity.generate(name) for name in names}
        members = tuple(Member(name, identity.public_key) for name, identity in self._identities.items())
        self._roster = Roster(consortium="consortium", version=1, expires=2**40, members=members)
        self._parameters = HeParameters.exact(max_clients=len(names))
        self._floors = ClientFloors(min_cohort=min_cohort)
        self._run = secrets.token_bytes(32)
        self._stored: dict[str, bytes] = {}
        self._without_history: set[str] = set()
        self.forget(names)

    def forget(self, names: Sequence[str]) -> None:
        """Sites at the start, or without their state: from their own books they know how far the run was."""
        for name in names:
            member = GroupMember.create(
                identity=self._identities[name],
                roster=self._roster,
                run=self._run,
                parameters=self._parameters,
                floors=self._floors,
                model_hash=self.models[name],
                completed=self.completed[name],
            )
            self._stored[name] = member.to_bytes()
            if self.completed[name]:
                self._without_history.add(name)

    def act(
        self,
        name: str,
        step: Callable[Concatenate[GroupMember, ArgumentsT], ResultT],
        *args: ArgumentsT.args,
        **kwargs: ArgumentsT.kwargs,
    ) -> ResultT:
        """One step of one site on its restored state, which is stored before anything is sent."""
        member = GroupMember.from_bytes(
            self._stored[name],
            identity=self._identities[name],
            roster=self._roster,
            parameters=self._parameters,
            floors=self._floors,
        )
        try:
            return step(member, *args, **kwargs)
        finally:
            self._stored[name] = member.to_bytes()

    def start_session(self, *, last_round: int) -> GroupServer:
        """S0 to S2 of secure aggregation for channels between the sites, then G0 and G1 for one group key."""
        session = secrets.token_bytes(32)
        channels, confirmations = self._channels(session)
        server = GroupServer(
            roster=self._roster,
            session=session,
            run=self._run,
            parameters=self._parameters,
            confirmations=confirmations,
            last_round=last_round,
        )
        # G0: whoever holds the run's key offers it; at the start the first site makes one.
        offers = server.collect_offers([self.act(name, GroupMember.offer, channels[name]) for name in self.names])
        # G1: a site without the key takes it over, and all say which one they hold now.
        confirmed = server.collect_confirmations(
            [
                self.act(name, GroupMember.accept_offers, channels[name], offers, server.sealed_keys_for(name))
                for name in self.names
            ]
        )
        for name in self.names:
            self.act(name, GroupMember.accept_confirmations, channels[name], confirmed)
        return server

    def step_on(self, name: str, announcement: bytes, before: PublishedSum | None) -> Words | None:
        """E0 at one site, and the server optimiser's step there; first a peer's snapshot where it missed too much."""
        previous = None if before is None else before.previous_round
        total = None if before is None else before.total
        try:
            words = self.act(name, GroupMember.accept, announcement, previous=previous, total=total)
        except StaleMemberError:
            self._catch_up(name)
            words = self.act(name, GroupMember.accept, announcement, previous=previous, total=total)
        if words is not None:
            self.models[name] = hashlib.sha256(self.models[name] + little_endian_bytes(words)).digest()
            self.completed[name] += 1
            self.act(name, GroupMember.record_model, self.models[name])
        return words

    def _catch_up(self, name: str) -> None:
        """A snapshot from a peer that knows its history: here the hash is all there is to a model."""
        givers = [peer for peer in self.names if peer != name and peer not in self._without_history]
        giver = max(givers, key=lambda peer: self.completed[peer], default=name)
        if giver == name or self.completed[giver] < self.completed[name]:
            raise StaleMemberError(
                f"{name} needs a snapshot of round {self.completed[name]} or later, "
                "and nobody who kept its state got so far"
            )
        header, sealed = self.act(giver, GroupMember.give_snapshot, self.models[giver])
        found = self.act(name, GroupMember.read_snapshot, header, sealed)
        self.models[name], self.completed[name] = found.payload, found.completed
        self.act(name, GroupMember.adopt_snapshot, header, model_hash=self.models[name])
        self._without_history.discard(name)

    def _channels(self, session: bytes) -> tuple[dict[str, SessionChannels], tuple[bytes, ...]]:
        """S0 to S2 as in privacy.secagg.protocol: channels by site, and the S2 messages."""
        server = SecAggServer(roster=self._roster, session=session)
        clients = [
            SecAggClient.create(identity=identity, roster=self._roster, session=session, floors=self._floors)
            for identity in self._identities.values()
        ]
        advertised = server.collect_advertisements([client.advertise_keys() for client in clients])
        encapsulated = server.collect_encapsulations([client.encapsulate_keys(advertised) for client in clients])
        confirmed = server.collect_confirmations([client.confirm_keys(encapsulated) for client in clients])
        for client in clients:
            client.accept_confirmations(confirmed)
        channels = {client.name: client for client in (client.channels(CHANNEL_PURPOSE) for client in clients)}
        return channels, server.setup_messages[KeyConfirmation.KIND]
