"""What a verifier found: one record per claim, with where it was looked at.

Collected by whoever checks a transcript. A claim that holds says the same in every round, so that a reader can be told
once, with the rounds that it holds for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from privacy.errors import PrivacyError

Status: TypeAlias = Literal["proved", "failed", "unchecked"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`where` names the file within the transcript, or whose receipts; `what` is a sentence without a full stop."""

    status: Status
    where: str
    what: str


class Findings:
    """The findings at one place, in order."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[Finding] = []

    @property
    def failures(self) -> int:
        """How many claims failed so far."""
        return sum(finding.status == "failed" for finding in self.found)

    def add(self, status: Status, what: str, *, where: str = "") -> None:
        """Note a claim; texts from a transcript may hold anything, so only printable characters pass."""
        self.found.append(Finding(status=status, where=_printable(where or self.where), what=_printable(what)))

    def fail(self, what: str, *, where: str = "") -> None:
        """Note a claim that does not hold."""
        self.add("failed", what, where=where)

    def require(self, holds: bool, what: str) -> bool:
        """Note a failure unless `holds`; returns `holds`."""
        if not holds:
            self.fail(what)
        return holds

    @contextmanager
    def claim(self, what: str) -> Iterator[None]:
        """Note `what` as proved if nothing fails inside; whatever the mechanisms refuse there is a failure."""
        before = self.failures
        try:
            yield
        except PrivacyError as error:
            self.fail(str(error))
        if self.failures == before:
            self.add("proved", what)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
