"""What an auditor checks of the chain itself, whatever its entries say: links, head, and which vectors must be there.

Run by auditors. Links and head show that nothing was changed or taken out between the first entry and the last. Whether
this is the chain that the sites saw is for their signatures and receipts.
"""

from collections.abc import Sequence

from privacy.chain import ChainFormat, ContentT, Entry, Retention, entry_name
from privacy.errors import HostileInputError
from privacy.secagg.findings import Findings

LINKED = "the entry is undamaged and follows the one before it"


def check_link(entry: Entry[ContentT], notes: Findings, *, number: int, last: bytes | None) -> None:
    """Whether the entry stands in its place; `last` is the digest of the one before, None where that is unknown."""
    with notes.claim(LINKED):
        notes.require(entry.number == number, f"the entry says that it is number {entry.number}")
        if last is not None:
            notes.require(entry.previous == last, "the entry does not follow the one before it")


def check_head(head: bytes, chain: ChainFormat[ContentT], notes: Findings, *, count: int, last: bytes | None) -> None:
    """Whether the head names as many entries as were read, and the last of them."""
    try:
        named, named_last = chain.decode_head(head)
    except HostileInputError as error:
        notes.fail(str(error) if head else "the head is missing")
        return
    if named == count - 1:
        notes.add("unchecked", f"names {named} entries of {count}: the aggregator stopped before writing it")
    elif named != count:
        notes.fail(f"names {named} entries, but {count} are here")
    elif last is not None and notes.require(named_last == last, "names another last entry"):
        notes.add("proved", "the last entry is the one that the head names")


def check_retention(
    rounds: Sequence[tuple[int, bool]], settings: Sequence[tuple[int, Retention]], notes: Findings
) -> None:
    """Whether every round has its vectors that should; a round may lack them where any setting since let them go.

    `rounds` holds the entry's number and whether vectors are there, `settings` how many rounds were completed before a
    session and what it keeps; both in order.
    """
    done = len(rounds)
    for age, (number, kept) in enumerate(reversed(rounds)):
        order = done - 1 - age
        allowed = False
        ends = [*(start for start, _ in settings[1:]), done]
        for (_, setting), until in zip(settings, ends, strict=False):
            # At the end of this session the round was so many rounds old; before its own session there was none.
            allowed = allowed or (until > order and not setting.keeps(until - 1 - order))
        where = entry_name(number)
        if not kept and allowed:
            notes.add(
                "unchecked",
                "its vectors are past the retention: checked by signed roots and receipts only",
                where=where,
            )
        elif not kept:
            notes.fail("its vectors are missing, though the retention keeps them", where=where)
        elif settings and not settings[-1][1].keeps(age):
            notes.add("unchecked", "its vectors are kept longer than the retention says", where=where)
