"""What the aggregator says: every unsigned message, and how a client parses it from untrusted bytes.

The aggregator holds no key, and nothing that it says is believed: clients check it against their own floors, sign its
digest, and derive their masks from it. The requests of R3 and R4 only repeat what clients signed. The table of all
messages is in `privacy.secagg.messages`.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.secagg.envelope import DIGEST_BYTES
from privacy.secagg.parsing import byte_strings, exactly, sized, sorted_names, wrong_type
from privacy.streams import SUITE

MAX_ROUND = 2**32
MAX_VECTOR_LENGTH = 2**31


@dataclass(frozen=True, kw_only=True)
class RoundInvitation:
    """R0, first half: who is to share secrets for a round, and how many of them it takes to open its sum.

    `invited` is sorted. It may come before the model of its round is known.
    """

    session: bytes
    round_number: int
    roster_hash: bytes
    invited: tuple[str, ...]
    threshold: int

    def to_bytes(self) -> bytes:
        """The invitation as it travels."""
        return to_cbor(
            {
                "suite": SUITE,
                "session": self.session,
                "round": self.round_number,
                "roster": self.roster_hash,
                "invited": self.invited,
                "threshold": self.threshold,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes; whether to take part is the client's decision, not the parser's.

        Raises:
            HostileInputError: not an invitation of this suite.
        """
        match exactly(from_cbor(data), "suite", "session", "round", "roster", "invited", "threshold"):
            case [str(suite), bytes(session), int(number), bytes(roster), list(invited), int(threshold)]:
                pass
            case _:
                raise wrong_type("R0 round invitation")
        if suite != SUITE or not 16 <= len(session) <= 32:
            raise HostileInputError(f"the invitation is of suite {suite!r}, expected {SUITE!r}, or has no session")
        if not 1 <= number <= MAX_ROUND:
            raise HostileInputError(f"round {number} is out of range")
        if threshold < 1:
            raise HostileInputError(f"threshold = {threshold}, at least 1 is needed")
        return cls(
            session=session,
            round_number=number,
            roster_hash=sized(roster, DIGEST_BYTES),
            invited=sorted_names(invited, what="invited"),
            threshold=threshold,
        )

    @cached_property
    def context(self) -> bytes:
        """The digest of the invitation: signed in R1 and part of every commitment and seal."""
        return hashlib.sha256(to_cbor([SUITE, "shares", self.to_bytes()])).digest()


@dataclass(frozen=True, kw_only=True)
class RoundAnnouncement:
    """R0, second half: what the round sums. Hashes are SHA-256; `vector_length` counts 32-bit words.

    `policy_hash` is all zeros where the run has no policy document. `previous` is the digest of the transcript entry
    before this round, all zeros where there is none: whoever signs the round signs the record of all rounds before it.
    """

    invitation: RoundInvitation
    model_hash: bytes
    plan_hash: bytes
    policy_hash: bytes
    vector_length: int
    previous: bytes = bytes(DIGEST_BYTES)

    def to_bytes(self) -> bytes:
        """The announcement as it travels."""
        return to_cbor(
            {
                "suite": SUITE,
                "invitation": self.invitation.to_bytes(),
                "model": self.model_hash,
                "plan": self.plan_hash,
                "policy": self.policy_hash,
                "vector_length": self.vector_length,
                "previous": self.previous,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes.

        Raises:
            HostileInputError: not an announcement of this suite.
        """
        names = ("suite", "invitation", "model", "plan", "policy", "vector_length", "previous")
        match exactly(from_cbor(data), *names):
            case [
                str(suite),
                bytes(invitation),
                bytes(model),
                bytes(plan),
                bytes(policy),
                int(vector_length),
                bytes(previous),
            ] if suite == SUITE:
                pass
            case _:
                raise wrong_type("R0 round announcement")
        if not 1 <= vector_length <= MAX_VECTOR_LENGTH:
            raise HostileInputError(f"vector length {vector_length} is out of range")
        return cls(
            invitation=RoundInvitation.from_bytes(invitation),
            model_hash=sized(model, DIGEST_BYTES),
            plan_hash=sized(plan, DIGEST_BYTES),
            policy_hash=sized(policy, DIGEST_BYTES),
            vector_length=vector_length,
            previous=sized(previous, DIGEST_BYTES),
        )

    @cached_property
    def context(self) -> bytes:
        """The digest of everything announced: signed from R2 on and part of every mask's key."""
        return hashlib.sha256(to_cbor([SUITE, "round", self.to_bytes()])).digest()

    @property
    def round_number(self) -> int:
        """The number of the round within its session."""
        return self.invitation.round_number


@dataclass(frozen=True, kw_only=True)
class AgreementRequest:
    """R3: the aggregator's claim about who survived, as the survivors' own signed R2 headers (unparsed).

    `evidence` proves that clients cheated in an earlier round over the same model (privacy.secagg.blame); it is what
    lets a round be run again without them.
    """

    context: bytes
    headers: tuple[bytes, ...]
    evidence: tuple[bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """The request as it travels."""
        return to_cbor({"suite": SUITE, "context": self.context, "headers": self.headers, "evidence": self.evidence})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes.

        Raises:
            HostileInputError: not a request of this suite.
        """
        match exactly(from_cbor(data), "suite", "context", "headers", "evidence"):
            case [str(suite), bytes(context), list(headers), list(evidence)] if suite == SUITE:
                return cls(
                    context=sized(context, DIGEST_BYTES),
                    headers=byte_strings(headers, what="R3 agreement request"),
                    evidence=byte_strings(evidence, what="R3 agreement request"),
                )
        raise wrong_type("R3 agreement request")


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest:
    """R4: the survivors' own signatures on the survivor set (unparsed)."""

    context: bytes
    agreements: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The request as it travels."""
        return to_cbor({"suite": SUITE, "context": self.context, "agreements": self.agreements})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes.

        Raises:
            HostileInputError: not a request of this suite.
        """
        match exactly(from_cbor(data), "suite", "context", "agreements"):
            case [str(suite), bytes(context), list(agreements)] if suite == SUITE:
                return cls(
                    context=sized(context, DIGEST_BYTES),
                    agreements=byte_strings(agreements, what="R4 unmask request"),
                )
        raise wrong_type("R4 unmask request")
