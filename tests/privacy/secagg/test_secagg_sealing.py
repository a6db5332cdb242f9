"""Seals, wraps and commitments bind every word that they are made with."""

import itertools

import pytest

from privacy.cbor import to_cbor
from privacy.errors import HostileInputError
from privacy.secagg.sealing import (
    commit_pair_secret,
    commit_seal_secret,
    commit_secret,
    commit_share,
    matches,
    open_share,
    open_wrap,
    seal_share,
    wrap_pair_secrets,
)

SHARE, KEY, CONTEXT = b"s" * 32, bytes(range(32)), b"c" * 32
SEAL = {"kind": "seed share", "seal_secret": KEY, "dealer": "a", "holder": "b", "context": CONTEXT}


def test_sealed_share_opens_for_its_own_words_only():
    sealed = seal_share(SHARE, **SEAL)
    assert open_share(sealed, **SEAL) == SHARE
    for change in (
        {"kind": "wrap share"},
        {"seal_secret": bytes(32)},
        {"dealer": "c"},
        {"holder": "c"},
        {"dealer": "b", "holder": "a"},
        {"context": b"d" * 32},
    ):
        with pytest.raises(HostileInputError, match="does not open") as caught:
            open_share(sealed, **{**SEAL, **change})
        assert caught.value.party == change.get("dealer", "a")


def test_wrap_opens_for_its_owner_and_round_only():
    secrets = {"b": b"x" * 32, "c": b"y" * 32}
    words = {"wrap_key": KEY, "owner": "a", "context": CONTEXT}
    wrapped = wrap_pair_secrets(secrets, **words)
    assert open_wrap(wrapped, **words) == secrets
    for change in ({"wrap_key": bytes(32)}, {"owner": "b"}, {"context": b"d" * 32}):
        with pytest.raises(HostileInputError, match="do not open"):
            open_wrap(wrapped, **{**words, **change})


@pytest.mark.parametrize("content", [b"\xff", to_cbor([1, 2]), to_cbor({"b": 1, "c": b"short"})])
def test_wrap_of_something_else_yields_no_secret(content, monkeypatch):
    words = {"wrap_key": KEY, "owner": "a", "context": CONTEXT}
    with monkeypatch.context() as patch:
        patch.setattr("privacy.secagg.sealing.to_cbor", lambda value: content if value == {} else to_cbor(value))
        wrapped = wrap_pair_secrets({}, **words)
    try:
        assert open_wrap(wrapped, **words) == {}
    except HostileInputError as error:
        assert error.party == "a"
        assert content == b"\xff"


def test_commitments_differ_in_every_word():
    made = [
        commit_secret(secret, kind=kind, owner=owner, context=context)
        for secret, kind, owner, context in itertools.product(
            (SHARE, KEY), ("self seed", "wrap key"), ("a", "b"), (CONTEXT, KEY)
        )
    ]
    made += [
        commit_share(share, kind=kind, dealer=pair[0], holder=pair[1], context=context)
        for share, kind, pair, context in itertools.product(
            (SHARE, KEY), ("seed share", "wrap share"), ("ab", "ba", "ac"), (CONTEXT, KEY)
        )
    ]
    made += [
        commit_pair_secret(secret, one=pair[0], other=pair[1], context=context)
        for secret, pair, context in itertools.product((SHARE, KEY), ("ab", "ac"), (CONTEXT, KEY))
    ]
    made += [
        commit_seal_secret(secret, one=pair[0], other=pair[1], context=context)
        for secret, pair, context in itertools.product((SHARE, KEY), ("ab", "ac"), (CONTEXT, KEY))
    ]
    assert len(set(made)) == len(made) == 16 + 24 + 8 + 8


def test_both_sides_of_a_pair_make_one_commitment():
    for commit in (commit_pair_secret, commit_seal_secret):
        one = commit(KEY, one="a", other="b", context=CONTEXT)
        assert matches(one, commit(KEY, one="b", other="a", context=CONTEXT))
        assert not matches(one, commit(SHARE, one="b", other="a", context=CONTEXT))
