"""TLS between sites and aggregator: the consortium's certificate authority, the aggregator's request, its certificate.

The consortium issues; the aggregator's key never leaves the aggregator; sites hold the authority's certificate and
trust no other, whatever the machine trusts. TLS hides models and timing from the network. It protects nobody from the
aggregator, which is at its end: masks, ciphertexts and signatures do.

Source: RFC 5280 (certificate profile), RFC 2986 (signing requests).
"""

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.errors import HostileInputError
from secfed.errors import ConfigError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
"""What TLS clients of today accept at most."""
CLOCK_SKEW = timedelta(minutes=5)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def make_ec_key(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    """A new EC key from the operating system's entropy."""
    return ec.generate_private_key(curve)


def to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS 8, not encrypted: for a file that only its owner may read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def from_pem(data: bytes, *, origin: str) -> ec.EllipticCurvePrivateKey:
    """A private EC key; raises ConfigError that names `origin`."""
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{origin}: no private key that can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{origin}: an EC key is needed, this is {type(key).__name__}")
    return key


def make_authority(consortium: str, key: ec.EllipticCurvePrivateKey, *, now: datetime) -> bytes:
    """The consortium's self-signed certificate, PEM: it issues certificates for aggregators and for nothing else."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"secfed consortium {consortium}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def make_server_request(hosts: Sequence[str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """The aggregator's signing request, PEM, for all names and addresses by which sites reach it.

    Raises:
        ConfigError: no host, or one that is neither a DNS name nor an IP address.
    """
    if not hosts:
        raise ConfigError("name at least one host by which sites reach the aggregator")
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secfed aggregator")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def requested_hosts(request: bytes) -> tuple[str, ...]:
    """The hosts of a signing request from untrusted bytes; the request is signed by its own key.

    Raises:
        HostileInputError: malformed, not signed by its key, or without hosts.
    """
    return _hosts(_load_request(request))


def issue_server_certificate(
    request: bytes, *, authority: bytes, authority_key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> bytes:
    """The aggregator's certificate, PEM: for the hosts of its request, as a server, and not past the authority's end.

    Raises:
        HostileInputError: a request that cannot be used.
    """
    asked = _load_request(request)
    issuer = x509.load_pem_x509_certificate(authority)
    names = [_general_name(host) for host in _hosts(asked)]
    public_key = asked.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise HostileInputError("the aggregator's request must be for an EC key")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secfed aggregator")]))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(min(now + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def certificate_problem(certificate: bytes, *, authority: bytes, key: bytes | None, now: datetime) -> str | None:
    """Why a server certificate cannot be used now, in plain words; None where it can. `key` is the server's, PEM."""
    try:
        found, issuer = (x509.load_pem_x509_certificate(data) for data in (certificate, authority))
        found.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return "it was not issued by the consortium's authority, whose certificate is in ca.crt"
    if now < found.not_valid_before_utc:
        return f"it is valid from {_day(found.not_valid_before_utc)}, and this machine's clock says {_day(now)}"
    if now >= found.not_valid_after_utc:
        return f"it expired on {_day(found.not_valid_after_utc)}: ask the consortium to sign again"
    if key is not None and from_pem(key, origin="the server's key").public_key() != found.public_key():
        return "it belongs to another key than the one here"
    return None


def valid_until(certificate: bytes) -> datetime:
    """When a certificate ends; raises ValueError for what is none."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def _load_request(data: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(data)
    except ValueError as error:
        raise HostileInputError(f"no signing request that can be read: {error}") from error
    if not request.is_signature_valid:
        raise HostileInputError("the signing request is not signed by its own key")
    return request


def _hosts(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise HostileInputError(f"the signing request names no hosts: {error}") from error
    hosts = tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))
    if not hosts or len(hosts) != len(list(names)):
        raise HostileInputError("the signing request must name hosts, by DNS name or IP address, and nothing else")
    return hosts


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ConfigError(f"host = {host!r}: neither an IP address nor a DNS name in lower case, as 'fl.example.org'")
    return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
