"""A site that cheats in the protocol: it is named, by what it signed, and nobody else is.

What is dealt is committed to, so that a bad share or wrap shows as a contradiction between signed messages. An update
that is false in itself is not one: `false-update` succeeds, because masks hide a poisoned update as well as a good one.
"""

import secrets
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from privacy.errors import HostileInputError
from privacy.secagg.client_state import ClientState
from privacy.secagg.envelope import open_envelope, seal_envelope
from privacy.secagg.messages import Complaint, MaskedInput, UnmaskReply
from secfed.audit.attacks import encrypted_holders, encrypted_setup
from secfed.audit.consortium import MODEL, PLAN, Consortium
from secfed.audit.corrupt_dealer import (
    Cheat,
    play_with,
    share_not_committed_to,
    share_that_does_not_open,
    shares_of_another_seed,
    shares_of_another_wrap_key,
    wrap_of_other_secrets,
    wrap_that_does_not_open,
)
from secfed.audit.finding import Finding, not_applicable, on_figure, protocol_attack
from secfed.audit.rogue_round import context_of
from secfed.audit.target import Target

_RUINED = "fraction of coordinates of the sum that are wrong"
_BAD_SHARES = (share_that_does_not_open, share_not_committed_to, shares_of_another_seed)
_BAD_WRAPS = (wrap_that_does_not_open, wrap_of_other_secrets, shares_of_another_wrap_key)
_UNNAMED = "cheats whose author was not named, or not alone"


def bad_shares(target: Target, seed: int) -> Finding:
    """One peer is dealt a share that does not open, or another than committed to; or all shares give another seed."""
    return _judge_dealers(target, seed, _BAD_SHARES, drops=False)


def bad_wraps(target: Target, seed: int) -> Finding:
    """The cheater drops, and its wrap does not open, holds other pair secrets, or the wrap key is another."""
    return _judge_dealers(target, seed, _BAD_WRAPS, drops=True)


def bad_uploads(target: Target, seed: int) -> Finding:
    """A vector that is not the signed one, one of another length, and a share in R4 that was not dealt."""
    world = Consortium(target, count=5, seed=seed)
    control = world.control()
    cheater = world.names[seed % len(world.names)]
    round_ = world.server.invite(round_number=2)
    round_.collect_shares([client.share(round_.invitation) for client in world.clients.values()])
    announcement = round_.announce(model_hash=MODEL, plan_hash=PLAN, vector_length=world.vector_format.length)
    named = 0
    for name, client in world.clients.items():
        client.accept(announcement, round_.shares)
        header, masked = client.mask(world.vectors[name])
        if name == cheater:
            for wrong in (masked + np.uint32(1), masked[:-1]):
                try:
                    round_.add_upload(header, wrong)
                except HostileInputError as error:
                    named += error.party == cheater
        if name not in round_.uploaded:
            round_.add_upload(header, masked)
    request = round_.request_agreement()
    round_.collect_agreements([client.agree(request) for client in world.clients.values()])
    release = round_.request_unmask()
    replies = {name: client.unmask(release) for name, client in world.clients.items()}
    context = context_of(replies[cheater])
    reply = open_envelope(replies[cheater], UnmaskReply, context=context, roster=world.roster)
    other = {**reply.body.seed_shares, world.names[0]: secrets.token_bytes(32)}
    replies[cheater], _ = seal_envelope(
        replace(reply.body, seed_shares=other),
        context=context,
        sender=cheater,
        previous=reply.previous,
        sign=world.identities[cheater].sign,
    )
    summed = round_.finish(replies.values())
    named += set(summed.excluded) == {cheater}
    exact = bool((summed.total == world.total(world.names)).all())
    return Finding(
        control=control,
        outcome=f"{cheater} was named {named} of 3 times, and the sum is {'exact' if exact else 'wrong'}",
        figure=float(3 - named + (not exact)),
        unit=f"{_UNNAMED}, of 3, plus 1 for a wrong sum",
        verdict=on_figure(3 - named + (not exact), above=0),
    )


def false_complaints(target: Target, seed: int) -> Finding:
    """A site complains about an honest dealer, with the secret that opens honest shares, and with another one."""
    world = Consortium(target, count=5, seed=seed)
    control = world.control()
    complainer, dealer = world.names[0], world.names[1]
    blamed = []
    for number, lie in ((2, False), (3, True)):
        round_ = world.server.invite(round_number=number)
        round_.collect_shares([client.share(round_.invitation) for client in world.clients.values()])
        state = ClientState.from_bytes(world.clients[complainer].to_bytes())
        true_secret = state.round.seal_secrets[dealer] if state.round is not None else b""
        announcement = round_.announce(model_hash=MODEL, plan_hash=PLAN, vector_length=world.vector_format.length)
        witness = world.clients[world.names[2]]
        witness.accept(announcement, round_.shares)
        header, _ = witness.mask(world.vectors[world.names[2]])
        context = context_of(header)
        complaint, _ = seal_envelope(
            Complaint(dealer=dealer, seal_secret=secrets.token_bytes(32) if lie else true_secret),
            context=context,
            sender=complainer,
            previous=open_envelope(header, MaskedInput, context=context, roster=world.roster).previous,
            sign=world.identities[complainer].sign,
        )
        blamed.append(round_.add_complaint(complaint))
    framed = sum(party != complainer for party in blamed)
    return Finding(
        control=control,
        outcome=f"{complainer} complained about {dealer}; blamed were {blamed}",
        figure=float(framed),
        unit="honest sites blamed, of 2 false complaints",
        verdict=on_figure(framed, above=0),
    )


