"""What a client keeps between two messages, and how it is stored.

Held by one site alone. A Flower client may handle every message in a fresh process, so the state must survive as bytes;
these bytes hold secrets and belong into a file that only the site can read, replaced before an answer leaves. The state
is frozen: a step that fails leaves the former state untouched.

It does not protect against a site that restores an old copy: the monotone round number lives in the state itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.differencing import NOTHING_OPENED, OpenedSums, SecondSum
from privacy.secagg.envelope import NO_PREVIOUS
from privacy.secagg.threshold import default_threshold
from privacy.stored_record import record_fields, restore_record
from privacy.streams import SUITE

Stage: TypeAlias = Literal[
    "CREATED", "ADVERTISED", "ENCAPSULATED", "CONFIRMED", "READY", "SHARED", "ACCEPTED", "UPLOADED", "AGREED"
]

_MAX_STATE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class ClientFloors:
    """What a site insists on, whatever the aggregator announces.

    `min_threshold` None means floor(2 n / 3) + 1 for the cohort at hand; at most n / 2 is refused always. The last two
    are the rules of `privacy.secagg.differencing`.

    Raises:
        MisuseError: min_cohort below 2 (one client is no sum), or a limit below 1.
    """

    min_cohort: int
    min_threshold: int | None = None
    max_vector_length: int = 2**28
    second_sum: SecondSum = "same survivors"
    min_cohort_change: int = 1

    def __post_init__(self) -> None:
        if self.min_cohort < 2:
            raise MisuseError(
                f"min_cohort = {self.min_cohort} must be at least 2: the sum over one client is its update"
            )
        limits = (
            self.max_vector_length,
            self.min_cohort_change,
            1 if self.min_threshold is None else self.min_threshold,
        )
        if min(limits) < 1:
            raise MisuseError("max_vector_length, min_threshold and min_cohort_change must be at least 1")

    def threshold_for(self, cohort_size: int) -> int:
        """The lowest threshold that this site accepts for a cohort."""
        if self.min_threshold is None:
            return default_threshold(cohort_size)
        return max(self.min_threshold, cohort_size // 2 + 1)


@dataclass(frozen=True, kw_only=True, repr=False)
class RoundState:
    """One open round. Fields that a later stage needs no more are empty: this is how secrets are erased.

    `survivors` holds the digests of the R2 headers of U2, once this client has agreed to it.
    """

    invitation: bytes
    announcement: bytes = b""
    own_shares: bytes = b""
    own_shares_digest: bytes
    self_seed: bytes
    pair_secrets: Mapping[str, bytes]
    seal_secrets: Mapping[str, bytes]
    seed_shares: Mapping[str, bytes]
    wrap_shares: Mapping[str, bytes]
    cohort_digest: bytes = NO_PREVIOUS
    own_header_digest: bytes = NO_PREVIOUS
    survivors: Mapping[str, bytes]

    def __repr__(self) -> str:
        return "RoundState(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a RoundState cannot be pickled: it holds secrets")


@dataclass(frozen=True, kw_only=True, repr=False)
class ClientState:
    """One session of one client. `chain_keys` are pair keys until READY, and stand at round `chain_round` from then on.

    `setup_digests` holds the digest of the last setup message accepted from each peer.
    """

    stage: Stage
    name: str
    session: bytes
    roster_digest: bytes
    floors: ClientFloors
    exchange_key: bytes
    encapsulation_key: bytes
    own_digest: bytes = NO_PREVIOUS
    peer_keys: Mapping[str, bytes]
    setup_digests: Mapping[str, bytes]
    chain_keys: Mapping[str, bytes]
    chain_round: int = 0
    last_round: int = 0
    excluded: Mapping[str, str]
    opened: OpenedSums = NOTHING_OPENED
    round: RoundState | None = None

    def __repr__(self) -> str:
        return f"ClientState(name={self.name!r}, stage={self.stage}, last_round={self.last_round}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a ClientState cannot be pickled: it holds secrets; use to_bytes and a private file")

    def to_bytes(self) -> bytes:
        """Secret bytes that `from_bytes` understands."""
        return to_cbor([SUITE, "client state", record_fields(self)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "ClientState":
        """The state from the site's own file.

        Raises:
            MisuseError: the bytes are damaged or of another version.
        """
        try:
            match from_cbor(data, max_bytes=_MAX_STATE_BYTES):
                case [str(suite), "client state", dict(found)] if suite == SUITE:
                    state: ClientState = restore_record(cls, found)
                    return state
        except HostileInputError as error:
            raise MisuseError(f"the stored state cannot be read: {error}") from error
        raise MisuseError(f"the stored state is not of suite {SUITE!r}: start a new session")
