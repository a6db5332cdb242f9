"""What an auditor checks of a session: the roster's signature, and every setup message.

Needs no key but the consortium's public one. It does not show that pair keys are known to the two sites alone: only
they can check the confirmation tags of S2, and by dealing shares to each other they say that they did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, Body, open_envelope
from privacy.secagg.findings import Findings
from privacy.secagg.messages import KeyAdvertisement, KeyConfirmation, KeyEncapsulation, session_context
from privacy.secagg.roster import Roster, parse_unverified_roster, verify_roster
from privacy.streams import SUITE

BodyT = TypeVar("BodyT", bound=Body)


class SetUpSession(Protocol):
    """What the session entries of every protection have: the signed roster, and S0 to S2."""

    @property
    def suite(self) -> str:
        """The version of the protocol."""
        ...

    @property
    def session(self) -> bytes:
        """The session's identifier."""
        ...

    @property
    def roster(self) -> bytes:
        """The roster as the consortium signed it."""
        ...

    @property
    def advertisements(self) -> tuple[bytes, ...]:
        """S0, in the order of names."""
        ...

    @property
    def encapsulations(self) -> tuple[bytes, ...]:
        """S1, in the order of names."""
        ...

    @property
    def confirmations(self) -> tuple[bytes, ...]:
        """S2, in the order of names."""
        ...


@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """A session as its rounds need it; `setup_digests` holds the digest of S2 of every site that is ready."""

    session: bytes
    roster: Roster
    setup_digests: Mapping[str, bytes]


def check_session(entry: SetUpSession, notes: Findings, *, anchor: bytes | None) -> SessionFacts | None:
    """Check a session's entry; None where its roster cannot be read, so that nothing of it can be checked."""
    notes.require(entry.suite == SUITE, f"the session uses the suite {entry.suite!r}, this verifier knows {SUITE!r}")
    try:
        roster = _read_roster(entry.roster, notes, anchor=anchor)
        context = session_context(entry.session, roster)
    except (HostileInputError, MisuseError) as error:
        notes.fail(f"the session cannot be checked: {error}")
        return None
    digests: dict[str, bytes] = {}
    with notes.claim("every setup message is signed by its site and follows that site's message before"):
        first = _step(entry.advertisements, KeyAdvertisement, notes, context=context, roster=roster, before=None)
        second = _step(entry.encapsulations, KeyEncapsulation, notes, context=context, roster=roster, before=first)
        third = _step(entry.confirmations, KeyConfirmation, notes, context=context, roster=roster, before=second)
        for name, ciphertexts in ((name, found.body.ciphertexts) for name, found in second.items()):
            strangers = sorted(peer for peer in ciphertexts if peer not in first or peer <= name)
            notes.require(not strangers, f"S1 of {name} has ciphertexts for {strangers}, who do not come after it")
        for name, tags in ((name, found.body.tags) for name, found in third.items()):
            strangers = sorted(set(tags) - set(first))
            notes.require(not strangers, f"S2 of {name} confirms keys with {strangers}, who advertised none")
        digests = {name: found.digest for name, found in third.items()}
    return SessionFacts(session=entry.session, roster=roster, setup_digests=digests)


def admit_all(
    messages: Sequence[bytes],
    body_type: type[BodyT],
    notes: Findings,
    *,
    context: bytes,
    roster: Roster,
    check: Callable[[Admitted[BodyT]], None],
) -> dict[str, Admitted[BodyT]]:
    """The messages of one step that verify, by sender; every one that does not is a failure of its own."""
    admitted: dict[str, Admitted[BodyT]] = {}
    for data in messages:
        try:
            found = open_envelope(data, body_type, context=context, roster=roster)
            check(found)
        except HostileInputError as error:
            notes.fail(f"{body_type.KIND}: {error}")
            continue
        if found.sender in admitted:
            notes.fail(f"{body_type.KIND}: {found.sender} stands twice")
        admitted[found.sender] = found
    if list(admitted) != sorted(admitted):
        notes.fail(f"{body_type.KIND}: the messages are not in the order of names")
    return admitted


def _step(
    messages: Sequence[bytes],
    body_type: type[BodyT],
    notes: Findings,
    *,
    context: bytes,
    roster: Roster,
    before: Mapping[str, Admitted[KeyAdvertisement]] | Mapping[str, Admitted[KeyEncapsulation]] | None,
) -> dict[str, Admitted[BodyT]]:
    def check(found: Admitted[BodyT]) -> None:
        earlier = None if before is None else before.get(found.sender)
        expected = NO_PREVIOUS if before is None else None if earlier is None else earlier.digest
        if found.previous != expected:
            raise HostileInputError("does not follow its sender's message of the step before", party=found.sender)

    return admit_all(messages, body_type, notes, context=context, roster=roster, check=check)


def _read_roster(data: bytes, notes: Findings, *, anchor: bytes | None) -> Roster:
    if anchor is None:
        notes.add("unchecked", "the roster's signature: no consortium key was given to check it with")
        return parse_unverified_roster(data)
    try:
        # Whether it had expired when the session began depends on a clock that nobody signed.
        roster = verify_roster(data, anchor=anchor, now=0)
    except HostileInputError as error:
        notes.fail(str(error))
        return parse_unverified_roster(data)
    notes.add("proved", "the roster is signed by the consortium's key")
    return roster
