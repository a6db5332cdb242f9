"""Which sites a run goes on without, why, and who must do what: for whoever follows it at the aggregator.

Reads the run's journal and audit log. A reason is one of a few public words, of the site or of Flower; what lies behind
it only the site knows, and its own log says it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secfed.aggregator_files import JOURNAL
from secfed.audit_log import AUDIT_LOG

_AT_THE_SITE = "its books/site.log says why"
WHAT_TO_DO: Mapping[str, str] = {
    "silent": "no answer in time: its machine, its network or its services; at the site: secfed provision check",
    "unreachable": "not connected; at the site: secfed provision check --connect",
    "error 3": "the SuperLink no longer holds the message; the next round asks again",
    "error 4": "the SuperLink does not hold the answer; the next round asks again",
    "error 5": "not connected any more; at the site: secfed provision check --connect",
    "error 7": "its reviewer has not approved this release; at the site: secfed site approve",
    "error 8": "its process was ended: a kill, too little memory, or too slow; its node/logs/worker.log says more",
    "refused: policy": "its own policy does not allow this plan; at the site: secfed preflight. It is not asked again",
    "refused: roster": "its roster has ended or is of another version; whoever has the older one: "
    "secfed provision accept",
    "refused: budget": "its patients' privacy budget is spent or its ledger unusable; at the site: secfed site ledger",
    "refused: data": f"its scans cannot be used; {_AT_THE_SITE}",
    "refused: storage": "it could not write to its disk; its IT must make room",
    "refused: range": f"its update does not fit the agreed numbers; {_AT_THE_SITE}",
    "refused: opened": "a sum over the same model was opened before, for other sites, and the difference would single "
    "some out: another seed or another starting model is needed",
    "refused: protocol": f"it was shown a message that does not fit; {_AT_THE_SITE}",
    "refused: internal": f"something is wrong inside; {_AT_THE_SITE}",
    "refused: stale": "it missed an earlier sum and catches up",
    "refused: sum": f"the sum that it was shown is not that of its contributors; {_AT_THE_SITE}",
    "answer to another stage": "a late answer; it does not count",
}


def what_to_do(reason: str) -> str:
    """Who must do what about a reason; empty where the reason says it all."""
    return next((todo for word, todo in WHAT_TO_DO.items() if reason.startswith(word)), "")


class Absences:
    """What has come up in a run since it was last asked; the same absence is told once, until it changes."""

    def __init__(self, place: Path) -> None:
        self._journal = _Lines(place / JOURNAL)
        self._audit = _Lines(place / AUDIT_LOG)
        self._told: dict[str, str] = {}

    def news(self) -> Iterator[str]:
        """Lines for people."""
        for entry in self._audit.new():
            if entry.get("event") == "round failed":
                yield f"Round {entry.get('round')} failed and is tried again: {entry.get('reason')}"
                yield from _hints(str(entry.get("reason")))
        for entry in self._journal.new():
            if entry.get("event") != "round":
                continue
            lost = {str(site): str(reason) for site, reason in dict(entry.get("lost", {})).items()}
            for site, reason in sorted(lost.items()):
                if self._told.get(site) != reason:
                    yield f"Round {entry['round']}, {site}: {with_hint(reason)}"
            back = [site for site in self._told if site in entry.get("survivors", ()) and site not in lost]
            if back:
                yield f"Round {entry['round']}: {', '.join(sorted(back))} took part again"
            self._told = {site: reason for site, reason in {**self._told, **lost}.items() if site not in back}


def with_hint(reason: str) -> str:
    """The reason, and who must do what."""
    todo = what_to_do(reason)
    return f"{reason}: {todo}" if todo else reason


def _hints(text: str) -> Iterator[str]:
    """What to do about every reason within a longer text, each once."""
    for word, todo in WHAT_TO_DO.items():
        if f": {word}" in text:
            yield f"  {word}: {todo}"


class _Lines:
    """A file of JSON lines that grows, and may be made shorter when a run goes on from its last round."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._size()

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole lines that were added since."""
        size = self._size()
        self._read = min(self._read, size)
        if size == self._read:
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return
        self._read += len(whole) + 1
        for line in whole.split(b"\n"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0
