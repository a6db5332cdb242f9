"""A malicious aggregator from R3 on: a client signs one survivor set a round, and unmasks what enough others signed."""

import pytest
from secagg_world import World, announced

from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.secagg.client import SecAggClient
from privacy.secagg.envelope import open_envelope
from privacy.secagg.messages import MaskedInput, SurvivorAgreement, UnmaskReply
from privacy.secagg.requests import AgreementRequest, UnmaskRequest


def refuses(client: SecAggClient, act, match: str, *, error: type[Exception] = HostileInputError) -> Exception:
    before = client.to_bytes()
    with pytest.raises(error, match=match) as caught:
        act()
    assert client.to_bytes() == before, "a refused message must not change the state"
    return caught.value


def uploaded(world, *, absent=""):
    round_ = world.begin()
    return round_, world.upload(round_, absent=absent)


def ask(round_, headers, *, names=None, context=None):
    """Any R3 request that a malicious aggregator could write; it signs nothing."""
    shown = tuple(headers[name] for name in (headers if names is None else names))
    return AgreementRequest(context=context or announced(round_).context, headers=shown).to_bytes()


def release(round_, agreements, *, context=None):
    return UnmaskRequest(context=context or announced(round_).context, agreements=tuple(agreements)).to_bytes()


def agreed(world, *, absent=""):
    """Everybody that uploaded has signed the same set; the signatures by name."""
    round_, headers = uploaded(world, absent=absent)
    return round_, {name: world.clients[name].agree(ask(round_, headers)) for name in headers}


def test_survivor_set_below_the_threshold_is_refused(world):
    round_, headers = uploaded(world)
    client = world.clients["a"]
    refuses(client, lambda: client.agree(ask(round_, headers, names="ab")), "2 clients up", error=TooFewSurvivorsError)


def test_survivor_set_below_the_site_s_own_cohort_is_refused(make_world):
    """The threshold would allow four of five; this site insists on five."""
    world = make_world(count=5, min_cohort=5)
    round_, headers = uploaded(world)
    client = world.clients["a"]
    refuses(client, lambda: client.agree(ask(round_, headers, names="abcd")), "at least 5", error=TooFewSurvivorsError)
    assert client.agree(ask(round_, headers))


def test_survivor_set_without_oneself_is_refused(world):
    round_, headers = uploaded(world)
    client = world.clients["a"]
    refuses(client, lambda: client.agree(ask(round_, headers, names="bcd")), "own message is missing")


def test_survivor_named_twice_does_not_count_twice(world):
    round_, headers = uploaded(world, absent="d")
    client = world.clients["a"]
    refuses(client, lambda: client.agree(ask(round_, headers, names="abb")), "two messages of one step")


def test_survivor_that_shared_no_secrets_is_refused(world):
    """A colluding member that sat out R1 signs a header as if it had been in U1; nobody holds shares of its mask."""
    round_ = world.begin(absent="d")
    headers = world.upload(round_)
    headers["d"] = world.forge(headers["b"], MaskedInput, announced(round_).context, sender="d")
    client = world.clients["a"]
    error = refuses(client, lambda: client.agree(ask(round_, headers)), "named a survivor, but it shared no secrets")
    assert error.party == "d"


def test_header_of_an_uninvited_member_is_refused(make_world):
    """The client e was not invited, and signs the header of b: in b's name, and then as its own."""
    world = make_world(count=5)
    round_ = world.begin(invited="abcd")
    headers, context, client = world.upload(round_), announced(round_).context, world.clients["a"]
    found = open_envelope(headers["b"], MaskedInput, context=context, roster=world.roster)
    stolen = world.sign(found.body, context, sender="b", previous=found.previous, key_of="e")
    error = refuses(client, lambda: client.agree(ask(round_, {**headers, "b": stolen})), "signature is not by the key")
    assert error.party == "b"
    own = world.sign(found.body, context, sender="e", previous=found.previous)
    error = refuses(client, lambda: client.agree(ask(round_, {**headers, "e": own})), "shared no secrets")
    assert error.party == "e"


