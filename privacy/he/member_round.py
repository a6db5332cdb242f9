"""A site's steps of one encrypted round. Each takes a state and returns the next one.

Run by a site, through `privacy.he.member`, which checks the order. What is announced is checked against the site's
floors, its key and its own history before anything is decrypted; a site steps on a sum only where enough sites signed
their part of it and all of them stood on one model, which is the model that this site stands on.

It does not protect a site from what the other sites put into the sum.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.he.errors import StaleMemberError
from privacy.he.key_holder import GroupKey
from privacy.he.layout import message_root
from privacy.he.member_setup import Site
from privacy.he.member_state import MemberState
from privacy.he.messages import EncryptedInput, FinalModel, SnapshotHeader, group_context
from privacy.he.model_state import model_tag, open_snapshot, seal_snapshot
from privacy.he.receipt import EncryptedReceipt
from privacy.he.requests import EncryptedAnnouncement, PreviousRound
from privacy.secagg.envelope import NO_PREVIOUS, Admitted, digest_of_set, open_envelope
from privacy.secagg.sealing import matches
from privacy.streams import Words


@dataclass(frozen=True, kw_only=True)
class CheckedSum:
    """A sum that a site may step on, still encrypted: all that was announced and signed of it is checked."""

    total: bytes = field(repr=False)
    announced: EncryptedAnnouncement
    contributors: tuple[str, ...]

    def decrypt(self, key: GroupKey, *, max_abs: int) -> Words:
        """The exact sum of exactly these contributors' vectors of exactly that round."""
        return key.decrypt_sum(
            self.total,
            length=self.announced.vector_length,
            contributors=self.contributors,
            context=self.announced.context,
            max_abs=max_abs,
        )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What `giver` says of where it stands; `payload` is for the caller to read, and unverified until adopted."""

    giver: str
    completed: int
    payload: bytes = field(repr=False)


def accept(
    state: MemberState, site: Site, announcement: bytes, previous: bytes | None, total: bytes | None
) -> tuple[MemberState, CheckedSum | None]:
    """E0: check it, and the sum before it; None where the site has stepped on that sum already."""
    announced = EncryptedAnnouncement.from_bytes(announcement)
    _check_announcement(state, site, announced, again=_holds(state, announcement))
    before, headers = _check_previous(state, site, announced, previous)
    inputs_digest = NO_PREVIOUS
    if before is not None:
        digests = {name: found.digest for name, found in headers.items()}
        inputs_digest = digest_of_set("E1", context=before.context, digests=digests)
    opened = replace(state, last_round=announced.round_number, announcement=announcement, pending_inputs=inputs_digest)
    _require_history(state)
    behind = announced.server_round - 1 - state.completed
    if behind < 0:
        raise HostileInputError(
            f"server round {announced.server_round} was announced, but this site has completed {state.completed}"
        )
    if behind > 1:
        raise StaleMemberError(
            f"server round {announced.server_round} was announced, but this site has completed {state.completed} only: "
            "it needs a snapshot from a peer"
        )
    if behind == 0:
        if announced.sum_root != state.sum_root or inputs_digest != state.inputs_digest:
            raise HostileInputError(
                f"another sum of server round {state.completed} was announced than the one that this site stepped on"
            )
        return replace(opened, stage="STEPPED"), None
    if before is None:
        raise MisuseError("a site that is one round behind was announced the first round")
    _require_own_model(state, headers)
    if total is None:
        raise HostileInputError("the sum to step on did not come with the announcement")
    if not matches(message_root(total), announced.sum_root):
        raise HostileInputError("the sum is not the one that was announced")
    return replace(opened, stage="ACCEPTED"), CheckedSum(total=total, announced=before, contributors=tuple(headers))


def record_model(state: MemberState, model_hash: bytes) -> MemberState:
    """The site has stepped on the sum and stands on another model."""
    announced = EncryptedAnnouncement.from_bytes(state.announcement)
    return replace(
        state,
        stage="STEPPED",
        completed=announced.server_round - 1,
        model_hash=model_hash,
        sum_root=announced.sum_root,
        inputs_digest=state.pending_inputs,
    )


def encrypt(state: MemberState, site: Site, words: Words) -> tuple[MemberState, bytes, bytes]:
    """E1: the signed header and the ciphertext of this site's vector."""
    announced = _announced(state, step="round")
    if words.dtype != np.uint32 or words.shape != (announced.vector_length,):
        raise MisuseError(
            f"words must be uint32 of shape ({announced.vector_length},), got {words.dtype} of shape {words.shape}"
        )
    ciphertext = site.open_key().encrypt(words, contributor=state.name, context=announced.context)
    body = EncryptedInput(
        root=message_root(ciphertext), length=len(ciphertext), model_tag=tag(state), sum_root=state.sum_root
    )
    header, digest = site.seat.sign(body, context=announced.context, previous=state.inputs_digest)
    following = replace(state, stage="UPLOADED", input_context=announced.context, input_digest=digest)
    return following, header, ciphertext


