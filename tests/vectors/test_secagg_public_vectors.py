"""Published vectors for hashes, key derivation and encryption, through our own calls where these add only labels."""

import hashlib

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from secagg_from_scratch import expand

from privacy.cbor import to_cbor
from privacy.streams import SUITE, Keystream, _encryptor_at, derive_key, little_endian_bytes

RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        "0b" * 22,
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("secret", "salt", "info", "expected"), RFC_5869)
def test_hkdf_sha256_matches_rfc_5869(secret, salt, info, expected):
    size = len(expected) // 2
    function = HKDF(algorithm=hashes.SHA256(), length=size, salt=bytes.fromhex(salt) or None, info=bytes.fromhex(info))
    assert function.derive(bytes.fromhex(secret)).hex() == expected


def test_the_reimplemented_hkdf_matches_rfc_5869_case_3():
    secret, _, _, expected = RFC_5869[2]
    assert expand(bytes.fromhex(secret), b"").hex() == expected[:64]


def test_derive_key_is_hkdf_with_suite_label_and_context_as_info():
    secret, context = bytes(range(32)), {"round": 7, "session": b"s" * 16, "name": "north"}
    info = to_cbor([SUITE, "pair key", context])
    assert derive_key(secret, label="pair key", context=context) == expand(secret, info)


def test_streams_match_nist_sp_800_38a_f_5_5():
    # Our streams start at counter zero; the vector starts far into one.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int.from_bytes(bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"), "big")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    expected = (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    assert _encryptor_at(key, 4 * counter).update(plaintext).hex() == expected
    # Entered in the middle of a block, the stream goes on with that block.
    assert _encryptor_at(key, 4 * counter + 5).update(plaintext[20:]).hex() == expected[40:]


def test_a_keystream_starts_with_the_known_blocks_of_the_zero_key():
    # McGrew and Viega, The Galois/Counter Mode of Operation, test cases 13 and 14: the blocks for counters 0, 1 and 2
    # are H, the tag of the empty message, and the ciphertext of the zero block.
    blocks = little_endian_bytes(Keystream(bytes(32)).words(12)).tobytes().hex()
    assert blocks == (
        "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738bcea7403d4d606b6e074ec5d3baf39d18"
    )


def test_words_are_little_endian():
    words = Keystream(bytes(32)).words(2)
    assert words.dtype == "uint32"
    assert [hex(word) for word in words.tolist()] == ["0x78c095dc", "0x898940a2"]


GCM_KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
GCM_CASES = [
    # McGrew and Viega, test cases 13 (our nonce of zeros), 14, 15 and 16: key, nonce, plaintext, associated data.
    (bytes(32), bytes(12), "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    (bytes(32), bytes(12), "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
    (
        GCM_KEY,
        bytes.fromhex("cafebabefacedbaddecaf888"),
        (
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
        ),
        "",
        (
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
            "b094dac5d93471bdec1a502270e3cc6c"
        ),
    ),
    (
        GCM_KEY,
        bytes.fromhex("cafebabefacedbaddecaf888"),
        (
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ),
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        (
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
            "76fc6ece0f4e1768cddf8853bb2d551b"
        ),
    ),
]


@pytest.mark.parametrize(("key", "nonce", "plaintext", "associated", "expected"), GCM_CASES)
def test_aes_256_gcm_matches_mcgrew_and_viega(key, nonce, plaintext, associated, expected):
    sealed = AESGCM(key).encrypt(nonce, bytes.fromhex(plaintext), bytes.fromhex(associated))
    assert sealed.hex() == expected


@pytest.mark.parametrize("place", [0, 59, 60, 75])
def test_aes_256_gcm_refuses_one_changed_bit(place):
    key, nonce, _, associated, expected = GCM_CASES[3]
    sealed = bytearray.fromhex(expected)
    sealed[place] ^= 1
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(nonce, bytes(sealed), bytes.fromhex(associated))


def test_sha_256_matches_fips_180_4_examples():
    assert hashlib.sha256(b"abc").hexdigest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
    assert hashlib.sha256(long).hexdigest() == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
