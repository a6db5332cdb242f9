"""A site's receipt of a round: what it agreed to, kept at the site, to be held against the aggregator's transcript.

Made by a client when it agrees to a survivor set (R3). It holds no secret: digests of signed messages and names. An
aggregator that shows an auditor another history than it showed to the sites fails against the receipts of any of them.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from privacy.errors import HostileInputError
from privacy.secagg.envelope import DIGEST_BYTES
from privacy.secagg.parsing import exactly, parse_name, wrong_type
from privacy.secagg.requests import MAX_ROUND


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One round as one site saw it; all bytes are digests but `session`.

    `context` is the digest of the announcement, `previous` that of the transcript entry before it, `header_digest` that
    of this site's own R2 header, `survivors_digest` what it signed in R3.
    """

    site: str
    session: bytes
    round_number: int
    context: bytes
    model_hash: bytes
    previous: bytes
    header_digest: bytes
    survivors: tuple[str, ...]
    survivors_digest: bytes

    def to_json(self) -> dict[str, Any]:
        """The receipt with its bytes in hexadecimal."""
        return {
            name: value.hex() if isinstance(value, bytes) else list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, record: Any) -> Self:
        """A receipt from a line of a site's books.

        Raises:
            HostileInputError: not a receipt.
        """
        match exactly(record, *(item.name for item in fields(cls))):
            case [
                str(site),
                str(session),
                int(round_number),
                str(context),
                str(model_hash),
                str(previous),
                str(header_digest),
                list(survivors),
                str(survivors_digest),
            ] if not isinstance(round_number, bool):
                pass
            case _:
                raise wrong_type("a receipt")
        names = tuple(parse_name(name) for name in survivors)
        if list(names) != sorted(set(names)) or not 1 <= round_number <= MAX_ROUND:
            raise HostileInputError(
                f"a receipt of round {round_number} whose survivors are not sorted, or out of range"
            )
        return cls(
            site=parse_name(site),
            session=digest_from_hex(session, smallest=16),
            round_number=round_number,
            context=digest_from_hex(context),
            model_hash=digest_from_hex(model_hash),
            previous=digest_from_hex(previous),
            header_digest=digest_from_hex(header_digest),
            survivors=names,
            survivors_digest=digest_from_hex(survivors_digest),
        )


def digest_from_hex(text: str, *, smallest: int = DIGEST_BYTES) -> bytes:
    """A digest, or an identifier of `smallest` to 32 bytes, from a site's books; raises HostileInputError."""
    try:
        found = bytes.fromhex(text)
    except ValueError as error:
        raise HostileInputError("a receipt holds text that is not hexadecimal") from error
    if found.hex() != text or not smallest <= len(found) <= DIGEST_BYTES:
        raise HostileInputError(
            f"a receipt holds {len(found)} bytes for a digest of {DIGEST_BYTES}, or other hexadecimal"
        )
    return found
