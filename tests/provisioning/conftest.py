"""A consortium of three sites and an aggregator: founded and requested, and with everybody's release accepted."""

import contextlib
import email.utils
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from provisioned import NAMES, Place, make_place

from secfed.provisioning.consortium import sign_next


@pytest.fixture(scope="session")
def _founded(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("founded")).root


@pytest.fixture
def place(_founded, tmp_path):
    """Founded and requested."""
    root = Path(shutil.copytree(_founded, tmp_path / "place"))
    for file in root.glob("*/site.toml"):
        file.write_text(file.read_text().replace(str(_founded), str(root)))
    return Place(root)


@pytest.fixture
def joined(place):
    """Signed, and accepted by everybody."""
    release = sign_next(place.consortium, requests=place.requests, server_request=place.aggregator / "server.csr")
    for folder in (*map(place.site, NAMES), place.aggregator):
        place.accept(folder, release.folder)
    return place


@pytest.fixture
def unused_tcp_port():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def serve_tls():
    """A TLS server with the aggregator's certificate, on a port of its own, whose clock is `ahead` of this one's."""

    @contextlib.contextmanager
    def serve(folder, *, ahead=0.0):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        with socket.create_server(("", 0)) as listener:
            listener.settimeout(0.1)
            stopped = threading.Event()

            def answer():
                while not stopped.is_set():
                    with contextlib.suppress(OSError):
                        connection, _ = listener.accept()
                        with connection, contextlib.suppress(OSError):
                            secure = context.wrap_socket(connection, server_side=True)
                            secure.recv(4096)
                            date = email.utils.formatdate(time.time() + ahead, usegmt=True)
                            secure.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\n\r\n".encode())
                            secure.close()

            thread = threading.Thread(target=answer)
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                stopped.set()
                thread.join()

    return serve
