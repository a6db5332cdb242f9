"""Encrypted rounds under an aggregator that lies about sums and headers, and under sites that cheat."""

import dataclasses

import numpy as np
import pytest
from he_group_world import LENGTH, GroupWorld, with_announcement, with_previous

from privacy.entropy import SYSTEM_ENTROPY
from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.he.evaluator import CiphertextSum
from privacy.he.group_server import PublishedSum
from privacy.he.layout import message_root
from privacy.he.member import MAX_FAILED_SUMS
from privacy.he.messages import EncryptedInput, FinalModel, SnapshotHeader, group_context
from privacy.he.model_state import model_tag, open_snapshot, seal_snapshot
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.envelope import digest_of_set, open_envelope


class Uploads:
    """One round up to its uploads: the headers and ciphertexts of all sites, for any aggregator to add as it likes."""

    def __init__(self, world, *, stray=()):
        self.world, self.round = world, world.announce()
        self.announced = EncryptedAnnouncement.from_bytes(self.round.announcement)
        self.headers, self.ciphertexts = {}, {}
        for name in world.names:
            world.accept(name, self.round.announcement)
            if name in stray:
                go_astray(world, name)
            self.headers[name], self.ciphertexts[name] = world.members[name].encrypt(world.vectors[name])

    def publish(self, names, **ciphertexts):
        """What an aggregator may publish as the sum over these sites, with other ciphertexts in place of theirs."""
        chosen = {**self.ciphertexts, **ciphertexts}
        total = CiphertextSum.create(
            parameters=self.world.parameters, fingerprint=self.announced.fingerprint, length=LENGTH
        )
        digests = {}
        for name in names:
            total.add(chosen[name], contributor=name)
            found = open_envelope(
                self.headers[name], EncryptedInput, context=self.announced.context, roster=self.world.roster
            )
            digests[name] = found.digest
        added = total.total()
        return PublishedSum(
            announcement=self.round.announcement,
            headers=tuple(self.headers[name] for name in names),
            inputs_digest=digest_of_set("E1", context=self.announced.context, digests=digests),
            total=added,
            root=message_root(added),
            contributors=tuple(names),
            dropped=(),
            excluded={},
        )


@pytest.fixture(scope="module")
def ready():
    return GroupWorld(count=4, max_vector_length=100)


@pytest.fixture
def world(ready):
    return ready.copy()


@pytest.fixture
def uploads(world):
    return Uploads(world)


def go_astray(world, name):
    """The site's step gave another model than everybody else's."""
    member = world.members[name]
    world.models[name] = b"\x0f" * 32
    member._state = dataclasses.replace(member._state, model_hash=world.models[name])


def refused(world, name, announcement, *, match, error=HostileInputError, previous=None, total=None, counts=False):
    """The site refuses the announcement and stands where it stood, but for the count of sums that did not decrypt."""
    member, before = world.members[name], world.before
    stored = member._state
    if before is not None:
        previous = before.previous_round if previous is None else previous
        total = before.total if total is None else total
    with pytest.raises(error, match=match) as found:
        member.accept(announcement, previous=previous, total=total)
    assert member._state == dataclasses.replace(stored, failed_sums=stored.failed_sums + counts)
    return found.value


DOWNGRADES = {
    "parameters": ({"parameters": HeParameters.approximate(max_clients=4).digest}, "other parameters of encryption"),
    "key": ({"fingerprint": b"x" * 32}, "another group key"),
    "run": ({"run": b"x" * 32}, "another run"),
    "roster": ({"roster_hash": b"x" * 32}, "another roster"),
    "session": ({"session": b"x" * 32}, "another session"),
    "minimum": ({"minimum": 2}, r"minimum = 2 of 4 invited sites, this site accepts 3"),
    "cohort": ({"invited": ("b", "c", "d")}, "do not include 'a'"),
    "stranger": ({"invited": ("a", "b", "zz")}, "zz"),
    "length": ({"vector_length": 101}, "exceeds this site's limit of 100"),
    "first with sum": ({"sum_root": b"x" * 32}, "comes with 0 contributors"),
    "first as end": ({"step": "end", "vector_length": 0}, "first round has none and is no end"),
}


@pytest.mark.parametrize("what", DOWNGRADES)
def test_an_announcement_below_what_the_site_insists_on_is_refused(world, what):
    changes, match = DOWNGRADES[what]
    refused(world, "a", with_announcement(world.announce().announcement, **changes), match=match)


