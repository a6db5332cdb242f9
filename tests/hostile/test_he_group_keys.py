"""The group key under an aggregator that drops, swaps, replays and splits offers, and under sites that cheat."""

import dataclasses
import hashlib

import pytest
from he_group_world import GroupWorld

from privacy.entropy import SYSTEM_ENTROPY
from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.he.distribution import open_from_peer, seal_for_peers
from privacy.he.errors import GroupKeyLostError
from privacy.he.key_holder import GroupKey
from privacy.he.messages import GroupKeyConfirmation, GroupKeyOffer
from privacy.he.parameters import HeParameters
from privacy.secagg.envelope import open_envelope


@pytest.fixture(scope="module")
def fresh():
    return GroupWorld(count=4, ready=False)


@pytest.fixture(scope="module")
def ready():
    return GroupWorld(count=4)


@pytest.fixture
def world(fresh):
    return fresh.copy()


def refused(world, name, offers, sealed=(), *, match, error=HostileInputError):
    """The site refuses the offers and stands where it stood."""
    stored = world.members[name].to_bytes()
    with pytest.raises(error, match=match) as found:
        world.members[name].accept_offers(world.channels[name], offers, sealed)
    assert world.members[name].to_bytes() == stored
    return found.value


def other_key_from(world, name):
    """What a site could offer had it another key: the body's fields and the sealed key."""
    key = GroupKey.generate(world.parameters)
    dealt = seal_for_peers(key, channels=world.channels[name], entropy=SYSTEM_ENTROPY)
    fields = {
        "fingerprint": key.fingerprint,
        "sealed_key": hashlib.sha256(dealt.sealed).digest(),
        "wraps": dealt.wraps,
        "model_tag": bytes(32),
    }
    return fields, dealt.sealed


def forged(world, offers, name, **changes):
    return world.forge(offers[name][0], GroupKeyOffer, world.setup_context, **changes)


def messages(offers, **replaced):
    return [replaced.get(name, message) for name, (message, _) in offers.items()]


def test_an_aggregator_that_drops_or_changes_a_site_s_own_offer_is_noticed(world):
    offers = world.offers()
    refused(world, "b", messages(offers)[:1], match="own message is missing")
    changed = forged(world, offers, "b", completed=1)
    refused(world, "b", messages(offers, b=changed), match="own message is missing or was changed")


def test_a_sender_that_stands_twice_is_refused(world):
    offers = world.offers()
    refused(world, "b", [*messages(offers), messages(offers)[0]], match="two messages of one step")


def test_dropping_the_only_holder_s_offer_leaves_no_key(world):
    offers = world.offers()
    refused(world, "b", messages(offers)[1:], match="none of b, c, d offered a group key")


def test_swapped_sealed_keys_are_refused(world):
    offers = world.offers()
    refused(world, "b", messages(offers), match="no sealed group key arrived")
    refused(world, "b", messages(offers), [other_key_from(world, "a")[1]], match="no sealed group key arrived")
    damaged = offers["a"][1][:-1] + bytes([offers["a"][1][-1] ^ 1])
    refused(world, "b", messages(offers), [damaged], match="no sealed group key arrived")


def test_a_sealed_key_that_was_meant_for_another_site_does_not_open(world):
    offers = world.offers()
    body = open_envelope(offers["a"][0], GroupKeyOffer, context=world.setup_context, roster=world.roster).body
    wraps = {**body.wraps, "b": body.wraps["c"]}
    swapped = forged(world, offers, "a", wraps=wraps)
    error = refused(world, "b", messages(offers, a=swapped), [offers["a"][1]], match="wrapped group key does not open")
    assert error.party == "a"


def test_a_dealer_that_seals_another_key_than_it_names_is_named(world):
    offers = world.offers()
    fields, sealed = other_key_from(world, "a")
    del fields["fingerprint"]
    lying = forged(world, offers, "a", **fields)
    error = refused(world, "b", messages(offers, a=lying), [sealed], match="does not open|another group key")
    assert error.party == "a"


def test_a_bad_dealer_is_passed_over_where_another_holder_sealed_the_key():
    world = GroupWorld(count=4)
    world.members["d"] = world.new_member("d")
    world.start_session()
    offers = world.offers()
    fields, sealed = other_key_from(world, "a")
    del fields["fingerprint"]
    lying = forged(world, offers, "a", **fields)
    world.members["d"].accept_offers(world.channels["d"], messages(offers, a=lying), [sealed, offers["b"][1]])
    assert world.members["d"].fingerprint == world.members["b"].fingerprint


