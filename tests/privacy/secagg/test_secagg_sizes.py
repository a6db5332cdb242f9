"""The longest messages of the largest consortium fit into what every parser accepts."""

import pytest

from aggregator.misconduct import MAX_EVIDENCE_BYTES
from privacy.cbor import MAX_MESSAGE_BYTES
from privacy.secagg.blame import Evidence
from privacy.secagg.envelope import seal_envelope
from privacy.secagg.messages import MaskedInput, PeerShares, ShareMessage, SurvivorAgreement, UnmaskReply
from privacy.secagg.requests import AgreementRequest, UnmaskRequest
from privacy.secagg.roster import MAX_MEMBERS, require_name
from privacy.secagg.threshold import default_threshold

NAMES = tuple(require_name(f"{index:031d}") for index in range(MAX_MEMBERS))
THRESHOLD = default_threshold(MAX_MEMBERS)
DIGEST = bytes(32)


def signed(body, sender=NAMES[0]):
    """A message of the right size; the signature is not one."""
    return seal_envelope(body, context=DIGEST, sender=sender, previous=DIGEST, sign=lambda _: bytes(64))[0]


SHARES = signed(
    ShareMessage(
        wrapped_pair_secrets=bytes(16 + 70 * MAX_MEMBERS),
        seed_commitment=DIGEST,
        wrap_commitment=DIGEST,
        own_share_commitment=DIGEST,
        peers=dict.fromkeys(
            NAMES,
            PeerShares(
                pair_commitment=DIGEST,
                seal_commitment=DIGEST,
                sealed_seed_share=bytes(48),
                sealed_wrap_share=bytes(48),
                seed_share_commitment=DIGEST,
                wrap_share_commitment=DIGEST,
            ),
        ),
    )
)
REPLY = signed(UnmaskReply(seed_shares=dict.fromkeys(NAMES, bytes(32)), wrap_shares={}))
EVIDENCE = Evidence(announcement=bytes(40 * MAX_MEMBERS), shares=SHARES, replies=(REPLY,) * THRESHOLD).to_bytes()
HEADERS = tuple(signed(MaskedInput(root=DIGEST, length=2**31)) for _ in NAMES)


@pytest.mark.parametrize(
    "message",
    [
        SHARES,
        AgreementRequest(context=DIGEST, headers=HEADERS, evidence=(EVIDENCE,)).to_bytes(),
        UnmaskRequest(context=DIGEST, agreements=(signed(SurvivorAgreement(survivors=NAMES)),) * THRESHOLD).to_bytes(),
    ],
    ids=["shares", "agreement request with evidence", "unmask request"],
)
def test_the_longest_messages_of_the_largest_consortium_fit(message):
    assert len(message) < MAX_MESSAGE_BYTES


def test_evidence_of_the_largest_consortium_is_passed_on_whole():
    assert MAX_MESSAGE_BYTES / 2 < len(EVIDENCE) < MAX_EVIDENCE_BYTES