def withdraw(state: MemberState) -> MemberState:
    """The upload did not arrive in time, and the site goes on without it."""
    return replace(state, stage="READY", input_context=b"", input_digest=b"")


def close(state: MemberState, site: Site) -> tuple[MemberState, bytes]:
    """E2: with which model this site ends the run."""
    announced = _announced(state, step="end")
    message, digest = site.seat.sign(
        FinalModel(model_tag=tag(state), sum_root=state.sum_root),
        context=announced.context,
        previous=state.inputs_digest,
    )
    return replace(state, stage="CLOSED", own_digest=digest), message


def finish(state: MemberState, site: Site, endings: Iterable[bytes]) -> MemberState:
    """The run is over where enough sites end it with one model; the group key is erased."""
    announced = _announced(state, step="end")
    admitted = site.seat.admit(endings, FinalModel, context=announced.context, own_digest=state.own_digest)
    own = admitted[state.name]
    others = sorted(
        name for name, found in admitted.items() if (found.previous, found.body) != (own.previous, own.body)
    )
    if others:
        raise HostileInputError(
            f"{', '.join(others)} end the run with another model than this site",
            party=others[0] if len(others) == 1 else None,
        )
    strangers = sorted(set(admitted) - set(announced.invited))
    if strangers:
        raise HostileInputError("ends the run, but was not invited to", party=strangers[0])
    if len(admitted) < announced.minimum:
        raise TooFewSurvivorsError(
            f"{len(admitted)} sites ended the run with one model, at least {announced.minimum} are needed"
        )
    return replace(state, stage="ENDED", group_key=b"", announcement=b"")


def receipt(state: MemberState) -> EncryptedReceipt:
    """What the site keeps of the round that it uploaded in, or of the end."""
    announced = EncryptedAnnouncement.from_bytes(state.announcement)
    return EncryptedReceipt(
        site=state.name,
        session=announced.session,
        round_number=announced.round_number,
        server_round=announced.server_round,
        context=announced.context,
        message_digest=state.input_digest if announced.step == "round" else state.own_digest,
        sum_root=state.sum_root,
        inputs_digest=state.inputs_digest,
        fingerprint=state.fingerprint,
    )


def give_snapshot(state: MemberState, site: Site, payload: bytes) -> tuple[bytes, bytes]:
    """The signed header and the sealed payload, for any site of the group."""
    _require_history(state)
    header, sealed = seal_snapshot(
        payload,
        group_key=state.group_key,
        run=state.run,
        completed=state.completed,
        tag=tag(state),
        sum_root=state.sum_root,
        entropy=site.entropy,
    )
    context = group_context(state.run, fingerprint=state.fingerprint)
    message, _ = site.seat.sign(header, context=context, previous=state.inputs_digest)
    return message, sealed


