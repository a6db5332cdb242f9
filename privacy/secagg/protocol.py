"""The whole protocol on one page: vectors in, dropouts anywhere, the sum out.

For readers and tests; in a deployment the same calls happen in different places, with a network in between. Every
message crosses it as bytes, and every client is restored from its stored state before each step.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from privacy.errors import MisuseError
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster, verify_roster
from privacy.secagg.server import AggregateSum, SecAggServer
from privacy.streams import Words

Step: TypeAlias = Literal["advertise", "encapsulate", "confirm", "share", "upload", "agree", "unmask"]
STEPS: tuple[Step, ...] = ("advertise", "encapsulate", "confirm", "share", "upload", "agree", "unmask")


def run_secure_aggregation(
    vectors: Mapping[str, Words],
    *,
    threshold: int | None = None,
    min_cohort: int = 2,
    silent_from: Mapping[str, Step] | None = None,
) -> AggregateSum:
    """Sum the clients' vectors modulo 2^32, each uint32 of one common shape (vector_length,).

    `silent_from` names the step from which on a client sends nothing more. A client that is silent at "agree" or
    "unmask" has uploaded, so it is in the sum.

    Raises:
        TooFewSurvivorsError: fewer clients than the threshold remain; nothing is unmasked.
        MisuseError: the vectors have different lengths.
    """
    lengths = {vector.size for vector in vectors.values()}
    if len(lengths) != 1:
        raise MisuseError(f"all vectors must have one length, got {sorted(lengths)}")
    silent = dict(silent_from or {})

    # Before the run: sites make their keys, the consortium vouches for them, everybody checks the roster.
    identities = {name: Identity.generate(name) for name in sorted(vectors)}
    consortium_key = generate_consortium_key()
    members = tuple(Member(name, identity.public_key) for name, identity in identities.items())
    signed = sign_roster(Roster(consortium="consortium", version=1, expires=2**40, members=members), consortium_key)
    roster = verify_roster(signed, anchor=consortium_key.public_key().public_bytes_raw(), now=0)
    session = secrets.token_bytes(32)

    stored = {
        name: SecAggClient.create(
            identity=identity, roster=roster, session=session, floors=ClientFloors(min_cohort=min_cohort)
        ).to_bytes()
        for name, identity in identities.items()
    }

    def answers(step: Step, act: Callable[[str, SecAggClient], bytes]) -> list[bytes]:
        """Every client that still speaks at this step acts on its restored state and stores it before it answers."""
        messages = []
        for name in sorted(stored):
            if name in silent and STEPS.index(silent[name]) <= STEPS.index(step):
                continue
            client = SecAggClient.from_bytes(stored[name], identity=identities[name], roster=roster)
            message = act(name, client)
            stored[name] = client.to_bytes()
            messages.append(message)
        return messages

    # S0 to S2: fresh keys, pair keys, confirmation. The aggregator relays and learns no key.
    server = SecAggServer(roster=roster, session=session)
    advertised = server.collect_advertisements(answers("advertise", lambda _, client: client.advertise_keys()))
    encapsulated = server.collect_encapsulations(
        answers("encapsulate", lambda _, client: client.encapsulate_keys(advertised))
    )
    confirmed = server.collect_confirmations(answers("confirm", lambda _, client: client.confirm_keys(encapsulated)))

    # R0 and R1: the aggregator invites to a round, clients deal shares of their masks' secrets. In a run this happens
    # while the round before is being opened, so the invitation knows nothing of the model.
    round_ = server.invite(round_number=1, threshold=threshold)

    def share(_: str, client: SecAggClient) -> bytes:
        client.accept_confirmations(confirmed)
        return client.share(round_.invitation)

    round_.collect_shares(answers("share", share))

    # R0 and R2: with the model announced, clients check what they were dealt, train, and mask. Their vectors go
    # straight into the accumulator.
    announcement = round_.announce(model_hash=bytes(32), plan_hash=bytes(32), vector_length=lengths.pop())

    def upload(name: str, client: SecAggClient) -> bytes:
        complaint = client.accept(announcement, round_.shares)
        if complaint is not None:
            round_.add_complaint(complaint)
            return complaint
        header, masked = client.mask(vectors[name])
        round_.add_upload(header, masked)
        return header

    answers("upload", upload)

    # R3: survivors sign the survivor set, each one set only.
    request = round_.request_agreement()
    round_.collect_agreements(answers("agree", lambda _, client: client.agree(request)))

    # R4 and R5: given enough signatures, survivors reveal what masks the sum, and nothing else.
    release = round_.request_unmask()
    return round_.finish(answers("unmask", lambda _, client: client.unmask(release)))
