"""A small world for hostile tests: honest clients, an aggregator, and the means to forge what a corrupt one could."""

import dataclasses
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.messages import RoundAnnouncement
from privacy.secagg.roster import Member, Roster
from privacy.secagg.server import AggregateSum, SecAggRound, SecAggServer

LENGTH = 8


class World:
    """Clients a, b, c and so on in one session; every method plays an honest step unless its name says otherwise."""

    def __init__(self, *, count: int = 4, min_cohort: int = 2, setup: bool = True) -> None:
        self.names = tuple("abcdefghij"[:count])
        self.identities = {name: Identity.generate(name) for name in self.names}
        self.roster = Roster(
            consortium="consortium",
            version=1,
            expires=2**40,
            members=tuple(Member(name, self.identities[name].public_key) for name in self.names),
        )
        self.session = secrets.token_bytes(32)
        self.floors = ClientFloors(min_cohort=min_cohort, max_vector_length=1000)
        self.clients = {name: self.new_client(name) for name in self.names}
        self.server = SecAggServer(roster=self.roster, session=self.session)
        self.vectors = {name: np.full(LENGTH, 10**i, dtype=np.uint32) for i, name in enumerate(self.names)}
        if setup:
            self.set_up()

    def new_client(self, name: str, *, session: bytes | None = None) -> SecAggClient:
        return SecAggClient.create(
            identity=self.identities[name],
            roster=self.roster,
            session=session or self.session,
            floors=self.floors,
        )

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

    def announce(self, number: int = 1, **changes: Any) -> bytes:
        """Any announcement that a malicious aggregator could write."""
        honest = RoundAnnouncement(
            session=self.session,
            round_number=number,
            roster_hash=self.roster.digest,
            model_hash=b"m" * 32,
            plan_hash=b"p" * 32,
            policy_hash=bytes(32),
            invited=self.names,
            threshold=2 * len(self.names) // 3 + 1,
            vector_length=LENGTH,
        )
        return dataclasses.replace(honest, **changes).to_bytes()

    def begin(self, number: int = 1) -> SecAggRound:
        return self.server.begin_round(
            round_number=number, model_hash=b"m" * 32, plan_hash=b"p" * 32, vector_length=LENGTH
        )

    def deal(self, round_: SecAggRound) -> tuple[bytes, ...]:
        return tuple(client.begin_round(round_.announcement) for client in self.clients.values())

    def upload(self, round_: SecAggRound, shared: Iterable[bytes], *, absent: str = "") -> dict[str, bytes]:
        shared, headers = tuple(shared), {}
        for name in (name for name in self.names if name not in absent):
            headers[name], masked = self.clients[name].mask(shared, self.vectors[name])
            round_.add_upload(headers[name], masked)
        return headers

    def finish(self, round_: SecAggRound, *, absent: str = "") -> AggregateSum:
        request = round_.request_unmask()
        return round_.finish(self.clients[name].unmask(request) for name in self.names if name not in absent)

    def play(self, number: int = 1, *, absent: str = "") -> AggregateSum:
        """One honest round; `absent` clients drop before uploading."""
        round_ = self.begin(number)
        self.upload(round_, round_.collect_shares(self.deal(round_)), absent=absent)
        return self.finish(round_, absent=absent)

    def total(self, names: Iterable[str]) -> list[int]:
        return sum((self.vectors[name].astype(np.uint64) for name in names), np.zeros(LENGTH, np.uint64)).tolist()

    def digest(self, message: bytes, body_type: Any, context: bytes) -> bytes:
        return open_envelope(message, body_type, context=context, roster=self.roster).digest

    def forge(
        self,
        message: bytes,
        body_type: Any,
        context: bytes,
        change: Callable[[Any], Any],
        *,
        previous: bytes | None = None,
    ) -> bytes:
        """What the corrupt sender of a message could have sent instead: another body, properly signed."""
        found = open_envelope(message, body_type, context=context, roster=self.roster)
        forged, _ = seal_envelope(
            change(found.body),
            context=context,
            sender=found.sender,
            previous=found.previous if previous is None else previous,
            sign=self.identities[found.sender].sign,
        )
        return forged


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    return World