def test_a_cohort_below_the_site_s_floor_is_refused():
    world = GroupWorld(count=4, min_cohort=4)
    small = with_announcement(world.announce().announcement, invited=("a", "b", "c"), minimum=3)
    refused(world, "a", small, match="minimum = 3 of 3 invited sites, this site accepts 4")


def test_sites_that_did_not_confirm_the_key_do_not_count_towards_the_minimum():
    world = GroupWorld(count=4, ready=False)
    world.agree_on_key("abc")
    everybody = with_announcement(world.announce().announcement, invited=("a", "b", "c", "d"), minimum=4)
    refused(world, "a", everybody, match="3 invited sites confirmed", error=TooFewSurvivorsError)


def test_more_sites_than_the_parameters_allow_for_are_refused(world):
    world.members["a"]._parameters = dataclasses.replace(world.parameters, max_clients=3)
    changed = with_announcement(world.announce().announcement, parameters=world.members["a"]._parameters.digest)
    refused(world, "a", changed, match="4 sites are invited, the parameters allow for 3")


def test_a_round_number_never_comes_again(world, uploads):
    refused(world, "a", uploads.round.announcement, match="only later rounds are accepted")
    other = with_announcement(uploads.round.announcement, plan_hash=b"q" * 32)
    refused(world, "a", other, match="only later rounds are accepted")


def test_one_upload_per_round_whatever_is_asked(world, uploads):
    for _ in range(2):
        with pytest.raises(HostileInputError, match="legal in STEPPED"):
            world.members["a"].encrypt(world.vectors["a"])
    world.members["a"].withdraw()
    refused(world, "a", uploads.round.announcement, match="only later rounds are accepted")


def test_two_sums_of_one_round_split_the_sites_and_the_smaller_part_goes_nowhere(world, uploads):
    """a, b and c are shown one sum, d another: d's next word is about another announcement, which everybody sees."""
    shown = uploads.publish("abc")
    world.before = uploads.publish("bcd")
    for_d = world.announce()
    world.accept("d", for_d.announcement)
    world.before = shown
    # The same number: an aggregator that lies may use it twice.
    world.last_round -= 1
    world.server._last_round -= 1
    for_others = world.announce()
    for name in "abc":
        world.accept(name, for_others.announcement)
        world.upload(for_others, name)
    header, ciphertext = world.members["d"].encrypt(world.vectors["d"])
    with pytest.raises(HostileInputError, match="another session, round or announcement") as found:
        for_others.add_input(header, ciphertext)
    assert found.value.party == "d"
    lying = dataclasses.replace(for_others.finish(), contributors=tuple("abcd"))
    lying = dataclasses.replace(lying, headers=(*lying.headers, header))
    world.before = lying
    refused(world, "a", world.announce().announcement, match="d: the message belongs to another session")


def test_a_site_on_another_model_is_named_by_the_aggregator_and_the_round_goes_on(world):
    uploads = Uploads(world, stray="d")
    for name in "abc":
        uploads.round.add_input(uploads.headers[name], uploads.ciphertexts[name])
    with pytest.raises(HostileInputError, match="stands on another model") as found:
        uploads.round.add_input(uploads.headers["d"], uploads.ciphertexts["d"])
    assert found.value.party == "d"
    assert uploads.round.models == (("a", "b", "c"), ("d",))
    world.before = uploads.round.finish()
    assert world.before.contributors == ("a", "b", "c")
    following = world.announce()
    world.members["d"].withdraw()
    refused(world, "d", following.announcement, match=r"\['a', 'b', 'c'\] stand on another model than this site")
    world.adopt("d", *world.snapshot("a"))
    assert world.accept("d", following.announcement).tolist() == world.total("abc")


def test_if_the_stray_site_comes_first_the_round_fails_and_says_whom_to_invite(world):
    uploads = Uploads(world, stray="a")
    uploads.round.add_input(uploads.headers["a"], uploads.ciphertexts["a"])
    for name in "bcd":
        with pytest.raises(HostileInputError, match="stands on another model"):
            uploads.round.add_input(uploads.headers[name], uploads.ciphertexts[name])
    assert uploads.round.models == (("b", "c", "d"), ("a",))
    with pytest.raises(TooFewSurvivorsError, match="1 sites uploaded on one model"):
        uploads.round.finish()
    again = world.announce(invited=uploads.round.models[0])
    for name in "bcd":
        world.accept(name, again.announcement)
        world.upload(again, name)
    assert again.finish().contributors == ("b", "c", "d")


