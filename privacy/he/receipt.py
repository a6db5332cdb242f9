"""A site's receipt of an encrypted round: what it signed, kept at the site, to be held against the transcript.

Made by a site when it uploads (E1) or ends the run (E2). It holds no secret: digests of signed messages. An aggregator
that shows an auditor another history than it showed to the sites fails against the receipts of any of them.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from privacy.errors import HostileInputError
from privacy.secagg.parsing import exactly, parse_name, wrong_type
from privacy.secagg.receipt import digest_from_hex
from privacy.secagg.requests import MAX_ROUND

PROTECTION = "encrypted"
"""What the lines of these receipts say in `protection`; those of masked rounds have no such field."""


@dataclass(frozen=True, kw_only=True)
class EncryptedReceipt:
    """One round, or the end, as one site saw it; all bytes are digests but `session`.

    `context` is the digest of the announcement, `message_digest` that of this site's own E1 or E2. `sum_root` and
    `inputs_digest` name the sum that the site came to its model by: its root, and the E1 of its contributors; zeros
    before the first. `fingerprint` names the group key.
    """

    site: str
    session: bytes
    round_number: int
    server_round: int
    context: bytes
    message_digest: bytes
    sum_root: bytes
    inputs_digest: bytes
    fingerprint: bytes

    def to_json(self) -> dict[str, Any]:
        """The receipt with its bytes in hexadecimal."""
        found = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(self).items()}
        return {"protection": PROTECTION, **found}

    @classmethod
    def from_json(cls, record: Any) -> Self:
        """A receipt from a line of a site's books.

        Raises:
            HostileInputError: not a receipt of an encrypted round.
        """
        match exactly(record, "protection", *(item.name for item in fields(cls))):
            case [
                str(protection),
                str(site),
                str(session),
                int(round_number),
                int(server_round),
                str(context),
                str(message_digest),
                str(sum_root),
                str(inputs_digest),
                str(fingerprint),
            ] if protection == PROTECTION and not isinstance(round_number, bool) and not isinstance(server_round, bool):
                pass
            case _:
                raise wrong_type("a receipt of an encrypted round")
        if not 1 <= server_round <= round_number <= MAX_ROUND:
            raise HostileInputError(
                f"a receipt of server round {server_round} in round {round_number}, which is out of range"
            )
        return cls(
            site=parse_name(site),
            session=digest_from_hex(session, smallest=16),
            round_number=round_number,
            server_round=server_round,
            context=digest_from_hex(context),
            message_digest=digest_from_hex(message_digest),
            sum_root=digest_from_hex(sum_root),
            inputs_digest=digest_from_hex(inputs_digest),
            fingerprint=digest_from_hex(fingerprint),
        )
