"""One round as a malicious aggregator runs it: it keeps every upload, asks what it likes, and unmasks what it can.

Run by the attacker, with colluding sites at its side. A colluder is an honest client whose stored state the attacker
reads, and which it may set back to an earlier state. The attacker cannot sign for honest sites, so everything here is
either relayed, the aggregator's own unsigned requests, or signed by a colluder.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Self

from privacy.cbor import from_cbor
from privacy.errors import HostileInputError
from privacy.secagg.client_state import ClientState
from privacy.secagg.envelope import open_envelope
from privacy.secagg.masks import pair_mask, pair_sign, self_mask
from privacy.secagg.messages import ShareMessage, UnmaskReply
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, RoundInvitation, UnmaskRequest
from privacy.secagg.sealing import open_wrap
from privacy.secagg.shamir import Recombiner
from privacy.secagg.threshold import default_threshold
from privacy.secagg.transcript import RoundMessages
from privacy.streams import Keystream, Sign, Words, add_streams
from secfed.audit.consortium import MODEL, PLAN, Consortium, added
from secfed.audit.finding import Tries


class RogueRound:
    """A round of `invited` (default: all sites) with `threshold` (default: the protocol's) under a malicious hand."""

    def __init__(
        self,
        world: Consortium,
        *,
        number: int,
        threshold: int | None = None,
        invited: Iterable[str] | None = None,
        colluders: Iterable[str] = (),
    ) -> None:
        self.world = world
        self.colluders = frozenset(colluders)
        names = tuple(sorted(world.names if invited is None else invited))
        self.invitation = RoundInvitation(
            session=world.session,
            round_number=number,
            roster_hash=world.roster.digest,
            invited=names,
            threshold=default_threshold(len(names)) if threshold is None else threshold,
        )
        self.shares: dict[str, bytes] = {}
        self.headers: dict[str, bytes] = {}
        self.uploads: dict[str, Words] = {}
        self.self_seeds: dict[str, bytes] = {}
        self.pair_secrets: dict[frozenset[str], bytes] = {}
        self._seed_shares: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self._wrap_shares: defaultdict[str, dict[str, bytes]] = defaultdict(dict)

    @classmethod
    def overhear(cls, world: Consortium, messages: RoundMessages) -> Self:
        """A finished round, as whoever reads its messages knows it; without uploads."""
        announced = RoundAnnouncement.from_bytes(messages.announcement)
        round_ = cls(world, number=announced.round_number)
        round_.invitation = announced.invitation
        for data in messages.shares:
            dealt = open_envelope(data, ShareMessage, context=announced.invitation.context, roster=world.roster)
            round_.shares[dealt.sender] = data
        for data in messages.replies:
            reply = open_envelope(data, UnmaskReply, context=announced.context, roster=world.roster)
            round_._learn_shares(reply.sender, seed=reply.body.seed_shares, wrap=reply.body.wrap_shares)
        return round_

    def announcement(self, model: bytes = MODEL, *, vector_length: int | None = None) -> bytes:
        """R0, second half, for any model."""
        length = self.world.vector_format.length if vector_length is None else vector_length
        return RoundAnnouncement(
            invitation=self.invitation,
            model_hash=model,
            plan_hash=PLAN,
            policy_hash=bytes(32),
            vector_length=length,
        ).to_bytes()

    def deal(self, *names: str) -> None:
        """R1 of some of the invited (default: all)."""
        for name in names or self.invitation.invited:
            self.shares[name] = self.world.clients[name].share(self.invitation.to_bytes())

    def accept(self, name: str, *, model: bytes = MODEL) -> None:
        """R2, first half; what a colluder holds then is the attacker's."""
        shares = [self.shares[dealer] for dealer in sorted(self.shares)]
        self.world.clients[name].accept(self.announcement(model), shares)
        if name in self.colluders:
            self.learn_state(name)

    def upload(self, *names: str, model: bytes = MODEL, vector: Words | None = None) -> None:
        """R2 of some sites (default: all that dealt), each with its own update unless another vector is given."""
        for name in names or sorted(self.shares):
            self.accept(name, model=model)
            sent = self.world.vectors[name] if vector is None else vector
            self.headers[name], self.uploads[name] = self.world.clients[name].mask(sent)

    def agreement_request(self, sender: str, survivors: Iterable[str], *, evidence: tuple[bytes, ...] = ()) -> bytes:
        """R3 with any survivors, in the context that the sender acted in."""
        headers = tuple(self.headers[name] for name in sorted(survivors))
        return AgreementRequest(context=context_of(self.headers[sender]), headers=headers, evidence=evidence).to_bytes()

    def agree(self, name: str, survivors: Iterable[str], *, evidence: tuple[bytes, ...] = ()) -> bytes:
        """R3 of one site; a colluder forgets that it signed, so it signs any number of sets."""
        client = self.world.clients[name]
        before = client.to_bytes() if name in self.colluders else b""
        agreement = client.agree(self.agreement_request(name, survivors, evidence=evidence))
        if before:
            self.world.clients[name] = type(client).from_bytes(
                before, identity=self.world.identities[name], roster=self.world.roster
            )
        return agreement

    def agreements(self, survivors: Iterable[str], tries: Tries) -> list[bytes]:
        """R3 of all survivors that are willing to sign just this set."""
        named = tuple(survivors)
        found = [tries(self.agree, name, named) for name in named]
        return [agreement for agreement in found if agreement is not None]

    def unmask(self, name: str, agreements: Iterable[bytes]) -> None:
        """R4 of one honest site; the attacker keeps the shares."""
        context = context_of(self.headers[name])
        reply = self.world.clients[name].unmask(UnmaskRequest(context=context, agreements=tuple(agreements)).to_bytes())
        found = open_envelope(reply, UnmaskReply, context=context, roster=self.world.roster).body
        self._learn_shares(name, seed=found.seed_shares, wrap=found.wrap_shares)

    def guess(self, victim: str) -> Words:
        """The victim's upload without every mask that the attacker can compute; its vector, if that is all of them."""
        context = context_of(self.headers[victim])
        streams: list[tuple[Keystream, Sign]] = []
        seed = self.self_seed(victim)
        if seed is not None:
            streams.append((self_mask(seed, context=context, vector_index=0), -1))
        for pair, secret in self.opened_pairs().items():
            if victim in pair:
                [peer] = pair - {victim}
                streams.append((pair_mask(secret, context=context, vector_index=0), pair_sign(peer, victim)))
        words = self.uploads[victim].copy()
        add_streams(words, streams)
        return words

    def guess_sum(self, names: Iterable[str]) -> Words:
        """The sum of some uploads without every mask that the attacker can compute."""
        return added(self.guess(name) for name in names)

    def opened_seeds(self) -> dict[str, bytes]:
        """Every self seed that is known."""
        return {name: seed for name in self.shares if (seed := self.self_seed(name)) is not None}

    def opened_pairs(self) -> dict[frozenset[str], bytes]:
        """Every pair secret that is known: colluders' own, and those of wraps that enough shares open."""
        pairs = dict(self.pair_secrets)
        context = self.invitation.context
        for dealer in self.shares:
            key = self._combined(self._wrap_shares[dealer])
            if key is None:
                continue
            dealt = open_envelope(self.shares[dealer], ShareMessage, context=context, roster=self.world.roster).body
            try:
                wrapped = open_wrap(dealt.wrapped_pair_secrets, wrap_key=key, owner=dealer, context=context)
            except HostileInputError:
                continue  # Shares that do not belong together give a key that opens nothing.
            pairs |= {frozenset((dealer, peer)): secret for peer, secret in wrapped.items() if peer in self.shares}
        return pairs

    def self_seed(self, name: str) -> bytes | None:
        """A site's self seed, where enough shares of it are known."""
        return self.self_seeds.get(name) or self._combined(self._seed_shares[name])

    def shares_known(self, name: str) -> tuple[int, int]:
        """How many shares of a site's self seed, and of its wrap key, the attacker holds."""
        return len(self._seed_shares[name]), len(self._wrap_shares[name])

    def learn_state(self, colluder: str) -> None:
        """Take what a site has stored of the round at this moment."""
        opened = ClientState.from_bytes(self.world.clients[colluder].to_bytes()).round
        if opened is not None:
            self.self_seeds[colluder] = opened.self_seed
            self.pair_secrets |= {frozenset((colluder, peer)): key for peer, key in opened.pair_secrets.items()}
            self._learn_shares(colluder, seed=opened.seed_shares, wrap=opened.wrap_shares)

    def _learn_shares(self, holder: str, *, seed: Mapping[str, bytes], wrap: Mapping[str, bytes]) -> None:
        for dealer, share in seed.items():
            self._seed_shares[dealer][holder] = share
        for dealer, share in wrap.items():
            self._wrap_shares[dealer][holder] = share

    def _combined(self, shares: dict[str, bytes]) -> bytes | None:
        """What the known shares give: a secret, or from too few of them, bytes that have nothing to do with it."""
        if not shares:
            return None
        by_index = {self.world.roster.index(holder): share for holder, share in shares.items()}
        return _recombiner(tuple(sorted(by_index))).combine(by_index)


@cache
def _recombiner(indices: tuple[int, ...]) -> Recombiner:
    return Recombiner(indices, threshold=len(indices))


def context_of(message: bytes) -> bytes:
    """The digest that a message is signed under, read from the message itself: which masks its sender used."""
    match from_cbor(message):
        case [bytes(signed_part), bytes(_)]:
            match from_cbor(signed_part):
                case [str(_), str(_), bytes(context), str(_), bytes(_), dict(_)]:
                    return context
    raise HostileInputError("not a signed message")