def false_update(target: Target, seed: int) -> Finding:
    """A site uploads random words, correctly masked and signed."""
    world = Consortium(target, count=5, seed=seed)
    control = world.control()
    cheater = world.names[seed % len(world.names)]
    noise = np.random.default_rng(seed).integers(2**32, size=world.vector_format.length, dtype=np.uint32)
    played = world.play(2, vectors={**world.vectors, cheater: noise})
    ruined = float(np.mean(played.aggregate.total != world.total(world.names)))
    return Finding(
        control=control,
        outcome=f"{len(played.aggregate.excluded)} sites were named; only a site's own software bounds its update",
        figure=ruined,
        unit=_RUINED,
        verdict=on_figure(ruined, above=0.01),
    )


def false_update_in_plain(target: Target, seed: int) -> Finding:
    """The same without masks: every update can be read, and none is checked."""
    world = Consortium(target, count=5, seed=seed, set_up=False)
    cheater = world.names[seed % len(world.names)]
    noise = np.random.default_rng(seed).integers(2**32, size=world.vector_format.length, dtype=np.uint32)
    total = world.total(world.names, vectors={**world.vectors, cheater: noise})
    ruined = float(np.mean(total != world.total(world.names)))
    return Finding(
        control="the sum of 5 sites is exact without it",
        outcome="the aggregator could look at every update, but it does not judge any",
        figure=ruined,
        unit=_RUINED,
        verdict=on_figure(ruined, above=0.01),
    )


def _judge_dealers(target: Target, seed: int, cheats: Sequence[Cheat], *, drops: bool) -> Finding:
    named, convicted = 0, 0
    control = Consortium(target, count=5, seed=seed).control()
    for cheat in cheats:
        world = Consortium(target, count=5, seed=seed)
        cheater = world.names[seed % len(world.names)]
        judged = play_with(world, cheat, number=1, cheater=cheater, drops=drops)
        named += judged.blamed == {cheater}
        convicted += judged.convicted == {cheater}
    return Finding(
        control=control,
        outcome=f"the cheater, and nobody else, was named for {named} of {len(cheats)} cheats; {convicted} times by "
        "evidence that convicts it before anyone, else by a complaint that anyone can judge",
        figure=float(len(cheats) - named),
        unit=f"{_UNNAMED}, of {len(cheats)}",
        verdict=on_figure(len(cheats) - named, above=0),
    )


_NO_PROTOCOL = "plain mode has no shares, wraps or masks"

ATTACKS = (
    protocol_attack(
        name="bad-share",
        threat="a site deals shares that contradict its commitments",
        defence="complaints that anyone can judge; evidence from signed replies",
        masked=bad_shares,
        plain=not_applicable(_NO_PROTOCOL),
        encrypted=not_applicable("there are no shares"),
    ),
    protocol_attack(
        name="bad-wrap",
        threat="a site wraps other secrets than it committed to, and drops",
        defence="commitments, and evidence from signed replies",
        masked=bad_wraps,
        plain=not_applicable(_NO_PROTOCOL),
        encrypted=encrypted_setup.bad_wraps,
    ),
    protocol_attack(
        name="bad-upload",
        threat="a site sends another vector than it signed, or a share that it was not dealt",
        defence="signed Merkle roots; the dealers' commitments",
        masked=bad_uploads,
        plain=not_applicable(_NO_PROTOCOL),
        encrypted=encrypted_holders.bad_uploads,
    ),
    protocol_attack(
        name="false-complaint",
        threat="a site accuses an honest dealer",
        defence="both sides committed to what opens their shares, so one of them is proven to lie",
        masked=false_complaints,
        plain=not_applicable(_NO_PROTOCOL),
        encrypted=not_applicable("there are no complaints: what a site deals is checked by who receives it"),
    ),
    protocol_attack(
        name="false-update",
        threat="a site uploads a poisoned or meaningless update",
        defence="none: masks hide it, and nothing proves its range; only a site's own software bounds its update",
        masked=false_update,
        plain=false_update_in_plain,
        encrypted=encrypted_holders.false_update,
        encrypted_defence="none: encryption hides it; only a site's own software bounds its update",
    ),
    protocol_attack(
        name="spoiled-sum",
        threat="a site signs bytes that make the sum decrypt for nobody, and stays unnamed",
        defence="none: an upload is never opened alone, so sites are left out in turn; nothing false is stepped on",
        masked=not_applicable("masked words always give a sum: false-update is what a site can do to it"),
        plain=not_applicable("plain words always give a sum: false-update is what a site can do to it"),
        encrypted=encrypted_holders.spoiled_sum,
    ),
)
