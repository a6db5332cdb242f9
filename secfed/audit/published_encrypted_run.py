"""A transcript of an encrypted run in memory, as an aggregator publishes it, and what an auditor finds wrong with it.

Made by attacks that change what is published. The auditor is privacy.he.verifier, with the consortium's public key and
no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from privacy.chain import NO_ENTRY, Retention
from privacy.he.member import GroupMember
from privacy.he.receipt import EncryptedReceipt
from privacy.he.transcript import FORMAT, Content, EncryptedRoundEntry, EncryptedSessionEntry
from privacy.he.verifier import EncryptedVerifier
from privacy.secagg.findings import Finding
from privacy.streams import SUITE
from secfed.audit.encrypted_group import EncryptedGroup


@dataclass(frozen=True, kw_only=True)
class PublishedEncryptedRun:
    """The consortium's public key, a session, its rounds, ciphertexts by entry and site, and the sites' receipts."""

    anchor: bytes
    session: EncryptedSessionEntry
    rounds: tuple[EncryptedRoundEntry, ...]
    uploads: Mapping[tuple[int, str], bytes] = field(repr=False)
    receipts: tuple[EncryptedReceipt, ...]

    def with_round(
        self, number: int, *, sum_root: bytes, headers: tuple[bytes, ...] | None = None
    ) -> "PublishedEncryptedRun":
        """The same run with another entry of a round, counted from 1."""
        entry = self.rounds[number - 1]
        changed = replace(entry, sum_root=sum_root, headers=entry.headers if headers is None else headers)
        return replace(self, rounds=(*self.rounds[: number - 1], changed, *self.rounds[number:]))

    def with_upload(self, number: int, site: str, ciphertext: bytes | None) -> "PublishedEncryptedRun":
        """The same run with another ciphertext of a site, or without it."""
        kept = {place: data for place, data in self.uploads.items() if place != (number, site)}
        return replace(self, uploads=kept if ciphertext is None else {**kept, (number, site): ciphertext})


def publish(group: EncryptedGroup, *, rounds: int) -> PublishedEncryptedRun:
    """Play rounds in a session that has just begun, and publish them as an honest aggregator does."""
    advertised, encapsulated, confirmed = group.world.setup_messages
    offers, key_confirmations = group.server.setup_messages.values()
    session = EncryptedSessionEntry(
        suite=SUITE,
        session=group.world.session,
        run=group.run,
        roster=group.world.signed_roster,
        plan=b"{}",
        parameters=group.parameters.to_bytes(),
        code_digest="0" * 64,
        advertisements=advertised,
        encapsulations=encapsulated,
        confirmations=confirmed,
        offers=offers,
        key_confirmations=key_confirmations,
        retention=Retention(),
        completed=0,
    )
    _, previous = FORMAT.encode_entry(session, number=0, previous=NO_ENTRY)
    entries, receipts = [], list[EncryptedReceipt]()
    uploads = dict[tuple[int, str], bytes]()
    for number in range(1, rounds + 1):
        published = group.play(previous=previous)
        receipts += [found for member in group.members.values() if (found := _receipt(member)) is not None]
        uploads |= {(number, name): group.ciphertexts[group.last_round, name] for name in published.contributors}
        entries.append(
            EncryptedRoundEntry(
                announcement=published.announcement,
                headers=published.headers,
                server_round=number,
                sum_root=published.root,
            )
        )
        _, previous = FORMAT.encode_entry(entries[-1], number=number, previous=previous)
    return PublishedEncryptedRun(
        anchor=group.world.anchor,
        session=session,
        rounds=tuple(entries),
        uploads=uploads,
        receipts=tuple(receipts),
    )


def _receipt(member: GroupMember) -> EncryptedReceipt | None:
    return member.receipt


def encrypted_problems(run: PublishedEncryptedRun) -> tuple[str, ...]:
    """Every claim of the verifier that does not hold, with the place."""

    def read(number: int, owner: str, *, limit: int) -> bytes | None:
        data = run.uploads.get((number, owner))
        return None if data is None else data[:limit]

    verifier = EncryptedVerifier(anchor=run.anchor, read=read)
    contents: tuple[Content, ...] = (run.session, *run.rounds)
    found: list[Finding] = []
    previous = NO_ENTRY
    for number, content in enumerate(contents):
        data, previous = FORMAT.encode_entry(content, number=number, previous=previous)
        found += verifier.add(data).findings
    found += verifier.finish(FORMAT.encode_head(count=len(contents), last=previous))
    found += verifier.check_receipts(run.receipts)
    return tuple(f"{finding.where}: {finding.what}" for finding in found if finding.status == "failed")