def test_offers_of_an_earlier_session_and_of_another_run_are_refused(world):
    earlier = world.offers()
    world.start_session()
    offers = world.offers()
    refused(
        world, "b", messages(offers, a=earlier["a"][0]), [earlier["a"][1]], match="none of b, c, d offered a group key"
    )
    stranger = world.copy()
    stranger.members["a"] = world.new_member("a", run=b"o" * 32)
    other = stranger.members["a"].offer(world.channels["a"])
    refused(world, "b", messages(offers, a=other[0]), [other[1]], match="none of b, c, d offered")


def test_two_sites_that_hold_different_keys_are_both_named(ready):
    world = ready.copy()
    world.start_session()
    offers = world.offers()
    fields, sealed = other_key_from(world, "c")
    other = forged(world, offers, "c", **fields)
    refused(
        world,
        "b",
        messages(offers, c=other),
        [sealed],
        match=r"different group keys .* by (c and by a, b, d|a, b, d and by c)",
    )


def test_two_candidates_are_refused_and_named(world):
    offers = world.offers()
    fields, sealed = other_key_from(world, "c")
    other = forged(world, offers, "c", claim="candidate", **fields)
    refused(world, "b", messages(offers, c=other), [sealed], match="different group keys are offered for one run, by")


def test_partitioned_offers_are_noticed_when_the_key_is_confirmed(ready):
    """Two halves are shown two holders' offers: all end with one key, but not after the same offers."""
    world = ready.copy()
    world.start_session()
    offers = world.offers()
    seen = {name: messages(offers)[:3] if name in "abc" else messages(offers)[1:] for name in world.names}
    confirmed = {name: world.members[name].accept_offers(world.channels[name], seen[name]) for name in world.names}
    world.members["a"].accept_confirmations(world.channels["a"], confirmed.values())
    assert world.members["a"].members == ("a", "b", "c")
    assert world.members["a"].excluded["d"] == "d: was shown other offers than this site"
    stored = world.members["d"].to_bytes()
    with pytest.raises(TooFewSurvivorsError, match="1 sites confirmed the group key, at least 3"):
        world.members["d"].accept_confirmations(world.channels["d"], confirmed.values())
    assert world.members["d"].to_bytes() == stored


def test_a_partition_below_the_threshold_of_all_confirmed_peers_gets_no_key(world):
    offers = world.offers()
    pair = [offers["a"][0], offers["b"][0]]
    refused(world, "b", pair, [offers["a"][1]], match="2 sites offered", error=TooFewSurvivorsError)


def test_a_site_that_confirms_another_key_is_named(world):
    offers = world.offers()
    relayed = world.server.collect_offers(offers.values())
    confirmed = world.confirmations(relayed, [offers["a"][1]])
    lying = world.forge(confirmed["c"], GroupKeyConfirmation, world.setup_context, fingerprint=b"x" * 32)
    stored = world.members["a"].to_bytes()
    with pytest.raises(HostileInputError, match="c confirmed another group key") as found:
        world.members["a"].accept_confirmations(world.channels["a"], [*list(confirmed.values())[:2], lying])
    assert found.value.party == "c"
    assert world.members["a"].to_bytes() == stored
    assert world.server.collect_confirmations([confirmed["a"], confirmed["b"], confirmed["d"], lying])
    assert world.server.excluded["c"] == "c: confirms a group key that nobody offered"


def test_a_key_that_nobody_holds_any_more_is_lost_and_the_error_names_who_knows(ready):
    world = ready.copy()
    world.members = {name: world.new_member(name, completed=2 if name == "c" else 0) for name in world.names}
    world.start_session()
    offers = world.offers()
    for name in world.names:
        refused(
            world,
            name,
            messages(offers),
            [offers["a"][1]],
            match="key of this run is lost: c completed up to 2",
            error=GroupKeyLostError,
        )


def test_a_site_whose_books_know_of_rounds_makes_no_key(ready):
    world = ready.copy()
    world.members["a"] = world.new_member("a", completed=1)
    world.start_session()
    assert world.members["a"].offer(world.channels["a"])[1] == b""


def test_an_offer_is_made_once_per_session_and_on_the_site_s_own_channels(world):
    world.offers()
    with pytest.raises(HostileInputError, match="made its offer in this session"):
        world.members["a"].offer(world.channels["a"])
    with pytest.raises(MisuseError, match="channels belong to 'b'"):
        world.members["a"].offer(world.channels["b"])
    with pytest.raises(MisuseError, match="channels belong to 'b'"):
        world.members["a"].accept_offers(world.channels["b"], [])


