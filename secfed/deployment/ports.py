"""A port of loopback for processes of one machine that talk to one another; used at sites, and where tests play all."""

import contextlib
import secrets
import socket

_FIRST, _COUNT = 15_000, 15_000
"""Below what operating systems hand out to outgoing connections, which could take the port while its owner restarts."""


def free_port() -> int:
    """A port of loopback on which nobody listens now."""
    while True:
        port = _FIRST + secrets.randbelow(_COUNT)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
