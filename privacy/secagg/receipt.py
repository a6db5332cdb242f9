"""A site's receipt of a round: what it agreed to, kept at the site, to be held against the aggregator's transcript.

Made by a client when it agrees to a survivor set (R3). It holds no secret: digests of signed messages and names. An
aggregator that shows an auditor another history than it showed to the sites fails against the receipts of any of them.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

from privacy.errors import HostileInputError


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
        try:
            return cls(
                site=str(record["site"]),
                session=bytes.fromhex(record["session"]),
                round_number=int(record["round_number"]),
                context=bytes.fromhex(record["context"]),
                model_hash=bytes.fromhex(record["model_hash"]),
                previous=bytes.fromhex(record["previous"]),
                header_digest=bytes.fromhex(record["header_digest"]),
                survivors=tuple(str(name) for name in record["survivors"]),
                survivors_digest=bytes.fromhex(record["survivors_digest"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HostileInputError(f"not a receipt of a round: {error}") from error
