"""A transcript in memory, as an aggregator publishes it, and what an auditor finds wrong with it.

Made by attacks that change what is published. The auditor is privacy.secagg.verifier, with the consortium's public key
and nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from privacy.merkle import LEAF_BYTES, leaf_digests, merkle_root
from privacy.secagg.findings import Finding
from privacy.secagg.receipt import Receipt
from privacy.secagg.transcript import (
    NO_ENTRY,
    SUM,
    Content,
    RoundEntry,
    RoundMessages,
    SessionEntry,
    encode_entry,
    encode_head,
)
from privacy.secagg.verifier import TranscriptVerifier
from privacy.streams import Words, little_endian_bytes


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A run of one round: the consortium's public key, the entries, vectors by owner, and the sites' receipts.

    Vectors are uint32 of shape (vector_length,), the sum under `privacy.secagg.transcript.SUM`.
    """

    anchor: bytes
    session: SessionEntry
    rounds: tuple[RoundEntry, ...]
    vectors: Mapping[str, Words]
    receipts: tuple[Receipt, ...]

    @property
    def messages(self) -> RoundMessages:
        """The signed messages of the round."""
        return self.rounds[0].messages

    def with_messages(self, messages: RoundMessages) -> "PublishedRun":
        """The same run with other messages."""
        return replace(self, rounds=(replace(self.rounds[0], messages=messages),))

    def with_vector(self, owner: str, words: Words) -> "PublishedRun":
        """The same run with another vector, and with leaves and root that fit it: nothing unsigned gives it away."""
        leaves = leaf_digests(words)
        if owner == SUM:
            changed = replace(self.rounds[0], sum_root=merkle_root(leaves), sum_leaves=leaves)
        else:
            changed = replace(self.rounds[0], upload_leaves={**self.rounds[0].upload_leaves, owner: leaves})
        return replace(self, rounds=(changed,), vectors={**self.vectors, owner: words})


def problems(run: PublishedRun) -> tuple[str, ...]:
    """Every claim of the verifier that does not hold, with the place."""

    def blocks(number: int, owner: str) -> Iterable[bytes] | None:
        if number != 1 or owner not in run.vectors:
            return None
        data = little_endian_bytes(run.vectors[owner]).tobytes()
        return [data[start : start + LEAF_BYTES] for start in range(0, len(data), LEAF_BYTES)]

    verifier = TranscriptVerifier(anchor=run.anchor, vectors=blocks)
    contents: tuple[Content, ...] = (run.session, *run.rounds)
    found: list[Finding] = []
    previous = NO_ENTRY
    for number, content in enumerate(contents):
        data, previous = encode_entry(content, number=number, previous=previous)
        found += verifier.add(data).findings
    found += verifier.finish(encode_head(count=len(contents), last=previous))
    found += verifier.check_receipts(run.receipts)
    return tuple(f"{finding.where}: {finding.what}" for finding in found if finding.status == "failed")
