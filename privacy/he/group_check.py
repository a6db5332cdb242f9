"""What an auditor checks of an encrypted session: its parameters, and that all its sites confirmed one group key.

Needs no key but the consortium's public one. It does not show that nobody else holds the group key, nor that no site
works with the aggregator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from privacy.errors import HostileInputError
from privacy.he.messages import GroupKeyConfirmation, GroupKeyOffer, setup_context
from privacy.he.parameters import HeParameters
from privacy.he.transcript import EncryptedSessionEntry
from privacy.secagg.envelope import Admitted, digest_of_set
from privacy.secagg.findings import Findings
from privacy.secagg.messages import session_context
from privacy.secagg.session_check import SessionFacts, admit_all, check_session

# The floors of an auditor: as weak as the table for 128 bits allows at this ring, and exact up to the last additions.
_FLOORS = (
    replace(HeParameters.exact(max_clients=2**11), max_clients=2),
    HeParameters.approximate(max_clients=2),
)


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """An encrypted session as its rounds need it; `ready` are the sites that confirmed the key `fingerprint`."""

    setup: SessionFacts
    run: bytes
    parameters: HeParameters
    fingerprint: bytes
    ready: tuple[str, ...]

    @property
    def session(self) -> bytes:
        """The session's identifier."""
        return self.setup.session


def check_group(entry: EncryptedSessionEntry, notes: Findings, *, anchor: bytes | None) -> GroupFacts | None:
    """Check a session's entry; None where roster, parameters or key cannot be read, so that no round can be checked."""
    setup = check_session(entry, notes, anchor=anchor)
    parameters = _check_parameters(entry.parameters, notes)
    if setup is None or parameters is None:
        return None
    context = setup_context(entry.run, session_context=session_context(setup.session, setup.roster))
    fingerprint, ready = b"", tuple[str, ...]()
    with notes.claim("every message on the group key is signed, and enough sites confirmed one and the same key"):
        offers = _check_offers(entry, setup, parameters, notes, context=context)
        fingerprint, ready = _check_confirmations(entry, setup, offers, notes, context=context)
    if not fingerprint:
        return None
    return GroupFacts(setup=setup, run=entry.run, parameters=parameters, fingerprint=fingerprint, ready=ready)


def _check_parameters(data: bytes, notes: Findings) -> HeParameters | None:
    problems = []
    for floor in _FLOORS:
        try:
            found = HeParameters.from_bytes(data, floor=floor)
        except HostileInputError as error:
            problems.append(str(error))
            continue
        # Digests name these bytes, and there is one encoding of every parameters.
        kind = "exact" if found.scheme == "BFV" else "rounded"
        notes.add("proved", f"the parameters have 128 bits of security by the table, and their sums are {kind}")
        return found
    notes.fail(f"the session cannot be checked: {problems[0]}")
    return None


def _check_offers(
    entry: EncryptedSessionEntry, setup: SessionFacts, parameters: HeParameters, notes: Findings, *, context: bytes
) -> Mapping[str, Admitted[GroupKeyOffer]]:
    def check(found: Admitted[GroupKeyOffer]) -> None:
        if found.previous != setup.setup_digests.get(found.sender):
            raise HostileInputError("does not follow its sender's key confirmation", party=found.sender)
        if found.body.parameters != parameters.digest:
            raise HostileInputError("names other parameters of encryption than the session", party=found.sender)

    return admit_all(entry.offers, GroupKeyOffer, notes, context=context, roster=setup.roster, check=check)


def _check_confirmations(
    entry: EncryptedSessionEntry,
    setup: SessionFacts,
    offers: Mapping[str, Admitted[GroupKeyOffer]],
    notes: Findings,
    *,
    context: bytes,
) -> tuple[bytes, tuple[str, ...]]:
    """The key that all confirmed, and who they are; an empty key where there is not one."""
    digest = digest_of_set("G0", context=context, digests={name: found.digest for name, found in offers.items()})

    def check(found: Admitted[GroupKeyConfirmation]) -> None:
        if found.sender not in offers or found.previous != digest:
            raise HostileInputError("does not follow the offers in the transcript", party=found.sender)

    admitted = admit_all(
        entry.key_confirmations, GroupKeyConfirmation, notes, context=context, roster=setup.roster, check=check
    )
    keys = sorted({found.body.fingerprint for found in admitted.values()})
    if len(keys) != 1:
        notes.fail(f"{len(keys)} group keys were confirmed by {list(admitted)}; a session has one")
        return b"", ()
    bodies = {name: found.body for name, found in offers.items()}
    holders = sorted(name for name, body in bodies.items() if body.claim == "holds")
    claim = "holds" if holders else "candidate"
    if keys[0] not in {body.fingerprint for body in bodies.values() if body.claim == claim}:
        notes.fail(f"the sites confirmed a group key that none of {holders or list(bodies)} offered")
    standing = {name: body.completed for name, body in bodies.items() if body.completed}
    if not holders and standing:
        notes.fail(f"a new group key was made although {sorted(standing)} had completed rounds under another")
    if 2 * len(admitted) <= len(setup.setup_digests):
        notes.fail(
            f"{len(admitted)} of {len(setup.setup_digests)} sites confirmed the group key: "
            "two groups of half the sites could hold a key each"
        )
    return keys[0], tuple(admitted)
