"""What is attacked: how a client is made and how it acts, so that one attack runs against any implementation.

Read by every attack on the protocol. The default is this project's own client, aggregator and auditor. The tests put
implementations in their place that lack one defence each: an attack that succeeds on none of them would prove nothing.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from privacy.entropy import SYSTEM_ENTROPY, Entropy
from privacy.fixed_point import VectorFormat, encode
from privacy.he.member import GroupMember
from privacy.he.parameters import HeParameters
from privacy.secagg.blame import Conviction, convict
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.differencing import OpenedSums
from privacy.secagg.identity import Identity
from privacy.secagg.roster import Roster, verify_roster
from privacy.secagg.server import SecAggServer
from privacy.streams import Keystream, Words
from secfed.audit.published_run import PublishedRun, problems

if TYPE_CHECKING:
    from secfed.audit.published_encrypted_run import PublishedEncryptedRun


class Encode(Protocol):
    """Real values to integers modulo 2^32 (privacy.fixed_point.encode)."""

    def __call__(self, values: npt.NDArray[np.float64], *, vector_format: VectorFormat, rounding: Keystream) -> Words:
        """Integers of shape (length,); refuses values beyond the range."""
        ...


class Convict(Protocol):
    """A judgement of evidence (privacy.secagg.blame.convict)."""

    def __call__(self, data: bytes, *, roster: Roster) -> Conviction:
        """Who is guilty; refuses evidence that proves nothing."""
        ...


def _checked_roster(signed: bytes, anchor: bytes) -> Roster:
    return verify_roster(signed, anchor=anchor, now=0)


def _floored_parameters(offered: bytes, floor: HeParameters) -> HeParameters:
    return HeParameters.from_bytes(offered, floor=floor)


def _same_floors(floors: ClientFloors) -> ClientFloors:
    return floors


def _opened_sums(client: SecAggClient) -> OpenedSums:
    return client.opened


def _system_entropy() -> Entropy:
    return SYSTEM_ENTROPY


def _encrypted_problems(run: "PublishedEncryptedRun") -> tuple[str, ...]:
    # The published run is made of a consortium's sites, which are made of a target.
    from secfed.audit.published_encrypted_run import encrypted_problems

    return encrypted_problems(run)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One implementation of all parties.

    `read_roster` takes a signed roster and the consortium's public key, `floors` turns what a site's owner set into
    what its client insists on, `entropy` gives each new client its source of secrets, and `audit` says
    what an auditor finds wrong with a published run. `member` is a site of an encrypted run, and `read_parameters`
    takes the encryption parameters that somebody offers, and those that the site asks for at least.
    """

    name: str = "secfed"
    client: type[SecAggClient] = SecAggClient
    server: type[SecAggServer] = SecAggServer
    member: type[GroupMember] = GroupMember
    read_roster: Callable[[bytes, bytes], Roster] = _checked_roster
    read_parameters: Callable[[bytes, HeParameters], HeParameters] = _floored_parameters
    floors: Callable[[ClientFloors], ClientFloors] = _same_floors
    carry: Callable[[SecAggClient], OpenedSums] = _opened_sums
    entropy: Callable[[], Entropy] = _system_entropy
    encode: Encode = encode
    convict: Convict = convict
    audit: Callable[[PublishedRun], tuple[str, ...]] = problems
    audit_encrypted: "Callable[[PublishedEncryptedRun], tuple[str, ...]]" = _encrypted_problems

    def join(
        self,
        *,
        identity: Identity,
        signed_roster: bytes,
        anchor: bytes,
        session: bytes,
        floors: ClientFloors,
        opened: OpenedSums,
    ) -> SecAggClient:
        """A client that joins a session with the roster it is given.

        Raises:
            HostileInputError: it does not accept the roster.
        """
        return self.client.create(
            identity=identity,
            roster=self.read_roster(signed_roster, anchor),
            session=session,
            floors=self.floors(floors),
            opened=opened,
            entropy=self.entropy(),
        )


SECFED = Target()


def rounding_stream(seed: int, label: str) -> Keystream:
    """For stochastic rounding in the attacks' made-up data; no guarantee rests on it."""
    return Keystream(hashlib.sha256(f"audit rounding {label} {seed}".encode()).digest())
