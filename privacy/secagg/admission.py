"""What every stage of the aggregator does with a message: it counts, or its sender is named.

Run by the aggregator. A refusal here is about one message; the round goes on without it while enough others remain.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.secagg.envelope import Admitted, Body, open_envelope
from privacy.secagg.roster import Roster

BodyT = TypeVar("BodyT", bound=Body)
UNKNOWN_SENDER = "(unknown sender)"


def admit_each(
    messages: Iterable[bytes],
    body_type: type[BodyT],
    *,
    context: bytes,
    roster: Roster,
    check: Callable[[Admitted[BodyT]], None],
    excluded: dict[str, str],
) -> dict[str, tuple[Admitted[BodyT], bytes]]:
    """The messages that verify and pass `check`, by sender and with their bytes; the first of each sender counts.

    Refused ones go to `excluded` with their reason, under their sender's name where that is known.
    """
    admitted: dict[str, tuple[Admitted[BodyT], bytes]] = {}
    for data in messages:
        try:
            found = open_envelope(data, body_type, context=context, roster=roster)
            require_first(found.sender, admitted)
            check(found)
        except HostileInputError as error:
            excluded[error.party or UNKNOWN_SENDER] = str(error)
            continue
        admitted[found.sender] = (found, data)
    return admitted


def require_first(sender: str, earlier: Mapping[str, object]) -> None:
    """Raises HostileInputError where the sender was admitted before."""
    if sender in earlier:
        raise HostileInputError("sent a second message of one step; the first one counts", party=sender)


def require_enough(count: int, threshold: int, *, what: str) -> None:
    """Raises TooFewSurvivorsError below the threshold."""
    if count < threshold:
        raise TooFewSurvivorsError(f"{count} {what}, the threshold is {threshold}: nothing is unmasked")
