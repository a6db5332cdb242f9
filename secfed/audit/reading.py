"""What an audit needs of every kind of transcript, whatever its protection.

Run by the auditor. The kinds are told apart by the label of their entries; an entry of another kind than the first is a
damaged one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from privacy.he.receipt import EncryptedReceipt
from privacy.secagg.findings import Finding, Findings
from privacy.secagg.receipt import Receipt

AnyReceipt: TypeAlias = Receipt | EncryptedReceipt


@dataclass(frozen=True, kw_only=True)
class ReadEntry:
    """One entry after its checks, in a few words.

    `session` is set where one begins, `server_round` where a round was completed; `replayed` where its sum was
    computed again.
    """

    number: int
    findings: tuple[Finding, ...]
    session: bytes | None = None
    server_round: int | None = None
    replayed: bool = False
    aborted: bool = False


class Reading(Protocol):
    """One transcript while it is being checked: `add` per entry in order, `finish`, `check_receipts`."""

    @property
    def protection(self) -> str:
        """The plan's word for it."""
        ...

    @property
    def cannot_be_proved(self) -> tuple[str, ...]:
        """What no transcript of this kind shows."""
        ...

    def add(self, data: bytes) -> ReadEntry:
        """Check the next entry."""
        ...

    def finish(self, head: bytes) -> tuple[Finding, ...]:
        """Check the head, and what lies beside the transcript."""
        ...

    def check_receipts(self, receipts: Sequence[AnyReceipt]) -> tuple[Finding, ...]:
        """Hold the sites' receipts against the transcript; those of another protection fail."""
        ...


def fail_foreign(receipts: Iterable[AnyReceipt], own: Sequence[AnyReceipt], notes: Findings) -> None:
    """Receipts of another protection than the transcript's name rounds that are not in it."""
    for receipt in receipts:
        if receipt not in own:
            notes.fail(
                f"{receipt.site} holds a receipt of round {receipt.round_number} under another protection than this "
                "transcript's",
                where=f"receipts of {receipt.site}",
            )