def read_snapshot(state: MemberState, site: Site, header: bytes, sealed: bytes) -> Snapshot:
    """A peer's snapshot, opened."""
    found = _admit_snapshot(state, site, header)
    try:
        payload = open_snapshot(found.body, sealed, group_key=state.group_key, run=state.run)
    except HostileInputError as error:
        raise HostileInputError(error.reason, party=found.sender) from error
    return Snapshot(giver=found.sender, completed=found.body.completed, payload=payload)


def adopt_snapshot(state: MemberState, site: Site, header: bytes, model_hash: bytes) -> MemberState:
    """Stand where the giver of the snapshot stands, given the hash of the model that was inside."""
    found = _admit_snapshot(state, site, header)
    body = found.body
    expected = model_tag(state.group_key, run=state.run, completed=body.completed, model_hash=model_hash)
    if not matches(body.model_tag, expected):
        raise HostileInputError("the snapshot holds another model than its header says", party=found.sender)
    return replace(
        state,
        stage="READY",
        completed=body.completed,
        model_hash=model_hash,
        sum_root=body.sum_root,
        inputs_digest=found.previous,
        announcement=b"",
    )


def tag(state: MemberState) -> bytes:
    """The tag of the model that the site stands on."""
    return model_tag(state.group_key, run=state.run, completed=state.completed, model_hash=state.model_hash)


def _check_announcement(state: MemberState, site: Site, announced: EncryptedAnnouncement, *, again: bool) -> None:
    if announced.session != state.session:
        raise HostileInputError("the announcement is for another session")
    _check_group(state, site, announced)
    if announced.round_number <= state.last_round and not again:
        raise HostileInputError(
            f"round {announced.round_number} was announced, but round {state.last_round} is already past: "
            "only later rounds are accepted"
        )
    if state.name not in announced.invited:
        raise HostileInputError(f"the invited sites do not include {state.name!r}")
    present = len(set(announced.invited) & set(state.members))
    if present < announced.minimum:
        raise TooFewSurvivorsError(
            f"{present} invited sites confirmed the group key to this site, at least {announced.minimum} are needed"
        )


def _check_group(state: MemberState, site: Site, announced: EncryptedAnnouncement) -> None:
    """What holds for a round of this run in any of its sessions: run, roster, settings, and the site's floors."""
    floors, size = site.floors, len(announced.invited)
    if announced.run != state.run or announced.roster_hash != site.seat.roster.digest:
        raise HostileInputError("the announcement is for another run or another roster")
    if announced.parameters != site.parameters.digest:
        raise HostileInputError("the announcement names other parameters of encryption than this site agreed to")
    if announced.fingerprint != state.fingerprint:
        raise HostileInputError("the announcement names another group key than this site holds")
    for name in announced.invited:
        site.seat.roster.index(name)
    if size > site.parameters.max_clients:
        raise HostileInputError(f"{size} sites are invited, the parameters allow for {site.parameters.max_clients}")
    lowest = max(floors.min_cohort, floors.threshold_for(size))
    if announced.minimum < lowest:
        raise HostileInputError(
            f"minimum = {announced.minimum} of {size} invited sites, this site accepts {lowest} or more"
        )
    if announced.vector_length > floors.max_vector_length:
        raise HostileInputError(
            f"vector length {announced.vector_length} exceeds this site's limit of {floors.max_vector_length}"
        )


def _check_previous(
    state: MemberState, site: Site, announced: EncryptedAnnouncement, previous: bytes | None
) -> tuple[EncryptedAnnouncement | None, dict[str, Admitted[EncryptedInput]]]:
    """The announcement of the sum before, and its signed headers by contributor in the order of names."""
    if announced.server_round == 1:
        if previous is not None:
            raise HostileInputError("the first round came with a round before it")
        return None, {}
    if previous is None:
        raise HostileInputError("the headers of the sum before did not come with the announcement")
    shown = PreviousRound.from_bytes(previous)
    before = EncryptedAnnouncement.from_bytes(shown.announcement)
    if before.context != announced.previous_round or before.step != "round":
        raise HostileInputError("the round before is not the one that the announcement names")
    if before.server_round != announced.server_round - 1 or before.round_number >= announced.round_number:
        raise HostileInputError(
            f"server round {before.server_round} in round {before.round_number} cannot come before "
            f"server round {announced.server_round} in round {announced.round_number}"
        )
    _check_group(state, site, before)
    headers: dict[str, Admitted[EncryptedInput]] = {}
    for data in shown.headers:
        found = open_envelope(data, EncryptedInput, context=before.context, roster=site.seat.roster)
        if found.sender in headers:
            raise HostileInputError("is shown with two headers of one round", party=found.sender)
        headers[found.sender] = found
    headers = dict(sorted(headers.items()))
    _check_headers(state, announced, before, headers)
    return before, headers