def test_a_sum_over_two_models_is_refused_by_every_site_and_the_odd_one_is_named(world):
    uploads = Uploads(world, stray="d")
    world.before = uploads.publish("abcd")
    following = world.announce()
    for name in world.names:
        error = refused(world, name, following.announcement, match="stand on different models")
        assert error.party == "d"


def test_a_sum_below_its_minimum_is_refused_though_it_decrypts(world, uploads):
    world.before = uploads.publish("ab")
    refused(
        world,
        "a",
        world.announce().announcement,
        match="2 sites are in the sum, at least 3",
        error=TooFewSurvivorsError,
    )


def test_headers_that_are_not_those_of_the_announced_round_are_refused(world, uploads):
    honest = world.before = uploads.publish("abcd")
    announcement = world.announce().announcement
    headers = honest.headers
    forged = world.forge(headers[3], EncryptedInput, uploads.announced.context, root=b"x" * 32)
    damaged = headers[3][:-1] + bytes([headers[3][-1] ^ 1])
    for shown, match in (
        (headers[:3], r"headers came of \['a', 'b', 'c'\]"),
        ((*headers, headers[0]), "two headers of one round"),
        ((*headers[:3], damaged), "d: the signature"),
        ((*headers[:3], b"junk"), "end inside a value"),
    ):
        refused(world, "a", announcement, previous=with_previous(honest, headers=shown), match=match)
    # Another header of d, properly signed: d can tell.
    changed = with_previous(honest, headers=(*headers[:3], forged))
    refused(world, "d", announcement, previous=changed, match="own upload")
    other = with_announcement(uploads.round.announcement, plan_hash=b"q" * 32)
    refused(
        world, "a", announcement, previous=with_previous(honest, announcement=other), match="not the one that the ann"
    )
    refused(world, "a", announcement, previous=b"junk", match="end inside a value")
    member = world.members["a"]
    with pytest.raises(HostileInputError, match="headers of the sum before did not come"):
        member.accept(announcement)
    with pytest.raises(HostileInputError, match="the sum to step on did not come"):
        member.accept(announcement, previous=honest.previous_round)


PASTS = {
    "an end": ({"step": "end", "vector_length": 0, "server_round": 2, "contributors": ("a", "b")}, "not the one that"),
    "a later round": ({"round_number": 9}, "server round 1 in round 9 cannot come before server round 2 in round 2"),
    "a lower minimum": ({"minimum": 2}, "minimum = 2 of 4 invited sites, this site accepts 3"),
    "other parameters": ({"parameters": b"x" * 32}, "other parameters of encryption"),
    "another run": ({"run": b"x" * 32}, "another run"),
    "too long a vector": ({"vector_length": 101}, "exceeds this site's limit"),
}


@pytest.mark.parametrize("what", PASTS)
def test_a_round_before_that_the_site_would_not_have_joined_is_refused(world, uploads, what):
    """The aggregator invents the round that the sum is said to come from."""
    world.before = uploads.publish("abcd")
    changes, match = PASTS[what]
    if what == "an end":
        changes = {**changes, "round_number": 2, "previous_round": b"x" * 32, "sum_root": b"x" * 32}
    past = with_announcement(uploads.round.announcement, **changes)
    context = EncryptedAnnouncement.from_bytes(past).context
    announcement = with_announcement(world.announce().announcement, previous_round=context)
    refused(world, "a", announcement, previous=with_previous(world.before, announcement=past), match=match)


def test_a_sum_that_is_not_the_one_of_the_server_round_before_is_refused(world, uploads):
    world.before = uploads.publish("abcd")
    world.last_round += 1
    skipping = with_announcement(world.announce().announcement, server_round=3)
    refused(world, "a", skipping, match="server round 1 in round 1 cannot come before server round 3")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sum_root": b"x" * 32}, "stepped on another sum than their round announced"),
        ({"previous": b"x" * 32}, "stand on another model than this site"),
    ],
    ids=["another sum", "other headers"],
)
def test_inputs_after_another_history_than_this_site_s_are_refused(world, uploads, changes, match):
    """All others agree with one another; this site's own upload came too late, so that it has only its history."""
    context = uploads.announced.context
    for name in "abc":
        uploads.headers[name] = world.forge(uploads.headers[name], EncryptedInput, context, **changes)
    world.before = uploads.publish("abc")
    world.members["d"].withdraw()
    refused(world, "d", world.announce().announcement, match=match)


