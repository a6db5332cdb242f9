"""The encrypted sums that the aggregator keeps for the sites, against the roots that the transcript holds.

Run by the auditor, who reads them block by block and cannot open them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from privacy.merkle import LEAF_BYTES, leaf_digests, merkle_root
from privacy.secagg.findings import Findings
from secfed.aggregator_files import CHECKPOINTS

KEPT_SUM = "the newest encrypted sum that the aggregator keeps is the one that the last round published"


class SumFiles:
    """`checkpoints/sum-000012.bin` of an aggregator's folder; 12 is the server round that made it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CHECKPOINTS
        self._roots: dict[int, list[bytes]] = {}

    def note(self, server_round: int, root: bytes) -> None:
        """A published sum; a round that was run again has more than one."""
        self._roots.setdefault(server_round, []).append(root)

    def check(self) -> Findings:
        """Compare every file that is there, and the newest with the last round."""
        notes = Findings(CHECKPOINTS)
        files = {path.stem.removeprefix("sum-"): path for path in sorted(self._folder.glob("sum-*.bin"))}
        found = {int(number): path for number, path in files.items() if number.isdecimal() and len(number) < 10}
        last = max(self._roots, default=0)
        for number, path in found.items():
            notes.where = f"{CHECKPOINTS}/{path.name}"
            self._compare(number, path, notes, newest=number == last)
        if last and last not in found:
            notes.add("unchecked", f"there is no encrypted sum of round {last} to compare with", where=CHECKPOINTS)
        return notes

    def _compare(self, number: int, path: Path, notes: Findings, *, newest: bool) -> None:
        roots, root = self._roots.get(number, []), _root(path)
        if not roots:
            notes.fail("is of no round of the transcript")
        elif root not in roots:
            notes.fail("is not the sum that the transcript says")
        elif root != roots[-1]:
            notes.add("unchecked", f"is the first sum of round {number}, which was run again: the run was stopped")
        elif newest:
            notes.add("proved", KEPT_SUM)


def _root(path: Path) -> bytes:
    """The hash-tree root of a file; empty where it cannot be read, or has no root."""
    leaves: list[bytes] = []
    try:
        for block in _blocks(path):
            leaves += leaf_digests(np.frombuffer(block, "<u4").astype(np.uint32, copy=False))
    except (OSError, ValueError):
        return b""
    return merkle_root(leaves) if leaves else b""


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(LEAF_BYTES):
            yield block
