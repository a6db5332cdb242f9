"""A small consortium in one process: sites with keys, updates and real clients, in one session.

Made by every attack on the protocol, first for the honest control and then for the attack itself. All messages are the
protocol's own bytes. Updates are made up from the seed, because no attack here depends on what they say.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.fixed_point import Segment, VectorFormat
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.differencing import NOTHING_OPENED, OpenedSums
from privacy.secagg.identity import Identity
from privacy.secagg.receipt import Receipt
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster
from privacy.secagg.server import AggregateSum
from privacy.secagg.transcript import RoundMessages
from privacy.streams import Words
from secfed.audit.target import Target, rounding_stream

LENGTH = 256
MODEL = b"m" * 32
PLAN = b"p" * 32


@dataclass(frozen=True, kw_only=True)
class HonestRound:
    """A round that everybody played by the rules; uploads by name, uint32 of shape (vector_length,)."""

    aggregate: AggregateSum
    messages: RoundMessages
    uploads: Mapping[str, Words]
    receipts: tuple[Receipt, ...]


class Consortium:
    """`count` sites named site-01 and so on, with confirmed pair keys; `values` are updates of shape (length,)."""

    def __init__(
        self,
        target: Target,
        *,
        count: int,
        seed: int,
        length: int = LENGTH,
        floors: ClientFloors | None = None,
        set_up: bool = True,
    ) -> None:
        self.target = target
        self.seed = seed
        self.names = tuple(f"site-{number:02d}" for number in range(1, count + 1))
        self.identities = {name: Identity.generate(name) for name in self.names}
        consortium_key = generate_consortium_key()
        self.anchor = consortium_key.public_key().public_bytes_raw()
        members = tuple(Member(name, self.identities[name].public_key) for name in self.names)
        self.roster = Roster(consortium="consortium", version=1, expires=2**40, members=members)
        self.signed_roster = sign_roster(self.roster, consortium_key)
        self.session = secrets.token_bytes(32)
        self.floors = floors if floors is not None else ClientFloors(min_cohort=2)
        self.clients: dict[str, SecAggClient] = {name: self.new_client(name) for name in self.names}
        self.server = target.server(roster=self.roster, session=self.session)
        self.vector_format = VectorFormat(
            segments=(Segment(name="delta", length=length, max_abs=1.0),), max_clients=count
        )
        generator = np.random.default_rng([seed, count])
        self.values = {name: np.clip(generator.normal(scale=0.2, size=length), -1, 1) for name in self.names}
        self.vectors = {name: self.encode(self.values[name], label=name) for name in self.names}
        self.setup_messages: tuple[tuple[bytes, ...], ...] = ()
        if set_up:
            self.set_up()

    def new_client(self, name: str, *, opened: OpenedSums = NOTHING_OPENED) -> SecAggClient:
        """A site's client at the start of the session, with the record of what the site helped to open before."""
        return self.target.join(
            identity=self.identities[name],
            signed_roster=self.signed_roster,
            anchor=self.anchor,
            session=self.session,
            floors=self.floors,
            opened=opened,
        )

    def begin_session(self) -> None:
        """A new session of the same sites, set up."""
        self.session = secrets.token_bytes(32)
        self.server = self.target.server(roster=self.roster, session=self.session)
        carried = {name: self.target.carry(client) for name, client in self.clients.items()}
        self.clients = {name: self.new_client(name, opened=opened) for name, opened in carried.items()}
        self.set_up()

    def encode(self, values: npt.NDArray[np.float64], *, label: str) -> Words:
        """Integers of an update of shape (length,)."""
        return self.target.encode(values, vector_format=self.vector_format, rounding=rounding_stream(self.seed, label))

    def set_up(self) -> None:
        """S0 to S2, relayed by an aggregator that plays by the rules."""
        clients = self.clients.values()
        advertised = self.server.collect_advertisements(client.advertise_keys() for client in clients)
        encapsulated = self.server.collect_encapsulations(client.encapsulate_keys(advertised) for client in clients)
        confirmed = self.server.collect_confirmations(client.confirm_keys(encapsulated) for client in clients)
        for client in clients:
            client.accept_confirmations(confirmed)
        self.setup_messages = (advertised, encapsulated, confirmed)

    def restart(self, name: str) -> None:
        """The site's process ends, and a new one goes on from the bytes that it stored."""
        stored = self.clients[name].to_bytes()
        self.clients[name] = self.target.client.from_bytes(
            stored, identity=self.identities[name], roster=self.roster, entropy=self.target.entropy()
        )

    def play(
        self,
        number: int,
        *,
        vectors: Mapping[str, Words] | None = None,
        model: bytes = MODEL,
        silent: Iterable[str] = (),
        previous: bytes = bytes(32),
    ) -> HonestRound:
        """One round by the rules; `silent` sites share secrets and then upload nothing."""
        sent = self.vectors if vectors is None else vectors
        length = next(iter(sent.values())).size
        round_ = self.server.invite(round_number=number)
        round_.collect_shares(client.share(round_.invitation) for client in self.clients.values())
        announcement = round_.announce(model_hash=model, plan_hash=PLAN, vector_length=length, previous=previous)
        gone, uploads = set(silent), {}
        for name in (name for name in self.names if name not in gone):
            self.clients[name].accept(announcement, round_.shares)
            header, uploads[name] = self.clients[name].mask(sent[name])
            round_.add_upload(header, uploads[name])
        agreement = round_.request_agreement()
        round_.collect_agreements([self.clients[name].agree(agreement) for name in uploads])
        receipts = tuple(found for name in uploads if (found := self.clients[name].receipt) is not None)
        release = round_.request_unmask()
        aggregate = round_.finish([self.clients[name].unmask(release) for name in uploads])
        return HonestRound(aggregate=aggregate, messages=round_.messages, uploads=uploads, receipts=receipts)

    def total(self, names: Iterable[str], *, vectors: Mapping[str, Words] | None = None) -> Words:
        """The plain sum modulo 2^32, shape (length,)."""
        found = self.vectors if vectors is None else vectors
        return added(found[name] for name in names)

    def control(self, number: int = 1) -> str:
        """Play an honest round and say how far its sum is from the plain sum."""
        played = self.play(number, model=b"control".ljust(32, b"."))
        error = np.abs((played.aggregate.total - self.total(self.names)).view(np.int32)).max()
        return f"an honest round of {len(self.names)} sites gives their sum, largest error {error}"


def added(vectors: Iterable[Words]) -> Words:
    """The sum modulo 2^32 of vectors of one shape (length,)."""
    total: Words = np.add.reduce(list(vectors), dtype=np.uint32)
    return total
