"""What an auditor checks of a budget ledger, with nothing but its files and, if it was written down, an earlier head.

Run by a site's owner and by auditors; it writes nothing. It shows that no entry was changed, taken out or put in since,
and that no charge passed the cap that was in force. It cannot show that what ran is what was charged, nor, without an
earlier head from somewhere else, that this is the newest copy.
"""

from pathlib import Path

from privacy.errors import PrivacyError
from privacy.ledger import Head, read_entries
from privacy.ledger_account import Account
from privacy.ledger_entries import NO_ENTRY, Cap, Carried, Charge, Entry, Opened
from privacy.secagg.findings import Finding, Findings


def verify(path: Path, *, pinned: Head | None = None) -> list[Finding]:
    """All findings, failures among them, never an exception for what the files hold."""
    notes = Findings(path.name)
    try:
        entries, missing = read_entries(path)
    except (PrivacyError, OSError) as error:
        notes.fail(str(error))
        return notes.found
    if not notes.require(bool(entries), "there is no ledger"):
        return notes.found
    if missing:
        notes.add(
            "unchecked", "the last line was cut short while it was written: it counts, and is completed on opening"
        )
    with notes.claim("every entry is undamaged, in its place and allowed there"):
        Account(entries)
    if notes.failures:
        return notes.found
    with notes.claim("no charge passed the cap in force"):
        _check_caps(entries, notes)
    _tell_of_raises(entries, notes)
    _check_pin(entries, pinned, notes)
    return notes.found


def _check_caps(entries: list[Entry], notes: Findings) -> None:
    """Charges only add up, so the last one under each cap is the dearest."""
    account, pending = Account(), False

    def settle() -> None:
        if pending:
            found = account.spend()
            where = f"entry {account.count - 1}"
            if found is None or not found.epsilon <= account.cap_epsilon:
                spent = "everything" if found is None else f"epsilon {found.epsilon:.4g}"
                notes.fail(f"{spent} was spent under a cap of {account.cap_epsilon:g}", where=where)

    for entry in entries:
        # What is carried over from another ledger may pass this one's cap; a charge after it may not.
        if pending and isinstance(entry.content, Cap | Carried):
            settle()
            pending = False
        account.add(entry)
        pending = pending or isinstance(entry.content, Charge)
    settle()


def _tell_of_raises(entries: list[Entry], notes: Findings) -> None:
    cap = 0.0
    for entry in entries:
        if isinstance(entry.content, Opened | Cap):
            if isinstance(entry.content, Cap) and entry.content.cap_epsilon > cap:
                by, reason = entry.content.signed_off_by, entry.content.reason
                notes.add(
                    "unchecked",
                    f"the cap was raised from {cap:g} to {entry.content.cap_epsilon:g} by {by}: {reason}",
                    where=f"entry {entry.number}",
                )
            cap = entry.content.cap_epsilon


def _check_pin(entries: list[Entry], pinned: Head | None, notes: Findings) -> None:
    if pinned is None:
        notes.add(
            "unchecked", "whether this is the newest copy: hold it against a head that was written down elsewhere"
        )
    elif pinned.count > len(entries):
        notes.fail(f"{pinned.count} entries were there before, and {len(entries)} are here: this is an older copy")
    elif (entries[pinned.count - 1].digest if pinned.count else NO_ENTRY) != pinned.digest:
        notes.fail(f"entry {pinned.count - 1} is not the one that was written down before")
    else:
        notes.add("proved", f"the ledger goes on from the {pinned.count} entries that were written down before")
