"""A small consortium whose sites share a group key: real members and a real aggregator of an encrypted run.

Made by every attack on encrypted runs, first for the honest control and then for the attack itself. All messages are
the protocol's own bytes, between the steps every site is what it stored, and the model is a hash that follows from the
sums, because no attack here depends on what a model says.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from privacy.he.distribution import CHANNEL_PURPOSE
from privacy.he.group_server import EncryptedRound, GroupServer, PublishedSum
from privacy.he.key_holder import GroupKey
from privacy.he.layout import message_root
from privacy.he.member import GroupMember
from privacy.he.member_state import MemberState
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.channels import SessionChannels
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.envelope import NO_PREVIOUS
from privacy.secagg.threshold import default_threshold
from privacy.streams import Words, little_endian_bytes
from secfed.audit.ciphertexts import sum_of
from secfed.audit.consortium import LENGTH, PLAN, Consortium
from secfed.audit.target import Target

INITIAL_MODEL = hashlib.sha256(b"the model that the plan's seed gives").digest()

T = TypeVar("T")
P = ParamSpec("P")


class EncryptedGroup:
    """`count` sites in one run; with `ready`, they hold a group key.

    Headers and ciphertexts are kept by round number and site.
    """

    def __init__(
        self,
        target: Target,
        *,
        count: int,
        seed: int,
        length: int = LENGTH,
        floors: ClientFloors | None = None,
        ready: bool = True,
    ) -> None:
        self.world = Consortium(target, count=count, seed=seed, length=length, floors=floors, set_up=ready)
        self.target, self.names, self.length = target, self.world.names, length
        self.vectors = self.world.vectors
        self.parameters = HeParameters.exact(max_clients=max(count, 2))
        self.run = secrets.token_bytes(32)
        self.models = dict.fromkeys(self.names, INITIAL_MODEL)
        self.completed = dict.fromkeys(self.names, 0)
        self.headers: dict[tuple[int, str], bytes] = {}
        self.ciphertexts: dict[tuple[int, str], bytes] = {}
        self.last_round = 0
        self.before: PublishedSum | None = None
        self.members: dict[str, GroupMember] = {name: self.new_member(name) for name in self.names}
        if ready:
            self.server = self.new_server()
            self.agree_on_key(self.names)

    def new_member(self, name: str, *, parameters: HeParameters | None = None) -> GroupMember:
        """A site at the start of the run, or one that has nothing left but its model."""
        return self.target.member.create(
            identity=self.world.identities[name],
            roster=self.world.roster,
            run=self.run,
            parameters=parameters or self.parameters,
            floors=self.target.floors(self.world.floors),
            model_hash=self.models[name],
            completed=self.completed[name],
            entropy=self.target.entropy(),
        )

    def new_server(self, *, minimum: int = 2) -> GroupServer:
        """The aggregator of the session that the consortium set up."""
        return GroupServer(
            roster=self.world.roster,
            session=self.world.session,
            run=self.run,
            parameters=self.parameters,
            confirmations=self.world.setup_messages[2],
            minimum=minimum,
            last_round=self.last_round,
        )

    def begin_session(self) -> None:
        """A new session of the same sites in the same run, with the key that they hold."""
        self.world.begin_session()
        self.server = self.new_server()
        self.agree_on_key(self.names)

    def channels(self, name: str) -> SessionChannels:
        """A site's keys with its peers in this session."""
        return self.world.clients[name].channels(CHANNEL_PURPOSE)

    def agree_on_key(self, names: Iterable[str]) -> None:
        """G0 and G1, relayed by an aggregator that plays by the rules."""
        asked = tuple(names)
        offers = self.server.collect_offers([self.members[name].offer(self.channels(name)) for name in asked])
        confirmed = self.server.collect_confirmations(
            [
                self.members[name].accept_offers(self.channels(name), offers, self.server.sealed_keys_for(name))
                for name in asked
            ]
        )
        for name in asked:
            self.members[name].accept_confirmations(self.channels(name), confirmed)

    def twin_of(self, name: str) -> GroupMember:
        """The site's process once more; what happens to it does not happen to the site."""
        twin = object.__new__(self.target.member)
        # States are frozen, and to open the stored key again takes longer than most attacks.
        vars(twin).update(vars(self.members[name]))
        return twin

    def copy_of(self, name: str) -> GroupMember:
        """A new process of the site, from the bytes that it stored."""
        return self.load(name, self.members[name].to_bytes())

    def load(self, name: str, stored: bytes) -> GroupMember:
        """A new process of the site, from these bytes."""
        return self.target.member.from_bytes(
            stored,
            identity=self.world.identities[name],
            roster=self.world.roster,
            parameters=self.parameters,
            floors=self.target.floors(self.world.floors),
            entropy=self.target.entropy(),
        )

    def try_on(
        self,
        name: str,
        step: Callable[Concatenate[GroupMember, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """One step of a site that is taken back afterwards: the next lie is shown to the same state."""
        return step(self.twin_of(name), *args, **kwargs)

    def stolen_key(self, name: str) -> GroupKey:
        """What a colluding site hands over."""
        state = MemberState.from_bytes(self.members[name].to_bytes())
        return GroupKey.from_bytes(state.group_key, parameters=self.parameters)

    def announce(
        self,
        *,
        before: PublishedSum | None = None,
        invited: Iterable[str] | None = None,
        minimum: int | None = None,
        server_round: int | None = None,
        previous: bytes = NO_PREVIOUS,
    ) -> EncryptedRound:
        """E0 by the rules; `before` is by default the sum of the last round that was played."""
        self.last_round += 1
        shown = self.before if before is None else before
        if minimum is None and invited is None:
            minimum = max(default_threshold(len(self.names)), self.world.floors.min_cohort)
        if server_round is None:
            server_round = 1 if shown is None else EncryptedAnnouncement.from_bytes(shown.announcement).server_round + 1
        return self.server.announce(
            round_number=self.last_round,
            server_round=server_round,
            vector_length=self.length,
            plan_hash=PLAN,
            invited=invited,
            minimum=minimum,
            before=None if server_round == 1 else shown,
            previous=previous,
        )

    def step(self, name: str, announcement: bytes, before: PublishedSum | None) -> Words | None:
        """E0 at one site, and the step on the sum before."""
        words = accept(self.members[name], announcement, before)
        if words is not None:
            self.models[name] = hashlib.sha256(self.models[name] + little_endian_bytes(words)).digest()
            self.completed[name] += 1
            self.members[name].record_model(self.models[name])
        return words

    def upload(self, round_: EncryptedRound, name: str, words: Words | None = None) -> None:
        """E1 of one site, added to the sum; the attacker keeps header and ciphertext."""
        header, ciphertext = self.members[name].encrypt(self.vectors[name] if words is None else words)
        round_.add_input(header, ciphertext)
        self.headers[self.last_round, name] = header
        self.ciphertexts[self.last_round, name] = ciphertext

    def sum_over(self, published: PublishedSum, names: Iterable[str]) -> PublishedSum:
        """The sum over some of those who uploaded in a round, in their names."""
        chosen = tuple(sorted(names))
        number = EncryptedAnnouncement.from_bytes(published.announcement).round_number
        total = self.summed((number, name) for name in chosen)
        headers = tuple(self.headers[number, name] for name in chosen)
        return with_sum(published, total, headers=headers, contributors=chosen)

    def summed(self, uploads: Iterable[tuple[int, str]], *, count: int | None = None) -> bytes:
        """Any uploads by round number and site added, behind a header that counts `count` of them (default: all)."""
        messages = [self.ciphertexts[upload] for upload in uploads]
        return sum_of(
            messages,
            count=len(messages) if count is None else count,
            length=self.length,
            key=self.server.fingerprint,
            parameters=self.parameters,
        )

    def play(
        self,
        *,
        silent: Iterable[str] = (),
        vectors: Mapping[str, Words] | None = None,
        previous: bytes = NO_PREVIOUS,
    ) -> PublishedSum:
        """One round by the rules: all step on the last sum, and all but the silent ones upload."""
        round_, gone = self.announce(previous=previous), set(silent)
        for name in self.names:
            self.step(name, round_.announcement, self.before)
            if name not in gone:
                self.upload(round_, name, None if vectors is None else vectors[name])
        self.before = round_.finish()
        return self.before

    def opened(self, name: str) -> Words:
        """The sum of the last round, as one site would step on it; its state does not change."""
        words = self.try_on(name, accept, self.announce().announcement, self.before)
        if words is None:
            raise RuntimeError("there is no sum to step on")
        return words

    def control(self) -> str:
        """Play an honest round and say how far its sum, as every site decrypts it, is from the plain sum."""
        published = self.play()
        plain = self.world.total(published.contributors)
        errors = [int(np.abs((self.opened(name) - plain).view(np.int32)).max()) for name in self.names]
        return f"an honest encrypted round of {len(self.names)} sites gives their sum, largest error {max(errors)}"


def accept(member: GroupMember, announcement: bytes, before: PublishedSum | None) -> Words | None:
    """E0 with what travels beside it."""
    previous, total = (None, None) if before is None else (before.previous_round, before.total)
    return member.accept(announcement, previous=previous, total=total)


def with_sum(published: PublishedSum, total: bytes, **changes: Any) -> PublishedSum:
    """The published sum with other bytes and the root that fits them: nothing unsigned gives it away."""
    return replace(published, total=total, root=message_root(total), **changes)


def with_announcement(announcement: bytes, **changes: Any) -> bytes:
    """Another announcement: all that the aggregator says is unsigned."""
    return replace(EncryptedAnnouncement.from_bytes(announcement), **changes).to_bytes()
