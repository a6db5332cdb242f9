"""What an auditor checks of one encrypted round's announcement and signed messages, or of the end's.

Everything here follows from the messages alone: who was invited, who uploaded what, on one model or not, and by which
sum they say that they came to it. Every problem is noted, not only the first. Ciphertexts are checked in
`privacy.he.replay`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from privacy.errors import HostileInputError
from privacy.he.group_check import GroupFacts
from privacy.he.layout import Envelope
from privacy.he.messages import EncryptedInput, FinalModel
from privacy.he.requests import EncryptedAnnouncement, Step
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, digest_of_set
from privacy.secagg.findings import Findings
from privacy.secagg.session_check import admit_all
from privacy.secagg.threshold import default_threshold


@dataclass(frozen=True, kw_only=True)
class SumFacts:
    """A published sum as later messages name it; `number` is that of its entry."""

    number: int
    announced: EncryptedAnnouncement
    root: bytes
    inputs_digest: bytes
    contributors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EncryptedFacts:
    """What the signed messages of an announcement establish: the E1 of a round, or the E2 of an end, by sender.

    `before` is the sum that was announced to step on, None where there is none or it is not at hand.
    """

    announced: EncryptedAnnouncement
    before: SumFacts | None
    signed: Mapping[str, Admitted[EncryptedInput]] | Mapping[str, Admitted[FinalModel]]

    @property
    def inputs_digest(self) -> bytes:
        """What E1 and E2 name that stepped on this round's sum."""
        digests = {name: found.digest for name, found in self.signed.items()}
        return digest_of_set("E1", context=self.announced.context, digests=digests)


def check_announcement(
    data: bytes, group: GroupFacts, notes: Findings, *, previous: bytes, server_round: int, step: Step | None
) -> EncryptedAnnouncement | None:
    """Check E0; `previous` is the digest of the entry before, `step` None where either is in place.

    None where it cannot be read, so that nothing of the round can be checked.
    """
    try:
        announced = EncryptedAnnouncement.from_bytes(data)
    except HostileInputError as error:
        notes.fail(f"the round cannot be checked: {error}")
        return None
    size, minimum = len(announced.invited), announced.minimum
    with notes.claim(
        "the announcement belongs to its session, group key and parameters, and to more than half a cohort"
    ):
        if announced.run != group.run or announced.session != group.session:
            notes.fail("the round was announced for another run or another session")
        notes.require(announced.roster_hash == group.setup.roster.digest, "the round was announced for another roster")
        notes.require(announced.parameters == group.parameters.digest, "the round names other parameters of encryption")
        notes.require(announced.fingerprint == group.fingerprint, "the round names another group key")
        if announced.server_round != server_round or step not in (None, announced.step):
            notes.fail(
                f"the announcement is about the step {announced.step!r} of server round {announced.server_round}, "
                f"the entry about server round {server_round}"
            )
        strangers = sorted(set(announced.invited) - set(group.ready))
        notes.require(not strangers, f"{strangers} are invited but did not confirm the group key")
        if size > group.parameters.max_clients:
            notes.fail(f"{size} sites are invited, the parameters allow for {group.parameters.max_clients}")
        if 2 * minimum <= size:
            notes.fail(f"minimum = {minimum} of {size} sites: two groups could step on different sums")
    if size < 2 * minimum < 2 * default_threshold(size):
        notes.add("unchecked", f"minimum = {minimum} of {size} sites is below the default {default_threshold(size)}")
    with notes.claim("the sites were announced the record of everything before this round"):
        notes.require(announced.previous == previous, "the announcement names another entry as the one before")
    return announced


def check_inputs(
    messages: tuple[bytes, ...],
    announced: EncryptedAnnouncement,
    group: GroupFacts,
    notes: Findings,
    *,
    before: SumFacts | None,
) -> dict[str, Admitted[EncryptedInput]]:
    """E1 of all contributors, by sender; `before` is the sum that they stepped on, None where it is not at hand."""
    size = 0
    if announced.step == "round":
        size = Envelope(
            parameters=group.parameters, fingerprint=group.fingerprint, length=announced.vector_length
        ).message_bytes

    def check(found: Admitted[EncryptedInput]) -> None:
        _require_step(found, announced, before)
        if found.body.length != size:
            raise HostileInputError(
                f"signed a ciphertext of {found.body.length} bytes, announced were {size}", party=found.sender
            )

    with notes.claim("every input is signed for this round, by an invited site that stepped on the announced sum"):
        admitted = admit_all(
            messages, EncryptedInput, notes, context=announced.context, roster=group.setup.roster, check=check
        )
        roots: dict[bytes, str] = {}
        for name, found in admitted.items():
            if found.body.root in roots:
                notes.fail(f"{roots[found.body.root]} and {name} signed one and the same ciphertext")
            roots.setdefault(found.body.root, name)
    _check_one_model(admitted, notes)
    return admitted


def check_endings(
    messages: tuple[bytes, ...],
    announced: EncryptedAnnouncement,
    group: GroupFacts,
    notes: Findings,
    *,
    before: SumFacts | None,
) -> dict[str, Admitted[FinalModel]]:
    """E2 of all sites that ended the run, by sender."""
    with notes.claim("every ending is signed for this end, by an invited site that stepped on the last sum"):
        admitted = admit_all(
            messages,
            FinalModel,
            notes,
            context=announced.context,
            roster=group.setup.roster,
            check=lambda found: _require_step(found, announced, before),
        )
    _check_one_model(admitted, notes)
    return admitted


def _require_step(
    found: Admitted[EncryptedInput] | Admitted[FinalModel],
    announced: EncryptedAnnouncement,
    before: SumFacts | None,
) -> None:
    if found.sender not in announced.invited:
        raise HostileInputError("was not invited", party=found.sender)
    if found.body.sum_root != announced.sum_root:
        raise HostileInputError("stepped on another sum than was announced", party=found.sender)
    expected = NO_PREVIOUS if announced.server_round == 1 else before.inputs_digest if before is not None else None
    if expected is not None and found.previous != expected:
        raise HostileInputError("came to its model by other inputs than those of the sum before", party=found.sender)


def _check_one_model(
    admitted: Mapping[str, Admitted[EncryptedInput]] | Mapping[str, Admitted[FinalModel]], notes: Findings
) -> None:
    histories: dict[tuple[bytes, bytes], list[str]] = {}
    for name, found in admitted.items():
        histories.setdefault((found.body.model_tag, found.previous), []).append(name)
    if len(histories) > 1:
        notes.fail(f"{' and '.join(map(str, histories.values()))} signed different models")
    elif histories:
        notes.add("proved", "all contributors signed that they stand on one and the same model")
