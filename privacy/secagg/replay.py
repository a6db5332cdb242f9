"""The sum of one round, computed again from the masked uploads: what was published must equal it bit for bit.

Run by auditors. Vectors come in blocks of one Merkle leaf, so that one accumulator is all that is held in memory. A
difference is named by its block of coordinates, and by its first coordinate where both values are at hand.

It shows that the sum is that of the signed uploads. What the uploads hold stays hidden.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from privacy.merkle import LEAF_BYTES, differing_leaves, leaf_digests, merkle_root
from privacy.secagg.findings import Findings
from privacy.secagg.masks import remove_masks
from privacy.secagg.round_check import RoundFacts
from privacy.secagg.transcript import SUM, RoundEntry, vector_name
from privacy.streams import Words

VectorReader: TypeAlias = Callable[[int, str], Iterable[bytes] | None]
"""The blocks of the vector of an entry and an owner, each of `LEAF_BYTES` but the last; None where there is no file."""

REPLAYED = "the published sum is that of the signed uploads without their masks, bit for bit"

_BLOCK_WORDS = LEAF_BYTES // 4


def replay_sum(
    number: int, entry: RoundEntry, facts: RoundFacts, vectors: VectorReader, notes: Findings
) -> Words | None:
    """The sum, shape (vector_length,), where every upload is at hand and is what its site signed; else None."""
    length = facts.announced.vector_length
    if facts.opened is None:
        notes.add("unchecked", "its sum cannot be replayed, because its messages do not verify")
        return None
    total = np.zeros(length, np.uint32)
    whole = True
    for name in facts.survivors:
        expected = entry.upload_leaves.get(name, ())
        found = _leaves(vectors(number, name), _adder(total), length)
        where = vector_name(number, name)
        if found is None:
            notes.fail(f"is missing or has another length than {4 * length} bytes", where=where)
        elif merkle_root(found) != facts.headers[name].body.root:
            notes.fail(f"is not what {name} signed{_blocks(expected, found, length)}", where=where)
        elif expected and expected != found:
            notes.fail(f"the leaves of {name}'s upload do not fit the root that it signed")
        else:
            continue
        whole = False
    if whole:
        opened = facts.opened
        remove_masks(
            total,
            self_seeds=list(opened.self_seeds.values()),
            pair_secrets=opened.pair_secrets,
            context=facts.announced.context,
        )
    else:
        notes.add("unchecked", "its sum cannot be replayed without every upload")
    _check_published(number, entry, total if whole else None, vectors, notes, length=length)
    return total if whole else None


def check_sum_root(entry: RoundEntry, notes: Findings, *, length: int) -> None:
    """Whether root and leaves of the published sum fit each other and the announced length."""
    count = -(-length // _BLOCK_WORDS)
    if merkle_root(entry.sum_leaves) != entry.sum_root or len(entry.sum_leaves) != count:
        notes.fail(f"the leaves of the published sum do not fit its root or its {length} words")


def _check_published(
    number: int, entry: RoundEntry, total: Words | None, vectors: VectorReader, notes: Findings, *, length: int
) -> None:
    where = vector_name(number, SUM)
    published = _Compared(total)
    found = _leaves(vectors(number, SUM), published.take, length)
    if found is None:
        notes.fail(f"is missing or has another length than {4 * length} bytes", where=where)
    elif found != entry.sum_leaves:
        notes.fail(f"is not the sum whose root the entry holds{_blocks(entry.sum_leaves, found, length)}", where=where)
    if total is None:
        return
    replayed = leaf_digests(total)
    if replayed != entry.sum_leaves:
        values = published.difference if found == entry.sum_leaves else ""
        notes.fail(
            f"the published sum is NOT that of the signed uploads{_blocks(replayed, entry.sum_leaves, length)}{values}"
        )
    elif found == entry.sum_leaves:
        notes.add("proved", REPLAYED)


class _Compared:
    """A published sum, block by block against the replayed one."""

    def __init__(self, total: Words | None) -> None:
        self._total = total
        self.difference = ""

    def take(self, position: int, words: Words) -> None:
        if self._total is None:
            return
        expected = self._total[position : position + words.size]
        wrong = np.flatnonzero(expected != words)
        if wrong.size and not self.difference:
            first = int(wrong[0])
            self.difference = (
                f"; first at coordinate {position + first}: published {int(words[first])}, replayed "
                f"{int(expected[first])}"
            )


def _adder(total: Words) -> Callable[[int, Words], None]:
    def add(position: int, words: Words) -> None:
        target = total[position : position + words.size]
        np.add(target, words, out=target)

    return add


def _leaves(
    blocks: Iterable[bytes] | None, take: Callable[[int, Words], None], length: int
) -> tuple[bytes, ...] | None:
    """Hand a vector on block by block; its leaves, or None where it is absent or has not `length` words."""
    if blocks is None:
        return None
    leaves: list[bytes] = []
    position = 0
    for block in blocks:
        words = np.frombuffer(block[: len(block) // 4 * 4], "<u4").astype(np.uint32, copy=False)
        if len(block) % 4 or words.size == 0 or position + words.size > length:
            return None
        take(position, words)
        leaves += leaf_digests(words)
        position += words.size
    return tuple(leaves) if position == length else None


def _blocks(expected: Sequence[bytes], found: Sequence[bytes], length: int) -> str:
    """Which coordinates the differing leaves cover; empty where leaves are not at hand."""
    different = differing_leaves(expected, found)
    if not expected or not different:
        return ""
    ranges = [f"{index * _BLOCK_WORDS} to {min((index + 1) * _BLOCK_WORDS, length) - 1}" for index in different[:3]]
    more = f" and {len(different) - 3} more blocks" if len(different) > 3 else ""
    return f": it differs within the coordinates {', '.join(ranges)}{more}"