def test_a_site_s_own_upload_cannot_be_left_out_unless_it_withdraws(world, uploads):
    world.before = uploads.publish("abc")
    following = world.announce()
    refused(world, "d", following.announcement, match="own upload was left out")
    world.members["d"].withdraw()
    assert world.accept("d", following.announcement).tolist() == world.total("abc")


def test_an_uninvited_site_s_input_is_refused_by_the_aggregator_and_by_sites(world):
    round_ = world.announce(invited="abc")
    refused(world, "d", round_.announcement, match="do not include 'd'")
    context = EncryptedAnnouncement.from_bytes(round_.announcement).context
    headers = {}
    for name in "abc":
        world.accept(name, round_.announcement)
        headers[name], _ = world.upload(round_, name)
    key = world.members["d"]._open_key()
    ciphertext = key.encrypt(world.vectors["d"], contributor="d", context=context)
    intruding = world.forge(
        headers["a"], EncryptedInput, context, sender="d", root=message_root(ciphertext), length=len(ciphertext)
    )
    with pytest.raises(HostileInputError, match="not invited") as found:
        round_.add_input(intruding, ciphertext)
    assert found.value.party == "d"
    honest = round_.finish()
    world.before = dataclasses.replace(honest, headers=(*honest.headers, intruding), contributors=("a", "b", "c", "d"))
    refused(world, "a", world.announce().announcement, match="d: is in the sum, but was not invited")


def test_a_sum_of_other_bytes_than_announced_is_refused_before_it_is_decrypted(world, uploads):
    world.before = uploads.publish("abcd")
    announcement = world.announce().announcement
    for total in (uploads.publish("abc").total, b"", world.before.total[:-4], world.before.total + b"\0" * 4):
        refused(world, "a", announcement, total=total, match="not the one that was announced|no encrypted vector")


def spoiled(world, uploads, *, kind):
    """Sums that an aggregator announces with their own roots, beside the honest headers of all four."""
    key = world.members["a"]._open_key()
    if kind == "a site left out":
        return uploads.publish("abc")
    if kind == "another round's ciphertext":
        again = Uploads(world)
        return uploads.publish("abcd", d=again.ciphertexts["d"])
    if kind == "another site's ciphertext":
        return uploads.publish("abcd", d=uploads.ciphertexts["c"])
    if kind == "one update four times":
        return uploads.publish(
            "abcd", a=uploads.ciphertexts["d"], b=uploads.ciphertexts["d"], c=uploads.ciphertexts["d"]
        )
    if kind == "bytes changed":
        honest = uploads.publish("abcd")
        changed = bytearray(honest.total)
        changed[-100] ^= 1
        return dataclasses.replace(honest, total=bytes(changed), root=message_root(bytes(changed)))
    stranger = key.encrypt(np.full(LENGTH, 7, np.uint32), contributor="d", context=b"no round at all")
    return uploads.publish("abcd", d=stranger)


@pytest.mark.parametrize(
    "kind",
    [
        "a site left out",
        "another round's ciphertext",
        "another site's ciphertext",
        "one update four times",
        "bytes changed",
        "no round's ciphertext",
    ],
)
def test_a_sum_of_anything_but_the_signed_inputs_of_all_contributors_is_refused(world, uploads, kind):
    honest = uploads.publish("abcd")
    found = spoiled(world, uploads, kind=kind)
    world.before = dataclasses.replace(honest, total=found.total, root=found.root)
    for name in world.names:
        # Where the test made a second round, the sites' last uploads are of that one.
        world.members[name].withdraw()
        refused(world, name, world.announce().announcement, match="sum of|holds 3 vectors", counts=True)


def test_a_spoiled_sum_ends_with_the_round_being_run_again(world, uploads):
    honest = uploads.publish("abcd")
    bad = uploads.publish("abcd", d=uploads.ciphertexts["c"])
    world.before = dataclasses.replace(honest, total=bad.total, root=bad.root)
    announcement = world.announce().announcement
    for name in world.names:
        refused(world, name, announcement, match="not the sum of these contributors", counts=True)
    world.before = None
    published, _ = world.play()
    assert published.contributors == world.names
    assert world.play()[1]["a"].tolist() == world.total("abcd")


