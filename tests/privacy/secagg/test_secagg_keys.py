"""Pair keys, tags, the ratchet, and the streams that come from them."""

import dataclasses
import itertools

import numpy as np
import pytest

from privacy.errors import HostileInputError, MisuseError
from privacy.secagg.key_agreement import (
    MAX_RATCHET_STEPS,
    PairContext,
    SessionKeys,
    confirmation_tag,
    decapsulate_from,
    encapsulate_to,
    first_chain_key,
    pair_secret,
    ratchet,
    seal_secret,
)
from privacy.secagg.masks import apply_masks, pair_mask, pair_sign, remove_masks, self_mask
from privacy.secagg.threshold import default_threshold

KEY, SESSION = bytes(range(32)), b"s" * 32


@pytest.fixture(scope="module")
def pair():
    """The keys of the clients a and b, and the context both derive from them."""
    first, second = SessionKeys.generate(), SessionKeys.generate()
    context = PairContext(
        session=SESSION, first="a", second="b", first_keys=first.advertisement(), second_keys=second.advertisement()
    )
    return first, second, context


def test_both_sides_derive_one_pair_key(pair):
    first, second, context = pair
    key, ciphertext = encapsulate_to(context.second_keys, own=first, context=context)
    assert decapsulate_from(context.first_keys, ciphertext, own=second, context=context) == key


def test_pair_key_binds_session_names_keys_and_ciphertext(pair):
    first, second, context = pair
    key, ciphertext = encapsulate_to(context.second_keys, own=first, context=context)
    other = SessionKeys.generate().advertisement()
    keys = {key}
    for change in (
        {"session": b"t" * 32},
        {"first": "x"},
        {"second": "x"},
        {"first_keys": other},
        {"second_keys": other},
        {"first_keys": dataclasses.replace(context.first_keys, encapsulation_key=other.encapsulation_key)},
    ):
        changed = dataclasses.replace(context, **change)
        keys.add(decapsulate_from(context.first_keys, ciphertext, own=second, context=changed))
    flipped = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    keys.add(decapsulate_from(context.first_keys, flipped, own=second, context=context))
    assert len(keys) == 8


def test_pair_key_needs_both_of_its_secrets(pair):
    _, _, context = pair
    base = {"exchange_secret": b"x" * 32, "encapsulated_secret": b"k" * 32, "ciphertext": b"c"}
    keys = {context.derive(**{**base, name: b"other" * 7}) for name in base} | {context.derive(**base)}
    assert len(keys) == 4


def test_every_pair_key_of_a_session_is_fresh(pair):
    first, _, context = pair
    made = {encapsulate_to(context.second_keys, own=first, context=context)[0] for _ in range(3)}
    assert len(made) == 3


def test_confirmation_tags_differ_by_direction_key_and_session():
    cases = itertools.product((KEY, bytes(32)), ("ab", "ba"), (SESSION, b"t" * 32))
    tags = {confirmation_tag(key, sender=p[0], recipient=p[1], session=session) for key, p, session in cases}
    assert len(tags) == 8


def test_ratchet_composes_and_never_repeats():
    chain = [ratchet(KEY, from_round=0, to_round=number) for number in range(20)]
    assert chain[0] == KEY
    assert len(set(chain)) == 20
    assert ratchet(chain[7], from_round=7, to_round=19) == chain[19]


@pytest.mark.parametrize(("start", "end"), [(5, 4), (0, MAX_RATCHET_STEPS + 1), (1, 2**60)])
def test_ratchet_goes_forward_and_not_endlessly(start, end):
    with pytest.raises(HostileInputError, match="cannot follow"):
        ratchet(KEY, from_round=start, to_round=end)


def test_secrets_of_rounds_and_purposes_are_all_different():
    made = [KEY, first_chain_key(KEY, session=SESSION)]
    for number in (1, 2):
        chain = ratchet(made[1], from_round=0, to_round=number)
        made += [
            chain,
            pair_secret(chain, session=SESSION, round_number=number),
            seal_secret(chain, session=SESSION, round_number=number),
        ]
    assert len(set(made)) == len(made)


def test_streams_of_contexts_indices_secrets_and_roles_are_all_different():
    starts = set()
    for context, index, secret in itertools.product((b"a" * 32, b"b" * 32), (0, 1), (KEY, bytes(32))):
        for role in (self_mask, pair_mask):
            starts.add(role(secret, context=context, vector_index=index).words(4).tobytes())
    assert len(starts) == 16


def test_pair_masks_cancel_and_self_masks_come_off():
    names = ("a", "b", "c")
    secrets_of = {frozenset(p): bytes([i]) * 32 for i, p in enumerate(itertools.combinations(names, 2))}
    total = np.zeros(9, dtype=np.uint32)
    for i, name in enumerate(names):
        total += apply_masks(
            np.full(9, i + 1, dtype=np.uint32),
            name=name,
            self_seed=name.encode() * 32,
            pair_secrets={peer: secrets_of[frozenset((name, peer))] for peer in names if peer != name},
            context=SESSION,
        )
    remove_masks(total, self_seeds=[name.encode() * 32 for name in names], pair_secrets={}, context=SESSION)
    assert total.tolist() == [6] * 9


def test_signs_of_a_pair_are_opposite():
    assert (pair_sign("a", "b"), pair_sign("b", "a")) == (1, -1)
    with pytest.raises(MisuseError, match="no mask with itself"):
        pair_sign("a", "a")


def test_default_threshold_is_the_published_table():
    table = {2: 2, 3: 3, 4: 3, 5: 4, 10: 7, 100: 67}
    assert {n: default_threshold(n) for n in table} == table
    for n in range(2, 200):
        t, colluding = default_threshold(n), (n - 1) // 3
        assert t <= n
        assert 2 * t > n + colluding, "one survivor set must not be answered twice"
    with pytest.raises(MisuseError):
        default_threshold(1)
