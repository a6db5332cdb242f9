"""What a site of an encrypted run keeps between two messages, and how it is stored.

Held by one site alone. It lives for the whole run, over any number of sessions. The bytes hold the group key and belong
into a file that only the site can read, replaced before an answer leaves. The state is frozen: a step that fails leaves
the former state untouched, but for the count of sums that did not decrypt.

It does not protect against a site that restores an old copy: the monotone round number lives in the state itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn, TypeAlias

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError
from privacy.he.parameters import HE_SUITE
from privacy.secagg.envelope import NO_PREVIOUS
from privacy.stored_record import record_fields, restore_record

MemberStage: TypeAlias = Literal[
    "CREATED", "OFFERED", "CONFIRMED", "READY", "ACCEPTED", "STEPPED", "UPLOADED", "CLOSED", "ENDED"
]

_MAX_STATE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, repr=False)
class MemberState:
    """One site in one run.

    `group_key` is `established` once its confirmations were accepted; `completed` counts the sums that the site stepped
    on, `model_hash` is the SHA-256 of the model that it stands on, `sum_root` and `inputs_digest` are of the last sum
    stepped on. `last_round` is the newest round number accepted; `input_context` and `input_digest` name the last
    upload.

    Of the session: `own_digest` is that of the last signed setup or closing message, `offers_digest` is over all G0,
    `standings` and `tags` say by site what its offer claimed, `members` confirmed the group key, `announcement` is the
    open round, `pending_inputs` the digest of the headers whose sum the site is about to step on.
    """

    stage: MemberStage
    name: str
    run: bytes
    roster_digest: bytes
    parameters: bytes
    group_key: bytes = b""
    fingerprint: bytes = b""
    established: int = 0
    completed: int
    model_hash: bytes
    sum_root: bytes = NO_PREVIOUS
    inputs_digest: bytes = NO_PREVIOUS
    last_round: int = 0
    input_context: bytes = b""
    input_digest: bytes = b""
    failed_sums: int = 0
    session: bytes = b""
    own_digest: bytes = NO_PREVIOUS
    offers_digest: bytes = NO_PREVIOUS
    standings: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, bytes] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    announcement: bytes = b""
    pending_inputs: bytes = NO_PREVIOUS

    def __repr__(self) -> str:
        return f"MemberState(name={self.name!r}, stage={self.stage}, completed={self.completed}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a MemberState cannot be pickled: it holds secrets; use to_bytes and a private file")

    def to_bytes(self) -> bytes:
        """Secret bytes that `from_bytes` understands."""
        return to_cbor([HE_SUITE, "member state", record_fields(self)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "MemberState":
        """The state from the site's own file.

        Raises:
            MisuseError: the bytes are damaged or of another version.
        """
        try:
            match from_cbor(data, max_bytes=_MAX_STATE_BYTES):
                case [str(suite), "member state", dict(found)] if suite == HE_SUITE:
                    state: MemberState = restore_record(cls, found)
                    return state
        except HostileInputError as error:
            raise MisuseError(f"the stored state cannot be read: {error}") from error
        raise MisuseError(f"the stored state is not of suite {HE_SUITE!r}")
