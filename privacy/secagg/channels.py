"""Keys between a client and its confirmed peers for another purpose than masks: what else travels sealed in a session.

Held by a site alone. Every key comes one way from a pair's chain key, as an exporter of TLS does from the session's
secret (RFC 8446, section 7.5), and is bound to purpose, session, round of the chain, sender and recipient: the two
directions differ, and no such key tells anything about masks, shares or the chain key itself.

It does not protect what is sealed once the state of either client leaks in the same session.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from privacy.errors import MisuseError
from privacy.secagg.client_state import ClientState
from privacy.streams import derive_key


@dataclass(frozen=True, kw_only=True, repr=False)
class PeerChannel:
    """Two 32-byte keys, one for each direction, and the digest of the S2 message accepted from the peer."""

    sending: bytes
    receiving: bytes
    confirmation: bytes

    def __repr__(self) -> str:
        return "PeerChannel(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise MisuseError("a PeerChannel cannot be pickled: it is secret")


@dataclass(frozen=True, kw_only=True)
class SessionChannels:
    """One client's channels in one session; `confirmation` is the digest of its own S2 message."""

    name: str
    session: bytes
    confirmation: bytes
    peers: Mapping[str, PeerChannel]


def derive_channels(state: ClientState, *, purpose: str, session_context: bytes) -> SessionChannels:
    """The channels of a client that is READY to all confirmed peers, for one purpose.

    Raises:
        MisuseError: the purpose is empty.
    """
    if not purpose:
        raise MisuseError("purpose = '' must name what the keys are for")

    def key(chain_key: bytes, *, sender: str, recipient: str) -> bytes:
        facts: dict[str, bytes | int | str] = {
            "purpose": purpose,
            "session": session_context,
            "round": state.chain_round,
            "sender": sender,
            "recipient": recipient,
        }
        return derive_key(chain_key, label="channel", context=facts)

    return SessionChannels(
        name=state.name,
        session=state.session,
        confirmation=state.own_digest,
        peers={
            peer: PeerChannel(
                sending=key(chain_key, sender=state.name, recipient=peer),
                receiving=key(chain_key, sender=peer, recipient=state.name),
                confirmation=state.setup_digests[peer],
            )
            for peer, chain_key in state.chain_keys.items()
        },
    )
