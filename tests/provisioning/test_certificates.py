"""TLS with the consortium's certificates works, and with any other fails, by Python's own TLS and by its verifier."""

import contextlib
import re
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from privacy.errors import HostileInputError
from secfed.errors import ConfigError
from secfed.provisioning import certificates

NOW = datetime.now(UTC)
KEY = certificates.make_ec_key(ec.SECP256R1())
AUTHORITY_KEY = certificates.make_ec_key(ec.SECP256R1())
AUTHORITY = certificates.make_authority("abdomen", AUTHORITY_KEY, now=NOW)
REQUEST = certificates.make_server_request(["localhost", "127.0.0.1"], KEY)


def issue(*, now=NOW, days=30, request=REQUEST, authority=AUTHORITY, authority_key=AUTHORITY_KEY):
    return certificates.issue_server_certificate(
        request, authority=authority, authority_key=authority_key, now=now, days=days
    )


def accepts(certificate, host, *, authority=AUTHORITY, at=NOW):
    """What an independent verifier (RFC 5280, as web clients do it) says."""
    verifier = (
        PolicyBuilder()
        .store(Store([x509.load_pem_x509_certificate(authority)]))
        .time(at)
        .build_server_verifier(x509.DNSName(host))
    )
    try:
        verifier.verify(x509.load_pem_x509_certificate(certificate), [])
    except VerificationError:
        return False
    return True


def test_a_verifier_of_web_certificates_accepts_it_for_its_hosts_and_its_time():
    certificate = issue()
    assert accepts(certificate, "localhost")
    assert not accepts(certificate, "example.org")
    assert not accepts(certificate, "localhost", at=NOW + timedelta(days=31))
    assert not accepts(certificate, "localhost", at=NOW - timedelta(days=1))
    other = certificates.make_authority("abdomen", certificates.make_ec_key(ec.SECP256R1()), now=NOW)
    assert not accepts(certificate, "localhost", authority=other)


def test_a_certificate_does_not_outlive_its_authority():
    certificate = issue(now=NOW, days=certificates.AUTHORITY_DAYS + 100)
    assert certificates.valid_until(certificate) == certificates.valid_until(AUTHORITY)


def test_the_server_s_certificate_is_no_authority():
    certificate = issue()
    issued = issue(authority=certificate, authority_key=KEY)
    assert not accepts(issued, "localhost", authority=certificate)


def handshake(tmp_path, certificate, *, authority, host):
    """What a client with `authority` says to a server with `certificate`: None, or the error."""
    (tmp_path / "server.crt").write_bytes(certificate)
    (tmp_path / "server.key").write_bytes(certificates.to_pem(KEY))
    (tmp_path / "ca.crt").write_bytes(authority)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ssl.SSLError):
                server.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as connection,
                ssl.create_default_context(cafile=str(tmp_path / "ca.crt")).wrap_socket(
                    connection, server_hostname=host
                ),
            ):
                return None
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        finally:
            thread.join()


def test_a_tls_client_that_trusts_the_authority_connects_and_no_other(tmp_path):
    assert handshake(tmp_path, issue(), authority=AUTHORITY, host="127.0.0.1") is None
    other = certificates.make_authority("abdomen", AUTHORITY_KEY, now=NOW - timedelta(days=4000))
    assert "certificate" in handshake(tmp_path, issue(), authority=other, host="127.0.0.1")
    assert "mismatch" in handshake(tmp_path, issue(), authority=AUTHORITY, host="example.org").lower()


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (NOW + timedelta(days=31), "it expired on .*ask the consortium to sign again"),
        (NOW - timedelta(days=2), "valid from .*clock says"),
    ],
)
def test_a_certificate_out_of_its_time_is_explained(moment, words):
    problem = certificates.certificate_problem(issue(), authority=AUTHORITY, key=None, now=moment)
    assert problem is not None
    assert re.search(words, problem)


def test_a_usable_certificate_has_no_problem_and_a_foreign_one_has():
    pem = certificates.to_pem(KEY)
    assert certificates.certificate_problem(issue(), authority=AUTHORITY, key=pem, now=NOW) is None
    other = certificates.to_pem(certificates.make_ec_key(ec.SECP256R1()))
    assert "another key" in certificates.certificate_problem(issue(), authority=AUTHORITY, key=other, now=NOW)
    foreign = certificates.make_authority("x", certificates.make_ec_key(ec.SECP256R1()), now=NOW)
    assert "not issued" in certificates.certificate_problem(issue(), authority=foreign, key=pem, now=NOW)


@pytest.mark.parametrize("host", ["", "Example.org", "a b", "-a.org", "host:443", "*.example.org", "a" * 254])
def test_what_is_no_host_is_refused(host):
    with pytest.raises(ConfigError, match="neither an IP address nor a DNS name"):
        certificates.make_server_request([host], KEY)


def test_requests_that_cannot_be_used_are_refused():
    with pytest.raises(ConfigError, match="at least one host"):
        certificates.make_server_request([], KEY)
    for data in (b"", b"-----BEGIN CERTIFICATE REQUEST-----\n", AUTHORITY):
        with pytest.raises(HostileInputError, match="no signing request"):
            certificates.requested_hosts(data)
    nobody = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name("a@example.org")]), critical=False)
        .sign(KEY, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    with pytest.raises(HostileInputError, match="must name hosts"):
        certificates.requested_hosts(nobody)
    assert certificates.requested_hosts(REQUEST) == ("localhost", "127.0.0.1")
