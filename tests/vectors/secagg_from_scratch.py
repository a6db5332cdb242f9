"""The derivations of secure aggregation once more, from docs/test-vectors.md alone: nothing here imports `privacy`.

Short and slow on purpose. Only X25519, ML-KEM, Ed25519 and AES come from a library; CBOR, HKDF, GF(2^128) and the hash
tree are written from their definitions.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SUITE = "secfed-secagg/2 X25519+ML-KEM-768 HKDF-SHA256 AES-256-CTR AES-256-GCM Ed25519"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def cbor(value: Any) -> bytes:
    """RFC 8949, section 4.2.1, for unsigned integers, byte strings, text, arrays and maps with text keys."""
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, Mapping):
        rows = sorted((cbor(key), cbor(item)) for key, item in value.items())
        return _head(5, len(rows)) + b"".join(key + item for key, item in rows)
    return _head(4, len(value)) + b"".join(cbor(item) for item in value)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    size = next(power for power in range(4) if argument < 256 ** (1 << power))
    return bytes([major << 5 | 24 + size]) + argument.to_bytes(1 << size, "big")


def derive(secret: bytes, label: str, context: Mapping[str, Any]) -> bytes:
    """HKDF-SHA256 without salt, 32 bytes: one block of RFC 5869."""
    return expand(secret, cbor([SUITE, label, context]))


def expand(secret: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def envelope(private_key: bytes, kind: str, context: bytes, sender: str, previous: bytes, body: Any) -> bytes:
    signed_part = cbor([SUITE, kind, context, sender, previous, body])
    return cbor([signed_part, Ed25519PrivateKey.from_private_bytes(private_key).sign(signed_part)])


def digest_of_set(label: str, context: bytes, digests: Mapping[str, bytes]) -> bytes:
    return sha256(cbor([SUITE, label, context, digests]))


def commitment(kind: str, context: bytes, *rest: Any) -> bytes:
    return sha256(cbor([SUITE, "commitment", kind, context, *rest]))


def evaluate(secret: bytes, coefficients: Mapping[str, Sequence[bytes]], x: int) -> bytes:
    """A share: both halves of the secret, each at the bottom of its own polynomial; highest power first."""
    share = b""
    for half, name in ((secret[:16], "first_half"), (secret[16:], "second_half")):
        value = 0
        for coefficient in (*coefficients[name], half):
            value = multiply(value, x) ^ int.from_bytes(coefficient, "big")
        share += value.to_bytes(16, "big")
    return share


def multiply(left: int, right: int) -> int:
    """GF(2^128) modulo x^128 + x^7 + x^2 + x + 1; bit i of the big-endian integer is the coefficient of x^i."""
    product = 0
    for bit in range(right.bit_length()):
        if right >> bit & 1:
            product ^= left << bit
    for bit in reversed(range(128, product.bit_length())):
        if product >> bit & 1:
            product ^= (1 << 128 | 0x87) << (bit - 128)
    return product


def gcm(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    return AESGCM(key).encrypt(bytes(12), plaintext, associated)


def keystream(key: bytes, count: int) -> list[int]:
    """AES-256-CTR from counter zero over zeros, cut into little-endian words."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * count))
    return [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(count)]