def _check_headers(
    state: MemberState,
    announced: EncryptedAnnouncement,
    before: EncryptedAnnouncement,
    headers: dict[str, Admitted[EncryptedInput]],
) -> None:
    if tuple(headers) != announced.contributors:
        raise HostileInputError(
            f"{list(announced.contributors)} are announced as contributors, headers came of {list(headers)}"
        )
    strangers = sorted(set(headers) - set(before.invited))
    if strangers:
        raise HostileInputError("is in the sum, but was not invited to its round", party=strangers[0])
    if len(headers) < before.minimum:
        raise TooFewSurvivorsError(f"{len(headers)} sites are in the sum, at least {before.minimum} are needed")
    if state.input_context == before.context and (
        state.name not in headers or headers[state.name].digest != state.input_digest
    ):
        raise HostileInputError("this site's own upload was left out of the sum, or changed by whoever relays")
    by_history: dict[tuple[bytes, bytes, bytes], list[str]] = {}
    for name, found in headers.items():
        history = (found.body.model_tag, found.body.sum_root, found.previous)
        by_history.setdefault(history, []).append(name)
    if len(by_history) > 1:
        smallest = min(by_history.values(), key=len)
        groups = " and ".join(str(names) for names in by_history.values())
        raise HostileInputError(
            f"{groups} stand on different models: they were shown, or came to, different sums",
            party=smallest[0] if len(smallest) == 1 else None,
        )
    if next(iter(by_history))[1] != before.sum_root:
        raise HostileInputError(f"{list(headers)} stepped on another sum than their round announced")


def _require_history(state: MemberState) -> None:
    if state.completed and state.sum_root == NO_PREVIOUS:
        raise StaleMemberError(
            f"this site lost its state after {state.completed} rounds and does not know by which sums it came to its "
            "model: it needs a snapshot from a peer"
        )


def _require_own_model(state: MemberState, headers: dict[str, Admitted[EncryptedInput]]) -> None:
    found = next(iter(headers.values()))
    if not matches(found.body.model_tag, tag(state)) or found.previous != state.inputs_digest:
        raise HostileInputError(
            f"{list(headers)} stand on another model than this site after {state.completed} rounds: "
            "compare with the peers, and adopt a snapshot if it is this site that went astray"
        )


def _admit_snapshot(state: MemberState, site: Site, header: bytes) -> Admitted[SnapshotHeader]:
    context = group_context(state.run, fingerprint=state.fingerprint)
    found = open_envelope(header, SnapshotHeader, context=context, roster=site.seat.roster)
    if found.sender == state.name:
        raise HostileInputError("this is this site's own snapshot", party=found.sender)
    if found.body.completed < state.completed:
        raise HostileInputError(
            f"gives a snapshot of round {found.body.completed}, but this site has completed {state.completed}",
            party=found.sender,
        )
    return found


def _holds(state: MemberState, announcement: bytes) -> bool:
    """Whether this very announcement is open here, and nothing was sent on it."""
    return state.stage in ("ACCEPTED", "STEPPED") and state.announcement == announcement


def _announced(state: MemberState, *, step: str) -> EncryptedAnnouncement:
    announced = EncryptedAnnouncement.from_bytes(state.announcement)
    if announced.step != step:
        raise HostileInputError(f"the announced step is {announced.step!r}, this step belongs to {step!r}")
    return announced
