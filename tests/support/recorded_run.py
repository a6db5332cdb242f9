"""A run of the real protocol on tiny vectors, recorded by the real writer: what transcript tests build on.

Everything that a site or the aggregator does is done by the real classes; only network, training and server step are
missing. The model after a round is a hash of the sum.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from aggregator.transcript import Transcript
from privacy.errors import HostileInputError, ProvenCheatingError
from privacy.merkle import LEAF_BYTES
from privacy.secagg import dealing
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.findings import Finding
from privacy.secagg.identity import Identity
from privacy.secagg.receipt import Receipt
from privacy.secagg.replay import VectorReader
from privacy.secagg.roster import Member, Roster, generate_consortium_key, sign_roster
from privacy.secagg.server import SecAggRound, SecAggServer
from privacy.secagg.transcript import ENTRIES, HEAD, Retention, vector_name
from privacy.secagg.verifier import CheckedEntry, TranscriptVerifier

KEEP_ALL = Retention()


class RecordedRun:
    """Sites a, b, c and so on; `receipts` holds what they keep, by site."""

    def __init__(
        self, folder: Path, *, count: int = 4, retention: Retention = KEEP_ALL, length: int = 6, plan: bytes = b"{}"
    ) -> None:
        self.folder = folder
        self.names = tuple("abcdefgh"[:count])
        self.length = length
        self.plan = plan
        self.retention = retention
        self.identities = {name: Identity.generate(name) for name in self.names}
        consortium = generate_consortium_key()
        self.anchor = consortium.public_key().public_bytes_raw()
        members = tuple(Member(name, identity.public_key) for name, identity in self.identities.items())
        self.roster = Roster(consortium="consortium", version=1, expires=2**40, members=members)
        self.signed_roster = sign_roster(self.roster, consortium)
        self.receipts: dict[str, list[Receipt]] = {name: [] for name in self.names}
        self.opened = {}
        self.completed = 0
        self.model = hashlib.sha256(b"initial").digest()
        self.reopen()

    def reopen(self) -> None:
        """A new process of the aggregator."""
        self.transcript = Transcript(self.folder, retention=self.retention, durable=False)

    def open_session(self) -> None:
        """The setup, and its entry."""
        session = secrets.token_bytes(32)
        floors = ClientFloors(min_cohort=2)
        self.clients = {
            name: SecAggClient.create(
                identity=identity,
                roster=self.roster,
                session=session,
                floors=floors,
                **({"opened": self.opened[name]} if name in self.opened else {}),
            )
            for name, identity in self.identities.items()
        }
        clients = self.clients.values()
        self.server = SecAggServer(roster=self.roster, session=session)
        advertised = self.server.collect_advertisements([client.advertise_keys() for client in clients])
        encapsulated = self.server.collect_encapsulations([client.encapsulate_keys(advertised) for client in clients])
        confirmed = self.server.collect_confirmations([client.confirm_keys(encapsulated) for client in clients])
        for client in clients:
            client.accept_confirmations(confirmed)
        self.sequence = 0
        self.transcript.begin_session(
            session=session,
            roster=self.signed_roster,
            plan=self.plan,
            setup=self.server.setup_messages,
            completed=self.completed,
            model_hash=self.model,
            code_digest="",
        )

    def play(
        self,
        *,
        absent: str = "",
        invited: Iterable[str] | None = None,
        evidence: tuple[bytes, ...] = (),
        vectors: Callable[[str], np.ndarray] | None = None,
        change_sum: Callable[[np.ndarray], None] | None = None,
        bad_dealer: str = "",
        stop: str = "",
        silent: str = "",
    ) -> SecAggRound:
        """One round with its entry; `absent` sites do not upload, `silent` ones upload and say no more.

        `stop` ends the round there as a kill would: "agreeing" before any agreement, "unmasking" before the sum.
        """
        self.sequence += 1
        round_ = self.server.invite(round_number=self.sequence, invited=invited)
        dealt = [self._share(name, round_, bad=name == bad_dealer) for name in round_.invited]
        round_.collect_shares(dealt)
        announcement = round_.announce(
            model_hash=self.model,
            plan_hash=hashlib.sha256(self.plan).digest(),
            vector_length=self.length,
            previous=self.transcript.previous,
        )
        try:
            for name in round_.cohort:
                client = self.clients[name]
                complaint = client.accept(announcement, round_.shares)
                if complaint is not None:
                    round_.add_complaint(complaint)
                elif name not in absent:
                    header, masked = client.mask((vectors or self.vector)(name))
                    round_.add_upload(header, masked)
                    self.transcript.keep_upload(name, masked, leaves=round_.upload_leaves[name])
            request = round_.request_agreement(evidence)
            self.transcript.note_open(round_.messages, server_round=self.completed + 1)
            if stop == "agreeing":
                return round_
            speaking = [name for name in round_.uploaded if name not in silent]
            agreements = []
            for name in speaking:
                agreements.append(self.clients[name].agree(request))
                self.receipts[name].append(self.clients[name].receipt)
            round_.collect_agreements(agreements)
            release = round_.request_unmask()
            replies = [self.clients[name].unmask(release) for name in speaking]
            self.opened.update({name: client.opened for name, client in self.clients.items()})
            if stop == "unmasking":
                return round_
            found = round_.finish(replies)
        except HostileInputError as error:
            proof = error.evidence if isinstance(error, ProvenCheatingError) else b""
            self.transcript.abort_round(
                round_.messages, server_round=self.completed + 1, reason=str(error), evidence=proof
            )
            return round_
        total = found.total
        if change_sum is not None:
            change_sum(total)
        model_after = hashlib.sha256(self.model + total.tobytes()).digest()
        self.transcript.complete_round(
            round_.messages, server_round=self.completed + 1, total=total, model_after=model_after
        )
        self.completed, self.model = self.completed + 1, model_after
        return round_

    def vector(self, name: str) -> np.ndarray:
        """What a site adds: a power of ten that shows its place in the sum."""
        return np.full(self.length, 10 ** self.names.index(name), dtype=np.uint32)

    def _share(self, name: str, round_: SecAggRound, *, bad: bool) -> bytes:
        """R1; of a bad dealer, shares that match their commitments and give another seed than it committed to."""
        if not bad:
            return self.clients[name].share(round_.invitation)
        honest = dealing.commit_secret

        def lie(secret, **facts):
            wrong = bytes(32) if facts["kind"] == "self seed" else secret
            return honest(wrong, **facts)

        dealing.commit_secret = lie
        try:
            return self.clients[name].share(round_.invitation)
        finally:
            dealing.commit_secret = honest

    def all_receipts(self) -> list[Receipt]:
        return [receipt for kept in self.receipts.values() for receipt in kept]


def entry_files(folder: Path) -> list[bytes]:
    """The bytes of all entries, in order."""
    return [path.read_bytes() for path in sorted((folder / ENTRIES).glob("*.cbor"))]


def reader(folder: Path) -> VectorReader:
    """The vectors of a folder."""

    def read(number: int, owner: str):
        path = folder / vector_name(number, owner)
        if not path.exists():
            return None
        data = path.read_bytes()
        return [data[start : start + LEAF_BYTES] for start in range(0, len(data), LEAF_BYTES)]

    return read


def verify(
    folder: Path,
    *,
    anchor: bytes | None,
    entries: list[bytes] | None = None,
    head: bytes | None = None,
    receipts: Iterable[Receipt] = (),
    vectors: VectorReader | None = None,
) -> list[Finding]:
    """All findings, through the pure functions."""
    return verify_all(folder, anchor=anchor, entries=entries, head=head, receipts=receipts, vectors=vectors)[0]


def verify_all(
    folder: Path,
    *,
    anchor: bytes | None,
    entries: list[bytes] | None = None,
    head: bytes | None = None,
    receipts: Iterable[Receipt] = (),
    vectors: VectorReader | None = None,
) -> tuple[list[Finding], list[CheckedEntry]]:
    """All findings, and the checked entries."""
    verifier = TranscriptVerifier(anchor=anchor, vectors=vectors or reader(folder))
    checked = [verifier.add(data) for data in (entry_files(folder) if entries is None else entries)]
    findings = [finding for entry in checked for finding in entry.findings]
    findings += verifier.finish((folder / HEAD).read_bytes() if head is None else head)
    findings += verifier.check_receipts(receipts)
    return findings, checked


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """What did not hold."""
    return [finding for finding in findings if finding.status == "failed"]
