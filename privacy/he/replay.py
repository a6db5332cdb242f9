"""The sum of one encrypted round, added again from the uploads: what was published must have exactly these bytes.

Run by auditors, who need no key and no encryption library for it: ciphertexts are added modulo public primes. In memory
are one accumulator and one upload at a time.

It shows that the sum is that of the signed ciphertexts. What they hold stays hidden, and whether it decrypts.
"""

from typing import Protocol

from privacy.errors import HostileInputError
from privacy.he.evaluator import CiphertextSum
from privacy.he.group_check import GroupFacts
from privacy.he.layout import message_root
from privacy.he.messages import EncryptedInput
from privacy.he.requests import EncryptedAnnouncement
from privacy.he.transcript import FORMAT, EncryptedRoundEntry
from privacy.secagg.envelope import Admitted
from privacy.secagg.findings import Findings

REPLAYED = "the published sum is that of exactly the signed ciphertexts, byte for byte"


class CiphertextReader(Protocol):
    """Where uploads come from."""

    def __call__(self, number: int, owner: str, *, limit: int) -> bytes | None:
        """The first `limit` bytes of what a site uploaded in the round of an entry; None where there is no file."""
        ...


def replay_sum(
    number: int,
    entry: EncryptedRoundEntry,
    announced: EncryptedAnnouncement,
    headers: dict[str, Admitted[EncryptedInput]],
    *,
    group: GroupFacts,
    read: CiphertextReader,
    notes: Findings,
) -> bool:
    """Whether the sum was added again, from ciphertexts that are all what their sites signed."""
    running = CiphertextSum.create(
        parameters=group.parameters, fingerprint=group.fingerprint, length=announced.vector_length
    )
    for name, found in headers.items():
        _add(running, number, name, found.body, read=read, notes=notes)
    if running.contributors != tuple(headers) or len(headers) < 2:
        notes.add("unchecked", "its sum cannot be replayed without every upload")
        return False
    if message_root(running.total()) != entry.sum_root:
        notes.fail("the published sum is NOT that of the signed ciphertexts")
    else:
        notes.add("proved", REPLAYED)
    return True


def _add(
    running: CiphertextSum, number: int, name: str, body: EncryptedInput, *, read: CiphertextReader, notes: Findings
) -> None:
    """One upload, which leaves the memory again before the next is read."""
    where = FORMAT.vector_name(number, name)
    data = read(number, name, limit=body.length + 1)
    if data is None or len(data) != body.length:
        notes.fail(f"is missing or has another length than {body.length} bytes", where=where)
        return
    try:
        if message_root(data) != body.root:
            notes.fail(f"is not what {name} signed", where=where)
            return
        running.add(data, contributor=name)
    except HostileInputError as error:
        notes.fail(f"is no encrypted vector of this round: {error.reason}", where=where)
