"""Forged evidence against an honest site: it would let the aggregator run a round again without that site.

Two sums over one model may differ by a site only where that site is proven to have cheated, so whoever can forge proof
has the difference. Everything here is made from real messages, by an aggregator with one colluding site.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

from privacy.secagg.blame import Evidence
from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.messages import ShareMessage, UnmaskReply
from privacy.secagg.requests import RoundAnnouncement
from privacy.secagg.transcript import RoundMessages
from privacy.streams import Words
from secfed.audit.consortium import Consortium
from secfed.audit.finding import RECOVERED, Finding, Tries, not_applicable, on_figure, protocol_attack, recovered
from secfed.audit.plain import reads_the_update
from secfed.audit.rogue_round import RogueRound
from secfed.audit.target import Target


def forged_evidence(target: Target, seed: int) -> Finding:
    """Show forgeries to whoever judges evidence, then to the sites in a second round without the victim."""
    world = Consortium(target, count=7, seed=seed)
    victim, colluder = world.names[-1], world.names[0]
    first = world.play(1, model=b"o" * 32)
    second = world.play(2)
    forgeries = _forgeries(world, first.messages.replies, second.messages, victim=victim, colluder=colluder)
    tries = Tries()
    believed = []
    for name, forgery in forgeries.items():
        if tries(target.convict, forgery.to_bytes(), roster=world.roster):
            believed.append(name)
    shown = [item.to_bytes() for item in forgeries.values()]
    fraction = _leave_out(world, victim, shown, second.aggregate.total, tries)
    return Finding(
        control="an honest round gives no evidence: "
        f"{'exact sum' if (second.aggregate.total == world.total(world.names)).all() else 'wrong sum'} of 7 sites",
        outcome=f"believed were {believed or 'none'} of {sorted(forgeries)}; {tries}",
        figure=float(len(believed)) + fraction,
        unit=f"forgeries believed of {len(forgeries)}, plus the {RECOVERED}",
        verdict=on_figure(len(believed) + fraction, above=0.01),
    )


def _forgeries(
    world: Consortium, old_replies: tuple[bytes, ...], messages: RoundMessages, *, victim: str, colluder: str
) -> Mapping[str, Evidence]:
    announced = RoundAnnouncement.from_bytes(messages.announcement)
    invitation = announced.invitation
    replies = {
        open_envelope(data, UnmaskReply, context=announced.context, roster=world.roster).sender: data
        for data in messages.replies
    }
    shares = {
        open_envelope(data, ShareMessage, context=invitation.context, roster=world.roster).sender: data
        for data in messages.shares
    }
    honest = Evidence(announcement=messages.announcement, shares=shares[victim], replies=messages.replies)
    lowered = replace(announced, invitation=replace(invitation, threshold=1))
    lie = _false_reply(world, replies[colluder], victim=victim, colluder=colluder, context=announced.context)
    lie_below = _false_reply(
        world, replies[colluder], victim=victim, colluder=colluder, context=announced.context, signed_as=lowered.context
    )
    dealt = open_envelope(shares[victim], ShareMessage, context=invitation.context, roster=world.roster)
    foreign, _ = seal_envelope(
        replace(dealt.body, seed_commitment=secrets.token_bytes(32)),
        context=invitation.context,
        sender=victim,
        previous=dealt.previous,
        sign=Identity.generate(victim).sign,
    )
    return {
        "honest messages": honest,
        "a colluder's false share": replace(honest, replies=(lie, *(replies[n] for n in replies if n != colluder))),
        "too few replies": replace(honest, replies=(lie,)),
        "replies of another round": replace(honest, replies=old_replies),
        "a lowered threshold": replace(honest, announcement=lowered.to_bytes(), replies=(lie_below,)),
        "another key's signature": replace(honest, shares=foreign),
    }


def _false_reply(
    world: Consortium, reply: bytes, *, victim: str, colluder: str, context: bytes, signed_as: bytes | None = None
) -> bytes:
    """The colluder's R4 with a share of the victim's seed that was never dealt, signed by the colluder."""
    found = open_envelope(reply, UnmaskReply, context=context, roster=world.roster)
    body = replace(found.body, seed_shares={**found.body.seed_shares, victim: secrets.token_bytes(32)})
    return seal_envelope(
        body,
        context=context if signed_as is None else signed_as,
        sender=colluder,
        previous=found.previous,
        sign=world.identities[colluder].sign,
    )[0]


def _leave_out(world: Consortium, victim: str, forgeries: Iterable[bytes], whole: Words, tries: Tries) -> float:
    """A second sum over the model without the victim; the fraction of its vector in the difference of the two."""
    others = [name for name in world.names if name != victim]
    round_ = RogueRound(world, number=3)
    round_.deal()
    round_.upload()
    for forgery in forgeries:
        agreements = []
        for name in others:
            found = tries(round_.agree, name, others, evidence=(forgery,))
            if found is None:
                break
            agreements.append(found)
        if len(agreements) == len(others):
            for name in others:
                round_.unmask(name, agreements)
            return recovered(whole - round_.guess_sum(others), world.vectors[victim])
    return 0.0


ATTACKS = (
    protocol_attack(
        name="forged-evidence",
        threat="the aggregator and a colluder accuse an honest site, so that a round is run again without it",
        defence="evidence counts only where signed shares match the accused site's own commitments",
        masked=forged_evidence,
        plain=reads_the_update,
        encrypted=not_applicable("there is no evidence, and no second sum on account of it"),
    ),
)
