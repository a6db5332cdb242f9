"""What a site of an encrypted run must be able to tell apart, because each calls for another remedy.

All are HostileInputError: other parties' messages led here, and the site cannot know whether they were honest.
"""

from privacy.errors import HostileInputError


class GroupKeyLostError(HostileInputError):
    """Rounds of the run are completed, and no site holds its group key any more: the run cannot go on."""


class StaleMemberError(HostileInputError):
    """The site lacks an earlier sum than the one announced, or its history: it needs a snapshot from a peer."""


class UnreadableSumError(HostileInputError):
    """The sum that was announced, with good signatures, is no sum of these contributors' vectors in that round."""
