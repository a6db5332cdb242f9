"""Encrypted inputs of the wrong kind, properly signed: refused by name before anything is added, and the rest counts.

A ciphertext can be truncated, of another scheme, setting, key, length or format, or one too many. The aggregator meets
it in `EncryptedRound`, sites meet sums of that kind in `GroupMember.accept`, and a whole federation goes on without it.
"""

import dataclasses
import json

import numpy as np
import pytest
import tenseal
from he_group_world import LENGTH, GroupWorld, with_announcement
from he_world import with_header_of
from small_federation import config, digest, journal, provision, train

from privacy.errors import HostileInputError, MisuseError
from privacy.he import evaluator, key_holder
from privacy.he.group_round import EncryptedRound
from privacy.he.key_holder import GroupKey
from privacy.he.layout import HEADER_BYTES, message_root
from privacy.he.messages import EncryptedInput
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.envelope import open_envelope

CHUNK_BYTES = HeParameters.exact(max_clients=4).chunk_bytes
SIZE = HEADER_BYTES + CHUNK_BYTES


@pytest.fixture(scope="module")
def ready():
    return GroupWorld(count=4)


@pytest.fixture
def world(ready):
    return ready.copy()


class Round:
    """A round of a, b, c and d up to their honest uploads, none of which has reached the aggregator."""

    def __init__(self, world):
        self.world, self.round = world, world.announce()
        self.context = EncryptedAnnouncement.from_bytes(self.round.announcement).context
        self.key = world.members["a"]._open_key()
        self.headers, self.ciphertexts = {}, {}
        for name in world.names:
            world.accept(name, self.round.announcement)
            self.headers[name], self.ciphertexts[name] = world.members[name].encrypt(world.vectors[name])

    def signed(self, ciphertext):
        """The header with which d vouches for any bytes."""
        root = message_root(ciphertext)
        return self.world.forge(self.headers["d"], EncryptedInput, self.context, root=root, length=len(ciphertext))

    def body(self, name):
        return open_envelope(self.headers[name], EncryptedInput, context=self.context, roster=self.world.roster).body

    def add(self, name):
        self.round.add_input(self.headers[name], self.ciphertexts[name])

    def encrypted(self, key, length=LENGTH):
        return key.encrypt(np.ones(length, dtype=np.uint32), contributor="d", context=self.context)


@pytest.fixture
def begun(world):
    return Round(world)


def other_key(parameters=None):
    return GroupKey.generate(parameters or HeParameters.exact(max_clients=4))