def test_survivors_from_another_round_are_refused(world):
    _, old_headers = uploaded(world)
    round_ = world.begin(2)
    headers = world.upload(round_, absent="d")
    client = world.clients["a"]
    mixed = {**headers, "d": old_headers["d"]}
    error = refuses(client, lambda: client.agree(ask(round_, mixed)), "another session, round or announcement")
    assert error.party == "d"
    stale = ask(round_, headers, context=b"x" * 32)
    refuses(client, lambda: client.agree(stale), "another round or announcement")


def test_agreement_is_signed_once_a_round(world):
    """Not even a second time to the same set: whoever lost the answer goes on with those that answered."""
    round_, headers = uploaded(world)
    client = world.clients["a"]
    client.agree(ask(round_, headers))
    for names in ("abcd", "abc"):
        refuses(client, lambda n=names: client.agree(ask(round_, headers, names=n)), "legal in UPLOADED")


def test_only_one_of_two_survivor_sets_is_answered(make_world):
    """The aggregator shows {a, b, c} to half of the cohort and {a, b, c, d} to the other: nobody unmasks anything.

    Both kinds of share for d would open its upload. Neither set collects the threshold of agreements, in whichever
    way the agreements are mixed, and no client signs the other set as well.
    """
    world = make_world()
    round_, headers = uploaded(world)
    sets = {"a": "abc", "b": "abc", "c": "abcd", "d": "abcd"}
    signed = {name: world.clients[name].agree(ask(round_, headers, names=shown)) for name, shown in sets.items()}
    for name, shown in sets.items():
        client = world.clients[name]
        other = "abcd" if shown == "abc" else "abc"
        refuses(client, lambda c=client, o=other: c.agree(ask(round_, headers, names=o)), "legal in UPLOADED")
        same = [signed[peer] for peer in sets if sets[peer] == shown]
        refuses(client, lambda c=client, s=same: c.unmask(release(round_, s)), "2 survivors agreed")
        refuses(client, lambda c=client: c.unmask(release(round_, signed.values())), "agreed to another|is no survivor")


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_colluding_sites_cannot_have_two_survivor_sets_unmasked(make_world, count):
    """With n_c < n / 3 sites on its side, which sign whatever it asks, the aggregator reaches one set of signatures.

    The last client is named as dropped to one half of the honest clients and as surviving to the other.
    """
    world: World = make_world(count=count)
    round_, headers = uploaded(world)
    target, colluding = world.names[-1], world.names[: (count - 1) // 3]
    honest = [name for name in world.names if name not in (*colluding, target)]
    halves = {"dropped": honest[: len(honest) // 2], "survived": [*honest[len(honest) // 2 :], target]}
    shown = {
        "dropped": {name: header for name, header in headers.items() if name != target},
        "survived": headers,
    }
    released = set()
    for kind, half in halves.items():
        signed = [world.clients[name].agree(ask(round_, shown[kind])) for name in half]
        found = open_envelope(signed[0], SurvivorAgreement, context=announced(round_).context, roster=world.roster)
        signed += [
            world.sign(found.body, announced(round_).context, sender=name, previous=found.previous)
            for name in colluding
        ]
        for name in half:
            try:
                world.clients[name].unmask(release(round_, signed))
            except TooFewSurvivorsError:
                continue
            released.add(kind)
    assert len(released) <= 1


def test_agreements_of_a_threshold_release_the_shares_and_one_fewer_do_not(world):
    round_, signed = agreed(world)
    client = world.clients["a"]
    few = [signed[name] for name in "ab"]
    refuses(client, lambda: client.unmask(release(round_, few)), "2 survivors agreed", error=TooFewSurvivorsError)
    reply = client.unmask(release(round_, [*few, signed["c"]]))
    body = open_envelope(reply, UnmaskReply, context=announced(round_).context, roster=world.roster).body
    assert (set(body.seed_shares), set(body.wrap_shares)) == (set("abcd"), set())


def test_a_survivor_that_falls_silent_before_it_agrees_stays_in_the_sum(make_world):
    """The floor on cohorts is about who is summed: all five are, though only four sign and answer."""
    world = make_world(count=5, min_cohort=5)
    result = world.play(silent={"e": "agree"})
    assert result.survivors == world.names
    assert result.total.tolist() == world.total(world.names)


def test_an_agreement_does_not_count_twice(world):
    round_, signed = agreed(world)
    client = world.clients["a"]
    repeated = [signed["a"], signed["b"], signed["b"]]
    error = refuses(client, lambda: client.unmask(release(round_, repeated)), "agrees twice")
    assert error.party == "b"


def test_agreement_of_a_dropped_client_is_refused(world):
    round_, signed = agreed(world, absent="d")
    by_dropped = world.forge(signed["b"], SurvivorAgreement, announced(round_).context, sender="d")
    client = world.clients["a"]
    error = refuses(client, lambda: client.unmask(release(round_, [*signed.values(), by_dropped])), "is no survivor")
    assert error.party == "d"


def test_agreement_of_somebody_outside_the_roster_is_refused(world, make_world):
    round_, signed = agreed(world)
    stranger = make_world(count=5)
    context, client = announced(round_).context, world.clients["a"]
    found = open_envelope(signed["b"], SurvivorAgreement, context=context, roster=world.roster)
    foreign = stranger.sign(found.body, context, sender="e", previous=found.previous)
    refuses(client, lambda: client.unmask(release(round_, [*signed.values(), foreign])), "'e' is not in version 1")
    posing = stranger.sign(found.body, context, sender="b", previous=found.previous)
    shown = [signed["a"], posing, signed["c"]]
    error = refuses(client, lambda: client.unmask(release(round_, shown)), "signature is not by the key")
    assert error.party == "b"


def test_agreement_to_another_set_is_refused_even_beside_enough_others(world):
    round_, signed = agreed(world)
    context, client = announced(round_).context, world.clients["a"]
    other = world.forge(signed["d"], SurvivorAgreement, context, previous=b"x" * 32)
    shown = [signed["a"], signed["b"], signed["c"], other]
    error = refuses(client, lambda: client.unmask(release(round_, shown)), "agreed to another survivor set")
    assert error.party == "d"


def test_names_in_an_agreement_do_not_stand_in_for_what_it_binds(world):
    """The survivors' names are for readers; what counts is the digest of their headers."""
    round_, headers = uploaded(world)
    context, client = announced(round_).context, world.clients["a"]
    signed = {"a": client.agree(ask(round_, headers))}
    for name in "bc":
        # Colluding b and c sign a set with other uploads of the same clients, and the same names.
        signed[name] = world.forge(signed["a"], SurvivorAgreement, context, sender=name, previous=bytes(32))
    refuses(client, lambda: client.unmask(release(round_, signed.values())), "agreed to another survivor set")


def test_agreements_of_another_round_or_announcement_are_refused(world):
    _, old = agreed(world)
    round_ = world.begin(2)
    headers = world.upload(round_)
    fresh = {name: world.clients[name].agree(ask(round_, headers)) for name in headers}
    client = world.clients["a"]
    error = refuses(client, lambda: client.unmask(release(round_, [fresh["a"], fresh["b"], old["c"]])), "another sess")
    assert error.party == "c"
    stale = release(round_, fresh.values(), context=b"x" * 32)
    refuses(client, lambda: client.unmask(stale), "another round or announcement")


def test_unmasking_without_having_agreed_is_refused(world):
    """b, c and d agreed, which is the threshold; a did not, so a was never shown the set in a way that it checked."""
    round_, headers = uploaded(world)
    signed = [world.clients[name].agree(ask(round_, headers)) for name in "bcd"]
    client = world.clients["a"]
    refuses(client, lambda: client.unmask(release(round_, signed)), "legal in AGREED")


def test_aggregator_counts_agreements_of_survivors_to_its_own_set_only(world):
    round_, _ = uploaded(world, absent="d")
    request = round_.request_agreement()
    context = announced(round_).context
    signed = {name: world.clients[name].agree(request) for name in "abc"}
    others = [
        world.forge(signed["a"], SurvivorAgreement, context, previous=b"x" * 32),
        world.forge(signed["b"], SurvivorAgreement, context, sender="d"),
        b"noise",
    ]
    with pytest.raises(TooFewSurvivorsError, match="2 survivors agreed"):
        round_.collect_agreements([*others, signed["b"], signed["c"]])
    assert "another survivor set" in round_.excluded["a"]
    assert "another survivor set" in round_.excluded["d"]
    round_.collect_agreements([*others[1:], *signed.values(), signed["a"]])
    assert round_.agreed == ("a", "b", "c")
    assert world.finish(round_).total.tolist() == world.total("abc")