def test_a_site_looks_at_no_more_sums_once_too_many_did_not_decrypt(world, uploads):
    honest = uploads.publish("abcd")
    bad = uploads.publish("abcd", d=uploads.ciphertexts["c"])
    world.before = dataclasses.replace(honest, total=bad.total, root=bad.root)
    for _ in range(MAX_FAILED_SUMS):
        refused(world, "a", world.announce().announcement, match="not the sum of these", counts=True)
        world.restore("a")
    world.before = honest
    refused(world, "a", world.announce().announcement, match=f"{MAX_FAILED_SUMS} sums of this run did not decrypt")
    assert world.accept("b", world.announce().announcement).tolist() == world.total("abcd")


def test_a_second_sum_of_a_round_that_was_stepped_on_is_refused(world, uploads):
    world.before = uploads.publish("abcd")
    world.accept("a", world.announce().announcement)
    world.before = uploads.publish("abc")
    refused(world, "a", world.announce().announcement, match="another sum of server round 1")


def test_a_server_round_of_the_past_is_refused(world):
    world.play()
    world.play()
    world.before = None
    refused(world, "a", world.announce().announcement, match="has completed 1")


def test_the_aggregator_refuses_each_bad_input_alone_and_names_its_sender(world):
    uploads = Uploads(world)
    round_, headers, ciphertexts = uploads.round, uploads.headers, uploads.ciphertexts
    context = uploads.announced.context
    round_.add_input(headers["a"], ciphertexts["a"])
    cut = ciphertexts["b"][:-8]
    copied = world.forge(headers["d"], EncryptedInput, context, root=message_root(ciphertexts["a"]))
    truncated = world.forge(headers["b"], EncryptedInput, context, root=message_root(cut), length=len(cut))
    odd = ciphertexts["b"][:-3]
    of_no_size = world.forge(headers["b"], EncryptedInput, context, length=len(odd))
    bad = (
        (headers["b"], ciphertexts["c"], "not the one that the header signs", "b"),
        (headers["b"], cut, "not the one that the header signs", "b"),
        (truncated, cut, "a message has", "b"),
        (of_no_size, odd, "not the one that the header signs", "b"),
        (headers["a"], ciphertexts["a"], "second message of one step", "a"),
        (copied, ciphertexts["a"], "ciphertext of another site", "d"),
        (world.forge(headers["c"], EncryptedInput, context, previous=b"x" * 32), ciphertexts["c"], "another sum", "c"),
        (headers["c"][:-1] + bytes([headers["c"][-1] ^ 1]), ciphertexts["c"], "signature", "c"),
        (b"junk", b"", "end inside a value", None),
    )
    for header, ciphertext, match, party in bad:
        with pytest.raises(HostileInputError, match=match) as found:
            round_.add_input(header, ciphertext)
        assert found.value.party == party
    assert round_.uploaded == ("a",)
    assert set(round_.excluded) == {"b", "c", "d", "(unknown sender)"}
    for name in "bcd":
        round_.add_input(headers[name], ciphertexts[name])
    world.before = round_.finish()
    assert world.accept("a", world.announce().announcement).tolist() == world.total("abcd")


def test_a_site_that_ends_on_another_model_is_named(world):
    world.play()
    end = world.end()
    for name in world.names:
        world.accept(name, end.announcement)
    context = EncryptedAnnouncement.from_bytes(end.announcement).context
    endings = {name: world.members[name].close() for name in world.names}
    other = world.forge(endings["d"], FinalModel, context, model_tag=b"x" * 32)
    stored = world.members["a"].to_bytes()
    for shown, match, error in (
        ([*list(endings.values())[:3], other], "d end the run with another model", HostileInputError),
        (list(endings.values())[1:], "own message is missing", HostileInputError),
        (list(endings.values())[:2], "2 sites ended the run with one model", TooFewSurvivorsError),
    ):
        with pytest.raises(error, match=match):
            world.members["a"].finish(shown)
        assert world.members["a"].to_bytes() == stored
    relayed = end.collect([endings["a"], endings["b"], endings["c"], other])
    assert end.excluded == {"d": "d: ends with another model than most sites"}
    world.members["a"].finish(relayed)
    assert world.members["a"].stage == "ENDED"


