"""All messages with a defect, in the order of steps: what stands in negative.json."""

from secagg_defects import PlayedSession, with_edits
from secagg_session import Record, SessionPlayer
from secagg_setup_defects import envelopes, setup
from secagg_share_defects import announcements, invitations, shares
from secagg_upload_defects import agreement_requests, agreements, complaints, evidence, replies, uploads

_MAKERS = (
    envelopes,
    setup,
    invitations,
    announcements,
    shares,
    uploads,
    complaints,
    agreement_requests,
    agreements,
    replies,
    evidence,
)


def negative_vectors(three: SessionPlayer, four: SessionPlayer) -> list[Record]:
    """The entries, from the sessions of three and of four clients."""
    sessions = PlayedSession(three), PlayedSession(four)
    by_name = {session.name: session for session in sessions}
    entries = [entry for maker in _MAKERS for entry in maker(*sessions)]
    return [with_edits(entry, by_name[entry["session"]]) for entry in entries]
