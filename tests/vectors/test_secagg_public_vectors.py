"""Published vectors for every primitive, through our own calls where these add nothing but labels."""

import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.cbor import to_cbor
from privacy.secagg.identity import Identity
from privacy.streams import SUITE, Keystream, derive_key, little_endian_bytes


def hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, written from sections 2.2 and 2.3 with the standard library only."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    output, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def test_reference_hkdf_matches_rfc_5869_case_1():
    okm = hkdf_sha256(b"\x0b" * 22, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42)
    assert okm.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")


def test_derive_key_is_hkdf_with_suite_label_and_context_as_info():
    secret, context = bytes(range(32)), {"round": 7, "session": b"s" * 16, "name": "north"}
    info = to_cbor([SUITE, "pair key", context])
    expected = hkdf_sha256(secret, salt=b"", info=info, length=32)
    assert derive_key(secret, label="pair key", context=context) == expected


def test_x25519_matches_rfc_7748():
    # Section 5.2, first vector, and section 6.1.
    for scalar, u, expected in (
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
    ):
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(scalar))
        assert private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(u))).hex() == expected


def test_identity_signs_as_rfc_8032_test_1():
    identity = Identity.from_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"), name="north"
    )
    assert identity.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = identity.sign(b"")
    assert signature.hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    Ed25519PublicKey.from_public_bytes(identity.public_key).verify(signature, b"")


def test_aes_256_ctr_matches_nist_sp_800_38a_f_5_5():
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    assert encryptor.update(plaintext).hex() == "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"


def test_keystream_starts_with_the_known_blocks_of_the_zero_key():
    # McGrew and Viega, The Galois/Counter Mode of Operation, test cases 13 and 14: the blocks for counters 0, 1 and 2
    # are H, the tag of the empty message, and the ciphertext of the zero block.
    blocks = little_endian_bytes(Keystream(bytes(32)).words(12)).tobytes().hex()
    assert blocks == (
        "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738bcea7403d4d606b6e074ec5d3baf39d18"
    )


def test_aes_256_gcm_matches_mcgrew_viega_test_case_14():
    sealed = AESGCM(bytes(32)).encrypt(bytes(12), bytes(16), None)
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"


def test_sha_256_matches_fips_180_4_example():
    assert hashlib.sha256(b"abc").hexdigest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_ml_kem_768_agrees_and_rejects_implicitly():
    # FIPS 203, section 6.3: a ciphertext that was changed gives another secret, and no error.
    private = MLKEM768PrivateKey.generate()
    shared, ciphertext = private.public_key().encapsulate()
    assert private.decapsulate(ciphertext) == shared
    assert MLKEM768PrivateKey.from_seed_bytes(private.private_bytes_raw()).decapsulate(ciphertext) == shared
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert private.decapsulate(changed) != shared
    with pytest.raises(ValueError, match=r"."):
        private.decapsulate(ciphertext[:-1])


def test_words_are_little_endian():
    words = Keystream(bytes(32)).words(2)
    assert words.dtype == np.uint32
    assert [hex(word) for word in words.tolist()] == ["0x78c095dc", "0x898940a2"]