def of_the_library(begun):
    """A ciphertext under the very same setting, as TenSEAL itself would send it."""
    setting = begun.world.parameters
    context = tenseal.context(
        tenseal.SCHEME_TYPE.BFV,
        setting.ring_degree,
        setting.plain_modulus,
        list(setting.modulus_bits),
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    message = tenseal.bfv_vector(context, [1] * LENGTH).serialize()
    return message + bytes(-len(message) % 4)


def with_residue(begun, value):
    data = begun.ciphertexts["d"]
    return data[:HEADER_BYTES] + value.to_bytes(6, "little") + data[HEADER_BYTES + 6 :]


BAD = {
    "header only": (lambda begun: begun.ciphertexts["d"][:HEADER_BYTES] + bytes(4), "a message has 92 bytes"),
    "truncated": (lambda begun: begun.ciphertexts["d"][:-4], f"a message has {SIZE - 4} bytes"),
    "oversized": (lambda begun: begun.ciphertexts["d"] + bytes(4), f"a message has {SIZE + 4} bytes"),
    "a chunk too many": (lambda begun: begun.ciphertexts["d"] + bytes(CHUNK_BYTES), "a message has 98392 bytes"),
    "two messages": (lambda begun: 2 * begun.ciphertexts["d"], f"a message has {2 * SIZE} bytes"),
    "another length": (lambda begun: begun.encrypted(begun.key, LENGTH + 1), f"says length {LENGTH + 1}"),
    "a longer vector": (lambda begun: begun.encrypted(begun.key, 5000), "a message has 98392 bytes"),
    "another key": (lambda begun: begun.encrypted(other_key()), "names another group key"),
    "for more clients": (lambda begun: begun.encrypted(other_key(HeParameters.exact(max_clients=5))), "under other"),
    "a wider modulus": (
        lambda begun: begun.encrypted(other_key(HeParameters.exact(max_clients=2000))),
        "a message has 57432 bytes",
    ),
    "CKKS": (lambda begun: begun.encrypted(other_key(HeParameters.approximate(max_clients=4))), "57432 bytes"),
    "CKKS cut to size": (
        lambda begun: begun.encrypted(other_key(HeParameters.approximate(max_clients=4)))[:SIZE],
        "under other parameters",
    ),
    "a sum of two": (
        lambda begun: with_header_of(begun.ciphertexts["d"], key=begun.key, length=LENGTH, contributors=2),
        "holds 2 vectors, expected 1",
    ),
    "no vector inside": (
        lambda begun: with_header_of(begun.ciphertexts["d"], key=begun.key, length=LENGTH, contributors=0),
        "holds 0 vectors, expected 1",
    ),
    "the library's own format": (of_the_library, "a message has"),
    "the integers themselves": (lambda begun: begun.world.vectors["d"].tobytes() * 4, "a message has 96 bytes"),
    "all zeros": (lambda begun: bytes(SIZE), "does not start as"),
    "all ones behind a header": (
        lambda begun: begun.ciphertexts["d"][:HEADER_BYTES] + b"\xff" * CHUNK_BYTES,
        "not below its prime",
    ),
    "a residue at the prime": (
        lambda begun: with_residue(begun, begun.world.parameters.moduli[0]),
        "not below its prime",
    ),
}


@pytest.fixture
def additions(monkeypatch):
    """How often ciphertexts were added."""
    calls = []
    honest = evaluator._add_block

    def counted(*args, **kwargs):
        calls.append(args)
        return honest(*args, **kwargs)

    monkeypatch.setattr(evaluator, "_add_block", counted)
    return calls


@pytest.mark.parametrize("what", BAD)
def test_a_signed_ciphertext_of_the_wrong_kind_is_refused_before_any_addition_and_the_rest_counts(
    begun, additions, what
):
    make, reason = BAD[what]
    begun.add("a")
    begun.add("b")
    before, held = len(additions), bytes(begun.round._sum._sum)
    bad = make(begun)
    with pytest.raises(HostileInputError, match=reason) as found:
        begun.round.add_input(begun.signed(bad), bad)
    assert found.value.party == "d"
    assert len(additions) == before
    assert begun.round._sum._sum == held
    assert begun.round.uploaded == ("a", "b")
    assert set(begun.round.excluded) == {"d"}
    begun.add("c")
    published = begun.world.before = begun.round.finish()
    assert published.contributors == ("a", "b", "c")
    assert published.dropped == ()
    assert reason in published.excluded["d"]
    assert begun.world.accept("a", begun.world.announce().announcement).tolist() == begun.world.total("abc")


def test_a_first_input_of_the_wrong_kind_does_not_decide_what_the_others_must_be(begun, additions):
    bad = begun.encrypted(other_key())
    with pytest.raises(HostileInputError, match="names another group key"):
        begun.round.add_input(begun.signed(bad), bad)
    for name in "abc":
        begun.add(name)
    assert len(additions) == 2
    assert begun.round.finish().contributors == ("a", "b", "c")


def test_a_refused_site_may_still_send_what_it_should_have_sent(begun):
    bad = begun.ciphertexts["d"][:-4]
    for _ in range(3):
        with pytest.raises(HostileInputError, match="a message has"):
            begun.round.add_input(begun.signed(bad), bad)
    for name in "abcd":
        begun.add(name)
    begun.world.before = begun.round.finish()
    assert begun.world.accept("d", begun.world.announce().announcement).tolist() == begun.world.total("abcd")


def test_one_ciphertext_more_than_the_parameters_allow_for_is_refused_and_the_sum_of_the_others_is_right(begun):
    """The run's setting is for three sites, and a careless aggregator invites four."""
    few = HeParameters.exact(max_clients=3)
    key = GroupKey.generate(few)
    announced = dataclasses.replace(
        EncryptedAnnouncement.from_bytes(begun.round.announcement), parameters=few.digest, fingerprint=key.fingerprint
    )
    round_ = EncryptedRound(announced, roster=begun.world.roster, parameters=few, follows=bytes(32))
    for name in begun.world.names:
        ciphertext = key.encrypt(begun.world.vectors[name], contributor=name, context=announced.context)
        body = dataclasses.replace(begun.body(name), root=message_root(ciphertext), length=len(ciphertext))
        header = begun.world.pairs.sign(body, announced.context, sender=name, previous=bytes(32))
        if name == "d":
            with pytest.raises(HostileInputError, match="after the 3 that may be added") as found:
                round_.add_input(header, ciphertext)
            assert found.value.party == "d"
        else:
            round_.add_input(header, ciphertext)
    published = round_.finish()
    assert published.contributors == ("a", "b", "c")
    found = key.decrypt_sum(published.total, length=LENGTH, contributors=("a", "b", "c"), context=announced.context)
    assert found.tolist() == begun.world.total("abc")


def test_a_key_holder_refuses_to_open_a_sum_over_more_than_the_parameters_allow_for():
    key = GroupKey.generate(HeParameters.exact(max_clients=2))
    with pytest.raises(MisuseError, match="contributors must be 2 to 2 different names"):
        key.decrypt_sum(b"", length=LENGTH, contributors=("a", "b", "c"), context=b"round")
    with pytest.raises(MisuseError, match="contributors must be 2 to 2 different names"):
        key.decrypt_sum(b"", length=LENGTH, contributors=("a",), context=b"round")


BAD_SUMS = {
    "truncated": (lambda begun, total: total[:-4], f"a message has {SIZE - 4} bytes"),
    "a chunk too many": (lambda begun, total: total + bytes(CHUNK_BYTES), "a message has 98392 bytes"),
    "another key": (lambda begun, total: begun.encrypted(other_key()), "names another group key"),
    "other parameters": (
        lambda begun, total: begun.encrypted(other_key(HeParameters.exact(max_clients=5))),
        "under other parameters",
    ),
    "CKKS": (lambda begun, total: begun.encrypted(other_key(HeParameters.approximate(max_clients=4))), "57432 bytes"),
    "the library's own format": (lambda begun, total: of_the_library(begun), "a message has"),
    "one upload": (lambda begun, total: begun.ciphertexts["a"], "holds 1 vectors, expected 4"),
    "a residue at the prime": (
        lambda begun, total: (
            total[:HEADER_BYTES] + begun.world.parameters.moduli[0].to_bytes(6, "little") + total[HEADER_BYTES + 6 :]
        ),
        "not below its prime",
    ),
}


@pytest.mark.parametrize("what", BAD_SUMS)
def test_a_sum_of_the_wrong_kind_is_refused_before_it_is_decrypted_and_the_right_one_still_counts(
    begun, monkeypatch, what
):
    """The aggregator announces these bytes with their own root, beside the honest headers of all four."""
    make, reason = BAD_SUMS[what]
    for name in "abcd":
        begun.add(name)
    honest = begun.round.finish()
    total = make(begun, honest.total)
    world = begun.world
    world.before = dataclasses.replace(honest, total=total, root=message_root(total))
    announcement = world.announce().announcement
    opened = []
    monkeypatch.setattr(key_holder.GroupKey, "_open_chunk", lambda *_, **__: opened.append(1))
    for name in world.names:
        state = world.members[name]._state
        with pytest.raises(HostileInputError, match=reason):
            world.accept(name, announcement)
        assert dataclasses.replace(world.members[name]._state, failed_sums=0) == dataclasses.replace(
            state, failed_sums=0
        )
    assert opened == []
    monkeypatch.undo()
    world.before = honest
    announcement = world.announce().announcement
    assert {name: world.accept(name, announcement).tolist() for name in world.names} == dict.fromkeys(
        world.names, world.total("abcd")
    )


def test_a_site_that_encrypts_under_a_wrong_key_spoils_one_sum_and_the_round_runs_again_without_it(begun):
    """It writes the right fingerprint above it: the aggregator cannot tell, every key holder can."""
    world = begun.world
    bad = with_header_of(begun.encrypted(other_key()), key=begun.key, length=LENGTH, contributors=1)
    for name in "abc":
        begun.add(name)
    begun.round.add_input(begun.signed(bad), bad)
    world.before = begun.round.finish()
    announcement = world.announce().announcement
    for name in "abc":
        with pytest.raises(HostileInputError, match="not the sum of these contributors"):
            world.accept(name, announcement)
    world.before = None
    again = world.announce(invited="abc")
    for name in "abc":
        assert world.accept(name, again.announcement) is None
        world.upload(again, name)
    world.before = again.finish()
    assert world.accept("a", world.announce(invited="abc").announcement).tolist() == world.total("abc")


def test_an_announcement_for_another_key_or_setting_makes_no_site_encrypt(world):
    round_ = world.announce()
    changed = [
        {"fingerprint": other_key().fingerprint},
        {"parameters": HeParameters.approximate(max_clients=4).digest},
        {"parameters": HeParameters.exact(max_clients=5).digest},
    ]
    for changes in changed:
        for name in world.names:
            stored = world.members[name].to_bytes()
            with pytest.raises(HostileInputError, match=r"another group key|other parameters of encryption"):
                world.accept(name, with_announcement(round_.announcement, **changes))
            assert world.members[name].to_bytes() == stored
    for name in world.names:
        world.accept(name, round_.announcement)
        world.upload(round_, name)
    assert round_.finish().contributors == world.names


def cut(attachment):
    return attachment[:-4]


def flipped(attachment):
    return attachment[:-1] + bytes([attachment[-1] ^ 1])


def made_up(attachment):
    return bytes(len(attachment))


@pytest.mark.parametrize("spoil", [cut, flipped, made_up, None], ids=["truncated", "changed", "made up", "missing"])
def test_a_federation_goes_on_without_a_site_whose_ciphertext_is_no_good(scans, tmp_path, spoil):
    """What is refused is refused for one round: the site is in the next one, and all end on one model."""
    spoiled = []

    def intercept(node, message):
        if node == 1003 and message.metadata.message_type == "train" and not spoiled:
            spoiled.append(node)
            if spoil is None:
                del message.content["attachment"]
            else:
                array = message.content["attachment"]["bytes"]
                array.data = spoil(array.data)
                array.shape = (len(array.data),)
        return message

    job = provision(tmp_path / "run", config(scans, protection={"mode": "encrypted"}))
    train(job, intercept_reply=intercept)
    rounds = [entry for entry in journal(job) if entry["event"] == "round"]
    assert [len(entry["survivors"]) for entry in rounds] == [3, 4]
    assert "ciphertext" in rounds[0]["lost"]["mr-b"]
    assert (
        digest(job)
        == json.loads((job.site_folders[3] / "books" / "rounds.jsonl").read_text().splitlines()[-1])["model"]
    )