def test_an_end_counts_invited_sites_that_stepped_on_the_last_sum_only(world):
    world.play()
    end = world.server.announce_end(
        round_number=2, server_round=2, plan_hash=bytes(32), before=world.before, invited="abc"
    )
    for name in "abc":
        world.accept(name, end.announcement)
    context = EncryptedAnnouncement.from_bytes(end.announcement).context
    endings = [world.members[name].close() for name in "abc"]
    intruding = world.forge(endings[0], FinalModel, context, sender="d")
    assert end.collect([*endings, intruding]) == tuple(endings)
    assert end.excluded == {"d": "d: was not invited to the end"}
    with pytest.raises(HostileInputError, match="d: ends the run, but was not invited"):
        world.members["a"].finish([*endings, intruding])
    for changes in ({"previous": b"x" * 32}, {"sum_root": b"x" * 32}):
        other = world.forge(endings[2], FinalModel, context, **changes)
        with pytest.raises(TooFewSurvivorsError, match="2 sites ended the run"):
            end.collect([*endings[:2], other])
        assert end.excluded["c"] == "c: stepped on another sum than was announced"


def test_tags_and_snapshots_are_of_one_run_and_one_number_of_rounds(world):
    secret, run = world.members["a"]._state.group_key, world.run
    facts = {"run": run, "completed": 3, "model_hash": b"m" * 32}
    changes = [{}, {"run": b"o" * 32}, {"completed": 4}, {"model_hash": b"n" * 32}]
    assert len({model_tag(secret, **{**facts, **change}) for change in changes}) == 4
    header, sealed = seal_snapshot(
        b"state",
        group_key=secret,
        run=run,
        completed=3,
        tag=b"t" * 32,
        sum_root=b"s" * 32,
        entropy=SYSTEM_ENTROPY,
    )
    assert open_snapshot(header, sealed, group_key=secret, run=run) == b"state"
    with pytest.raises(HostileInputError, match="does not open"):
        open_snapshot(header, sealed, group_key=secret, run=b"o" * 32)


def test_snapshots_that_are_not_a_peer_s_of_this_run_are_refused(world):
    world.play()
    world.play()
    header, sealed = world.snapshot("a")
    context = group_context(world.run, fingerprint=world.server.fingerprint)
    member, stored = world.members["d"], world.members["d"].to_bytes()
    for found, body, match in (
        (header, sealed[:-1], "not the one that its header signs"),
        (header, b"", "not the one that its header signs"),
        (world.forge(header, SnapshotHeader, context, completed=2), sealed, "does not open"),
        (world.forge(header, SnapshotHeader, context, model_tag=b"x" * 32), sealed, "does not open"),
        (world.forge(header, SnapshotHeader, context, salt=b"x" * 32), sealed, "does not open"),
        (world.forge(header, SnapshotHeader, context, completed=0), sealed, "a: gives a snapshot of round 0"),
        (header[:-1] + bytes([header[-1] ^ 1]), sealed, "signature"),
        (world.snapshot("d")[0], sealed, "own snapshot"),
    ):
        with pytest.raises(HostileInputError, match=match):
            member.read_snapshot(found, body)
    with pytest.raises(HostileInputError, match="another model than its header says") as error:
        member.adopt_snapshot(header, model_hash=b"x" * 32)
    assert error.value.party == "a"
    assert member.to_bytes() == stored


def test_a_snapshot_of_another_run_s_group_is_refused(world):
    other = world.copy()
    other.run = b"o" * 32
    other.members = {name: other.new_member(name) for name in other.names}
    other.start_session()
    other.agree_on_key()
    header, sealed = other.snapshot("a")
    with pytest.raises(HostileInputError, match="another session, round or announcement"):
        world.members["b"].read_snapshot(header, sealed)


def test_the_model_s_tag_does_not_follow_from_the_model(world):
    """Two groups on the very same model have different tags: who lacks the group key cannot test a guess."""
    other = world.copy()
    other.members = {name: other.new_member(name) for name in other.names}
    other.start_session()
    other.agree_on_key()
    tags = set()
    for group in (world, other):
        uploads = Uploads(group)
        tags |= {
            open_envelope(header, EncryptedInput, context=uploads.announced.context, roster=group.roster).body.model_tag
            for header in uploads.headers.values()
        }
        assert {group.models[name] for name in group.names} == {world.models["a"]}
    assert len(tags) == 2
