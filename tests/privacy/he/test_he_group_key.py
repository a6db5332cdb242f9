"""The group key: what its holders encrypt, decrypt, store and hand over."""

import pickle

import numpy as np
import pytest
from he_world import (
    APPROXIMATE,
    COMMON,
    CONTEXT,
    EXACT,
    decrypted,
    encrypted_sum,
    group_key,
    names,
    random_words,
    residues_of,
)

from privacy.errors import HostileInputError, MisuseError, RangeError
from privacy.he.checks import RoundChecks
from privacy.he.evaluator import CiphertextSum
from privacy.he.key_holder import GroupKey
from privacy.he.layout import message_root
from privacy.he.parameters import MAX_SUM, HeParameters
from privacy.he.seal import open_group_key, seal_group_key
from privacy.merkle import vector_root
from privacy.streams import Keystream, derive_key

PAIR_KEY, SESSION = bytes(range(32)), bytes(32)


@pytest.mark.parametrize("parameters", [EXACT, HeParameters.exact(max_clients=2000), APPROXIMATE, COMMON], ids=str)
def test_every_setting_gives_the_same_integers(parameters):
    key = group_key(parameters)
    vectors = [random_words(9000, max_abs=MAX_SUM // 3, seed=seed) for seed in range(3)]
    found = decrypted(encrypted_sum(vectors, key=key), key=key, length=9000, contributors=3)
    assert (found == np.sum(vectors, axis=0, dtype=np.uint32)).all()


def test_a_restored_key_decrypts_what_the_first_one_encrypted():
    key = group_key()
    restored = GroupKey.from_bytes(key.to_bytes(), parameters=EXACT)
    assert restored.fingerprint == key.fingerprint
    assert restored.to_bytes() == key.to_bytes()
    vectors = [random_words(10, max_abs=100, seed=seed) for seed in range(2)]
    message = encrypted_sum(vectors, key=key)
    assert (decrypted(message, key=restored, length=10, contributors=2) == vectors[0] + vectors[1]).all()
    message = encrypted_sum(vectors, key=restored)
    assert (decrypted(message, key=key, length=10, contributors=2) == vectors[0] + vectors[1]).all()


def test_keys_and_ciphertexts_are_fresh():
    assert group_key(EXACT, 0).fingerprint != group_key(EXACT, 1).fingerprint
    words = np.zeros(5, dtype=np.uint32)
    first, second = (group_key().encrypt(words, contributor="site-000", context=CONTEXT) for _ in range(2))
    assert (residues_of(first, parameters=EXACT) == residues_of(second, parameters=EXACT)).mean() < 1e-3


def test_secrets_stay_out_of_text_and_pickles():
    key = group_key()
    checks = RoundChecks(bytes(32), parameters=EXACT, context=CONTEXT)
    assert repr(key) == f"GroupKey(fingerprint={key.fingerprint.hex()}, <secret>)"
    for secret in (key, key._seal_key, checks):
        assert "<secret>" in repr(secret)
        with pytest.raises(MisuseError, match="pickled"):
            pickle.dumps(secret)


def test_tags_are_the_weighted_sum_plus_pads_modulo_t():
    """Recomputed with whole numbers of any size, from the stated derivations."""
    secret, prime = bytes(range(32)), EXACT.plain_modulus
    checks = RoundChecks(secret, parameters=EXACT, context=CONTEXT)
    values = random_words(4092, max_abs=MAX_SUM, seed=9).view(np.int32)

    def words(label, contributor, count):
        facts = {
            "suite": "secfed-he/1",
            "parameters": EXACT.digest,
            "context": CONTEXT,
            "contributor": contributor,
        }
        return [int(word) for word in Keystream(derive_key(secret, label=label, context=facts)).words(count)]

    weights, pads = words("he check weights", "all", 4 * 4092), words("he check pads", "site-a", 8)
    expected = [
        sum(w * int(x) for w, x in zip(weights[4092 * k : 4092 * (k + 1)], values, strict=True)) + pads[4 + k]
        for k in range(4)
    ]
    found = checks.tags(values.astype(np.int64), checks.pads("site-a", chunks=2)[1])
    assert [int(tag) % prime for tag in found] == [tag % prime for tag in expected]
    assert abs(found).max() <= prime // 2


def test_the_root_covers_header_and_chunks():
    message = group_key().encrypt(np.ones(3, dtype=np.uint32), contributor="site-000", context=CONTEXT)
    assert message_root(message) == vector_root(np.frombuffer(message, dtype="<u4").astype(np.uint32))
    for place in (0, 50, 87, 88, len(message) - 1):
        other = message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]
        assert message_root(other) != message_root(message)


def test_misuse_is_refused():
    key, words = group_key(), np.ones(4, dtype=np.uint32)
    for wrong in (words.astype(np.int32), words.reshape(2, 2), words[:0]):
        with pytest.raises(MisuseError, match="uint32 vector"):
            key.encrypt(wrong, contributor="site-000", context=CONTEXT)
    with pytest.raises(RangeError, match=r"-2\^31"):
        key.encrypt(np.array([2**31], dtype=np.uint32), contributor="site-000", context=CONTEXT)
    with pytest.raises(MisuseError, match="context"):
        key.encrypt(words, contributor="site-000", context=b"")
    message = encrypted_sum([words, words], key=key)
    for contributors in (names(1), ["site-000", "site-000"], names(101)):
        with pytest.raises(MisuseError, match="different names"):
            key.decrypt_sum(message, length=4, contributors=contributors, context=CONTEXT)
    with pytest.raises(MisuseError, match="max_abs"):
        decrypted(message, key=key, length=4, contributors=2, max_abs=2**31)
    with pytest.raises(MisuseError, match="fingerprint"):
        CiphertextSum.create(parameters=EXACT, fingerprint=b"short", length=4)


def sealed():
    return seal_group_key(group_key(), pair_key=PAIR_KEY, session=SESSION, dealer="site-a", holder="site-b")


def opening(**changes):
    return {
        "pair_key": PAIR_KEY,
        "session": SESSION,
        "dealer": "site-a",
        "holder": "site-b",
        "parameters": EXACT,
        "fingerprint": group_key().fingerprint,
        **changes,
    }


def test_the_holder_opens_what_the_dealer_sealed():
    assert open_group_key(sealed(), **opening()).to_bytes() == group_key().to_bytes()
    assert sealed() == sealed()


@pytest.mark.parametrize(
    "changes",
    [
        {"pair_key": bytes(32)},
        {"session": bytes([1]) * 32},
        {"dealer": "site-b", "holder": "site-a"},
        {"holder": "site-c"},
        {"parameters": HeParameters.exact(max_clients=99)},
        {"fingerprint": bytes(32)},
    ],
    ids="-".join,
)
def test_a_seal_opens_for_its_own_facts_only(changes):
    with pytest.raises(HostileInputError, match="does not open") as caught:
        open_group_key(sealed(), **opening(**changes))
    assert caught.value.party == changes.get("dealer", "site-a")


def test_a_dealer_cannot_seal_another_key_under_the_agreed_fingerprint():
    class Liar:
        parameters, fingerprint = EXACT, group_key().fingerprint
        to_bytes = group_key(EXACT, 1).to_bytes

    message = seal_group_key(Liar(), pair_key=PAIR_KEY, session=SESSION, dealer="site-a", holder="site-b")
    with pytest.raises(HostileInputError, match="another group key"):
        open_group_key(message, **opening())