def words_bytes(words: Sequence[int]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def root_of_one_leaf(words: Sequence[int]) -> bytes:
    """The hash tree of up to 2^18 words (1 MiB) is one leaf."""
    return sha256(b"\x00" + words_bytes(words))


class Setup:
    """S0 to S2, from the private keys and the recorded ciphertexts by (first, second)."""

    def __init__(self, given: Mapping[str, Any], ciphertexts: Mapping[tuple[str, str], bytes]) -> None:
        self.given = given
        self.ciphertexts = ciphertexts
        roster = given["roster"]
        members = [[name, ed25519_public(given["identity_private_keys"][name])] for name in roster["members"]]
        payload = cbor(["secfed-roster/1", roster["consortium"], roster["version"], roster["expires"], members])
        consortium = Ed25519PrivateKey.from_private_bytes(given["consortium_private_key"])
        self.signed_roster = cbor([payload, consortium.sign(payload)])
        self.roster_digest = sha256(payload)
        self.session_context = sha256(cbor([SUITE, "session", given["session"], self.roster_digest]))
        self.names = sorted(given["exchange_private_keys"])
        self.exchange = {
            name: X25519PrivateKey.from_private_bytes(key) for name, key in given["exchange_private_keys"].items()
        }
        self.encapsulation = {
            name: MLKEM768PrivateKey.from_seed_bytes(seed) for name, seed in given["encapsulation_seeds"].items()
        }
        self.pair_keys = {pair: self.pair_key(*pair) for pair in ciphertexts}
        self.chain_keys = {
            pair: derive(key, "chain", {"session": self.session_context}) for pair, key in self.pair_keys.items()
        }
        self.messages = {name: self.messages_of(name) for name in self.names}

    def advertised(self, name: str) -> dict[str, bytes]:
        return {
            "exchange_key": self.exchange[name].public_key().public_bytes_raw(),
            "encapsulation_key": self.encapsulation[name].public_key().public_bytes_raw(),
        }

    def pair_key(self, first: str, second: str) -> bytes:
        keys = {name: self.advertised(name) for name in (first, second)}
        peer = X25519PublicKey.from_public_bytes(keys[second]["exchange_key"])
        exchanged = self.exchange[first].exchange(peer)
        ciphertext = self.ciphertexts[first, second]
        context = {
            "session": self.session_context,
            "first": first,
            "second": second,
            "first_keys": sha256(keys[first]["exchange_key"] + keys[first]["encapsulation_key"]),
            "second_keys": sha256(keys[second]["exchange_key"] + keys[second]["encapsulation_key"]),
            "ciphertext": sha256(ciphertext),
        }
        return derive(exchanged + self.encapsulation[second].decapsulate(ciphertext), "pair key", context)

    def tag(self, sender: str, recipient: str) -> bytes:
        first, second = sorted((sender, recipient))
        key = derive(self.pair_keys[first, second], "confirmation", {"session": self.session_context})
        return hmac.digest(key, cbor([SUITE, "confirmation", sender, recipient, self.session_context]), "sha256")

    def messages_of(self, name: str) -> dict[str, bytes]:
        steps = (
            ("S0", "S0 key advertisement", self.advertised(name)),
            (
                "S1",
                "S1 key encapsulation",
                {"ciphertexts": {v: c for (u, v), c in self.ciphertexts.items() if u == name}},
            ),
            (
                "S2",
                "S2 key confirmation",
                {"tags": {peer: self.tag(name, peer) for peer in self.names if peer != name}},
            ),
        )
        messages, previous = {}, bytes(32)
        for step, kind, body in steps:
            private_key = self.given["identity_private_keys"][name]
            messages[step] = envelope(private_key, kind, self.session_context, name, previous, body)
            previous = signed_part_digest(messages[step])
        return messages


def ed25519_public(private_key: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


class Round:
    """R0 to R2 of one round, from what the clients drew."""

    def __init__(self, setup: Setup, number: int, given: Mapping[str, Any], dealers: Mapping[str, Any]) -> None:
        self.setup, self.number, self.dealers = setup, number, dealers
        self.names: list[str] = given["invited"]
        self.index = {name: place for place, name in enumerate(setup.given["roster"]["members"], start=1)}
        self.invitation = cbor(
            {
                "suite": SUITE,
                "session": setup.given["session"],
                "round": number,
                "roster": setup.roster_digest,
                "invited": given["invited"],
                "threshold": given["threshold"],
            }
        )
        self.shares_context = sha256(cbor([SUITE, "shares", self.invitation]))
        self.announcement = cbor(
            {
                "suite": SUITE,
                "invitation": self.invitation,
                "model": given["model_hash"],
                "plan": given["plan_hash"],
                "policy": given["policy_hash"],
                "vector_length": len(given["vectors"][self.names[0]]),
                "previous": given["previous"],
            }
        )
        self.context = sha256(cbor([SUITE, "round", self.announcement]))

    def chain_key(self, one: str, other: str) -> bytes:
        first, second = sorted((one, other))
        key = self.setup.chain_keys[first, second]
        for step in range(self.number):
            key = derive(key, "ratchet", {"from_round": step})
        return key

    def secret(self, one: str, other: str, label: str) -> bytes:
        """The "pair secret" or the "seal secret" of two clients."""
        context = {"session": self.setup.given["session"], "round": self.number}
        return derive(self.chain_key(one, other), label, context)

    def common_commitment(self, one: str, other: str, what: str) -> bytes:
        """To the "pair" or the "seal" secret of two clients."""
        secret = self.secret(one, other, f"{what} secret")
        return commitment(what, self.shares_context, sorted((one, other)), secret)

    def share(self, dealer: str, holder: str, kind: str) -> bytes:
        """The holder's "seed share" or "wrap share"."""
        drawn = self.dealers[dealer]
        if kind == "seed share":
            return evaluate(drawn["self_seed"], drawn["seed_coefficients"], self.index[holder])
        return evaluate(drawn["wrap_key"], drawn["wrap_coefficients"], self.index[holder])

    def share_commitment(self, dealer: str, holder: str, kind: str) -> bytes:
        return commitment(kind, self.shares_context, dealer, holder, self.share(dealer, holder, kind))

    def sealed(self, dealer: str, holder: str, kind: str) -> bytes:
        facts = {"kind": kind, "dealer": dealer, "holder": holder, "shares": self.shares_context}
        key = derive(self.secret(dealer, holder, "seal secret"), "share seal", facts)
        return gcm(key, self.share(dealer, holder, kind), cbor([SUITE, "share seal", facts]))

    def wrapped(self, dealer: str) -> bytes:
        facts = {"owner": dealer, "shares": self.shares_context}
        plaintext = cbor({peer: self.secret(dealer, peer, "pair secret") for peer in self.peers(dealer)})
        key = derive(self.dealers[dealer]["wrap_key"], "wrap", facts)
        return gcm(key, plaintext, cbor([SUITE, "wrap", facts]))

    def peers(self, name: str) -> list[str]:
        return [peer for peer in self.names if peer != name]

    def dealt(self, dealer: str) -> bytes:
        """R1 of an honest dealer."""
        rows = {
            holder: [
                self.common_commitment(dealer, holder, "pair"),
                self.common_commitment(dealer, holder, "seal"),
                self.sealed(dealer, holder, "seed share"),
                self.sealed(dealer, holder, "wrap share"),
                self.share_commitment(dealer, holder, "seed share"),
                self.share_commitment(dealer, holder, "wrap share"),
            ]
            for holder in self.peers(dealer)
        }
        drawn = self.dealers[dealer]
        body = {
            "wrapped": self.wrapped(dealer),
            "seed_commitment": commitment("self seed", self.shares_context, dealer, drawn["self_seed"]),
            "wrap_commitment": commitment("wrap key", self.shares_context, dealer, drawn["wrap_key"]),
            "own_share_commitment": self.share_commitment(dealer, dealer, "seed share"),
            "peers": rows,
        }
        confirmed = signed_part_digest(self.setup.messages[dealer]["S2"])
        return self.envelope(dealer, "R1 shares", self.shares_context, confirmed, body)

    def masked(self, name: str, vector: Sequence[int]) -> list[int]:
        """The vector, plus the own stream, plus or minus one stream for every other member of U1."""
        facts = {"round": self.context, "vector": 0}
        streams = [(1, keystream(derive(self.dealers[name]["self_seed"], "self mask", facts), len(vector)))]
        for peer in self.peers(name):
            key = derive(self.secret(name, peer, "pair secret"), "pair mask", facts)
            streams.append((1 if name < peer else -1, keystream(key, len(vector))))
        return [(word + sum(sign * stream[i] for sign, stream in streams)) % 2**32 for i, word in enumerate(vector)]

    def envelope(self, name: str, kind: str, context: bytes, previous: bytes, body: Any) -> bytes:
        return envelope(self.setup.given["identity_private_keys"][name], kind, context, name, previous, body)


def signed_part_digest(message: bytes) -> bytes:
    """A message is 0x82, a byte string, and a signature of 2 + 64 bytes."""
    size_bytes = {0x58: 1, 0x59: 2, 0x5A: 4}[message[1]]
    return sha256(message[2 + size_bytes : -66])