def test_sites_under_other_parameters_are_excluded_and_named_before_any_key_is_used(world):
    """A downgrade by a site, or by an aggregator that told one site another plan."""
    weaker = HeParameters.approximate(max_clients=4)
    world.members["d"] = world.new_member("d", parameters=weaker)
    offers = world.offers()
    relayed = messages(offers)
    world.members["b"].accept_offers(world.channels["b"], relayed, [offers["a"][1]])
    assert world.members["b"].excluded == {"d": "d: has other parameters of encryption than this site"}
    refused(world, "d", relayed, [offers["a"][1]], match="none of d offered a group key")
    world.server.collect_offers(offers.values())
    assert world.server.excluded == {"d": "d: has other parameters of encryption than this run"}


def test_a_site_whose_offer_was_not_accepted_is_no_member_whatever_it_confirms(world):
    world.members["d"] = world.new_member("d", parameters=HeParameters.approximate(max_clients=4))
    offers = world.offers()
    confirmed = world.confirmations(messages(offers), [offers["a"][1]], names="abc")
    intruding = world.forge(confirmed["a"], GroupKeyConfirmation, world.setup_context, sender="d")
    world.members["a"].accept_confirmations(world.channels["a"], [*confirmed.values(), intruding])
    assert world.members["a"].members == ("a", "b", "c")


def test_a_confirmation_after_other_offers_than_were_relayed_is_excluded_by_the_aggregator(world):
    offers = world.offers()
    relayed = world.server.collect_offers(offers.values())
    confirmed = world.confirmations(relayed, [offers["a"][1]])
    other = world.forge(confirmed["d"], GroupKeyConfirmation, world.setup_context, previous=b"x" * 32)
    world.server.collect_confirmations([*list(confirmed.values())[:3], other])
    assert world.server.ready == ("a", "b", "c")
    assert world.server.excluded == {"d": "d: does not follow the offers that were relayed to it"}


def test_a_wrap_opens_beside_its_own_sealed_key_only(world):
    key = GroupKey.generate(world.parameters)
    one, other = (seal_for_peers(key, channels=world.channels["a"], entropy=SYSTEM_ENTROPY) for _ in range(2))
    facts = {
        "dealer": "a",
        "channels": world.channels["b"],
        "parameters": world.parameters,
        "fingerprint": key.fingerprint,
    }
    assert open_from_peer(one.sealed, one.wraps["b"], **facts).fingerprint == key.fingerprint
    with pytest.raises(HostileInputError, match="wrapped group key does not open"):
        open_from_peer(one.sealed, other.wraps["b"], **facts)


def test_an_offer_that_follows_another_key_confirmation_is_excluded(world):
    offers = world.offers()
    other = forged(world, offers, "c", previous=b"x" * 32)
    world.members["b"].accept_offers(world.channels["b"], messages(offers, c=other), [offers["a"][1]])
    assert "does not follow the key confirmation" in world.members["b"].excluded["c"]
    changed = {**offers, "c": (other, b"")}
    world.server.collect_offers(changed.values())
    assert "does not follow the key confirmation" in world.server.excluded["c"]


def test_the_aggregator_excludes_an_offer_whose_sealed_key_is_another(world):
    offers = world.offers()
    with pytest.raises(TooFewSurvivorsError, match="1 sites sent valid offers"):
        world.copy().server.collect_offers([(message, b"junk") for message, _ in (offers["a"], offers["b"])])
    # A site without a key has nothing to seal, so nothing beside its offer counts.
    world.server.collect_offers([(offers["a"][0], b"junk"), *list(offers.values())[1:]])
    assert world.server.excluded == {"a": "a: the sealed key is not the one that the offer signs"}


def test_a_site_that_stands_on_another_model_shows_in_the_offers(ready):
    world = ready.copy()
    world.play()
    astray = world.members["d"]
    astray._state = dataclasses.replace(astray._state, model_hash=b"x" * 32)
    world.start_session()
    world.agree_on_key()
    assert world.members["a"].disagreeing == ("d",)
    assert world.members["d"].disagreeing == ("a", "b", "c")


def test_the_aggregator_s_calls_have_one_order(world):
    with pytest.raises(MisuseError, match="belongs to READY"):
        world.announce()
    with pytest.raises(MisuseError, match="belongs to CONFIRMATIONS"):
        world.server.collect_confirmations([])
