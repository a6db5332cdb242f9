"""What the aggregator of an encrypted run says: unsigned messages, and how a site parses them from untrusted bytes.

Nothing in them is believed: a site checks them against its floors, its key and its own history, signs their digest, and
encrypts under it. The table of all messages is in `privacy.he.messages`.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self, TypeAlias

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.he.parameters import HE_SUITE
from privacy.secagg.envelope import DIGEST_BYTES, NO_PREVIOUS
from privacy.secagg.parsing import byte_strings, exactly, sized, sorted_names, wrong_type
from privacy.secagg.requests import MAX_ROUND, MAX_VECTOR_LENGTH

Step: TypeAlias = Literal["round", "end"]


@dataclass(frozen=True, kw_only=True)
class EncryptedAnnouncement:
    """E0: what is to be summed next, and which sum came before. Digests and hashes are SHA-256.

    `round_number` grows with every attempt; `server_round` counts the steps of the model from 1, so a round that is run
    again keeps it. `minimum` is how many inputs it takes at least. With the step "end" there is no upload any more:
    `vector_length` is 0 and sites answer with E2.

    `previous_round`, `sum_root` and `contributors` name the sum to step on: the digest of its own announcement, the
    root of its ciphertext, and whose inputs are inside. They are zeros and empty for server round 1. `previous` is the
    digest of the transcript entry before this one, `policy_hash` is zeros where the run has no policy document.
    """

    step: Step
    run: bytes
    session: bytes
    round_number: int
    server_round: int
    roster_hash: bytes
    invited: tuple[str, ...]
    minimum: int
    plan_hash: bytes
    policy_hash: bytes
    parameters: bytes
    fingerprint: bytes
    vector_length: int
    previous_round: bytes = NO_PREVIOUS
    sum_root: bytes = NO_PREVIOUS
    contributors: tuple[str, ...] = ()
    previous: bytes = NO_PREVIOUS

    def to_bytes(self) -> bytes:
        """The announcement as it travels."""
        return to_cbor(
            {
                "suite": HE_SUITE,
                "step": self.step,
                "run": self.run,
                "session": self.session,
                "round": self.round_number,
                "server_round": self.server_round,
                "roster": self.roster_hash,
                "invited": self.invited,
                "minimum": self.minimum,
                "plan": self.plan_hash,
                "policy": self.policy_hash,
                "parameters": self.parameters,
                "fingerprint": self.fingerprint,
                "vector_length": self.vector_length,
                "previous_round": self.previous_round,
                "sum_root": self.sum_root,
                "contributors": self.contributors,
                "previous": self.previous,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes; whether to take part is the site's decision, not the parser's.

        Raises:
            HostileInputError: not an announcement of this suite, or one that contradicts itself.
        """
        names = ["suite", "step", "run", "session", "round", "server_round", "roster", "invited", "minimum", "plan"]
        names += ["policy", "parameters", "fingerprint", "vector_length", "previous_round", "sum_root"]
        match exactly(from_cbor(data), *names, "contributors", "previous"):
            case [
                str(suite),
                ("round" | "end") as step,
                bytes(run),
                bytes(session),
                int(number),
                int(server_round),
                bytes(roster),
                list(invited),
                int(minimum),
                bytes(plan),
                bytes(policy),
                bytes(parameters),
                bytes(fingerprint),
                int(vector_length),
                bytes(previous_round),
                bytes(sum_root),
                list(contributors),
                bytes(previous),
            ] if suite == HE_SUITE:
                pass
            case _:
                raise wrong_type("E0 encrypted announcement")
        if not 16 <= len(session) <= DIGEST_BYTES:
            raise HostileInputError(f"a session has 16 to {DIGEST_BYTES} bytes, got {len(session)}")
        announced = cls(
            step=step,
            run=sized(run, DIGEST_BYTES),
            session=session,
            round_number=number,
            server_round=server_round,
            roster_hash=sized(roster, DIGEST_BYTES),
            invited=sorted_names(invited, what="invited"),
            minimum=minimum,
            plan_hash=sized(plan, DIGEST_BYTES),
            policy_hash=sized(policy, DIGEST_BYTES),
            parameters=sized(parameters, DIGEST_BYTES),
            fingerprint=sized(fingerprint, DIGEST_BYTES),
            vector_length=vector_length,
            previous_round=sized(previous_round, DIGEST_BYTES),
            sum_root=sized(sum_root, DIGEST_BYTES),
            contributors=sorted_names(contributors, what="contributors"),
            previous=sized(previous, DIGEST_BYTES),
        )
        announced._require_sense()
        return announced

    @cached_property
    def context(self) -> bytes:
        """The digest of everything announced: signed in E1 and E2, and bound into every ciphertext."""
        return hashlib.sha256(to_cbor([HE_SUITE, "round", self.to_bytes()])).digest()

    def _require_sense(self) -> None:
        if not 1 <= self.server_round <= self.round_number <= MAX_ROUND:
            raise HostileInputError(f"server round {self.server_round} in round {self.round_number} is out of range")
        smallest = 1 if self.step == "round" else 0
        if not smallest <= self.vector_length <= smallest * MAX_VECTOR_LENGTH:
            raise HostileInputError(f"vector length {self.vector_length} is out of range for the step {self.step!r}")
        if not 2 <= self.minimum <= len(self.invited):
            raise HostileInputError(f"minimum = {self.minimum} must lie in [2, {len(self.invited)}], the invited")
        facts = (self.previous_round != NO_PREVIOUS, self.sum_root != NO_PREVIOUS, len(self.contributors) >= 2)
        if not (all(facts) if self.server_round > 1 else not any((*facts, self.contributors, self.step == "end"))):
            raise HostileInputError(
                f"server round {self.server_round} comes with {len(self.contributors)} contributors of the sum before: "
                "the first round has none and is no end, every later one at least 2"
            )


@dataclass(frozen=True, kw_only=True)
class PreviousRound:
    """What travels beside E0 from server round 2 on: the announcement and the signed E1 headers of the sum to step on.

    The sum itself travels beside it too, to sites that have not stepped on it.
    """

    announcement: bytes
    headers: tuple[bytes, ...] = field(repr=False)

    def to_bytes(self) -> bytes:
        """The record as it travels."""
        return to_cbor({"suite": HE_SUITE, "announcement": self.announcement, "headers": self.headers})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes.

        Raises:
            HostileInputError: not a record of this suite.
        """
        match exactly(from_cbor(data), "suite", "announcement", "headers"):
            case [str(suite), bytes(announcement), list(headers)] if suite == HE_SUITE:
                return cls(
                    announcement=announcement, headers=byte_strings(headers, what="headers of the previous round")
                )
        raise wrong_type("previous round")
