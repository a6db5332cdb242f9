"""One client's place in a session: it signs what the client sends and admits what all clients sent.

Held by a site, because it contains the identity. It keeps no state of the session.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from privacy.errors import HostileInputError
from privacy.secagg.envelope import Admitted, Body, open_envelope, seal_envelope
from privacy.secagg.identity import Identity
from privacy.secagg.messages import session_context
from privacy.secagg.roster import Roster

BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Who the client is, and in which session of which roster."""

    identity: Identity
    roster: Roster = field(repr=False)
    session: bytes

    @property
    def name(self) -> str:
        """The client's own name."""
        return self.identity.name

    @cached_property
    def session_context(self) -> bytes:
        """What setup messages are signed under."""
        return session_context(self.session, self.roster)

    def sign(self, body: Body, *, context: bytes, previous: bytes) -> tuple[bytes, bytes]:
        """A message of this client as it travels, and its digest."""
        return seal_envelope(body, context=context, sender=self.name, previous=previous, sign=self.identity.sign)

    def admit(
        self,
        messages: Iterable[bytes],
        body_type: type[BodyT],
        *,
        context: bytes,
        own_digest: bytes,
        excluded: dict[str, str] | None = None,
    ) -> dict[str, Admitted[BodyT]]:
        """One step's messages of all clients by sender; the own one has the digest `own_digest`.

        Where `excluded` is given, a peer's message that does not verify goes there with its reason instead of raising.

        Raises:
            HostileInputError: a message does not verify (and cannot be blamed on a peer), a sender stands twice, or the
                own message is missing or changed.
        """
        admitted: dict[str, Admitted[BodyT]] = {}
        for data in messages:
            try:
                found = open_envelope(data, body_type, context=context, roster=self.roster)
            except HostileInputError as error:
                if excluded is None or error.party is None or error.party == self.name:
                    raise
                excluded[error.party] = str(error)
                continue
            if found.sender in admitted:
                raise HostileInputError("sent, or was relayed with, two messages of one step", party=found.sender)
            admitted[found.sender] = found
        if self.name not in admitted or admitted[self.name].digest != own_digest:
            raise HostileInputError("this client's own message is missing or was changed by whoever relays")
        return admitted
