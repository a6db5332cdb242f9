"""Whatever an active aggregator and a bad network do, a sum is exact or nothing is unmasked (secagg_scheduler).

The checks are shown to fail, too: for clients that forget, and where more sites collude than the threshold allows for.
"""

from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from secagg_scheduler import NOTHING, Consortium
from secagg_world import model_hash

from privacy.secagg import client_round
from privacy.secagg.envelope import digest_of_set
from privacy.secagg.messages import MaskedInput
from privacy.secagg.requests import AgreementRequest, RoundAnnouncement, UnmaskRequest

# Making a failing schedule shorter takes minutes; without that phase a failure costs no more than a success.
BOUNDED = settings(
    max_examples=40, stateful_step_count=25, deadline=None, database=None, phases=[Phase.explicit, Phase.generate]
)
TestConsortium = Consortium.TestCase
TestConsortium.settings = BOUNDED


def fixed(examples):
    """The same schedules every time."""
    return settings(BOUNDED, max_examples=examples, derandomize=True)


def test_schedules_reach_every_step_and_sums():
    """A check whose clients refused everything would prove nothing."""

    class Counted(Consortium):
        tally: ClassVar[Counter[str]] = Counter()

    run_state_machine_as_test(Counted, settings=fixed(40))
    assert min(Counted.tally[step] for step in ("share", "accept", "mask", "agree", "unmask")) >= 20
    assert Counted.tally["opened"] >= 5
    assert Counted.tally["finished"] >= 3


@pytest.mark.parametrize("step", ["share", "mask", "agree"])
def test_a_client_that_stores_after_it_sends_is_caught(step):
    """It dies in between, and so forgets that it dealt, uploaded or agreed."""

    class Forgetful(Consortium):
        def store(self, name, step_, client):
            if step_ != step:
                super().store(name, step_, client)

    with pytest.raises(AssertionError, match=r"said R. twice|a mask was used twice"):
        run_state_machine_as_test(Forgetful, settings=fixed(100))


def uploaded_by_all(machine, number, model):
    """A round up to its uploads, all in order: its context and the headers by client."""
    invitation = machine.world.invitation(number)
    announcement = machine.world.announcement(invitation, model_hash=model_hash(model))
    context = RoundAnnouncement.from_bytes(announcement).context
    shares = [machine.act(name, "share", invitation) for name in machine.names]
    for name in machine.names:
        machine.act(name, "accept", announcement, shares)
        machine.train(name)
    return context, {name: header for name, (header, _, _) in machine.uploads[context].items()}


def unmask(machine, context, headers, *, asked):
    """R3 and R4 for one survivor set, with those who are asked and those who collude."""
    request = AgreementRequest(context=context, headers=tuple(headers.values())).to_bytes()
    machine.sign_as_colluding(context, headers.values())
    for name in asked:
        machine.act(name, "agree", request)
    previous = digest_of_set(
        "U2",
        context=context,
        digests={name: machine.world.digest(header, MaskedInput, context) for name, header in headers.items()},
    )
    agreements = [message for (_, found), message in machine.agreements[context].items() if found == previous]
    release = UnmaskRequest(context=context, agreements=tuple(agreements)).to_bytes()
    return [machine.act(name, "unmask", release) is not NOTHING for name in asked]


@pytest.mark.parametrize(("collude", "opened"), [(1, False), (2, True)])
def test_two_survivor_sets_open_an_upload_only_if_too_many_collude(collude, opened):
    """One of four may: 2 t > n + n_c. With two of four the invariant above breaks, which shows that it can."""
    machine = Consortium()
    machine.may_collude = lambda count: collude
    machine.start(count=4)
    context, headers = uploaded_by_all(machine, 1, 1)
    without_b = {name: header for name, header in headers.items() if name != "b"}
    first = unmask(machine, context, without_b, asked="a")
    if opened:
        assert first == [True]
        with pytest.raises(AssertionError, match="the upload of b can be opened alone"):
            unmask(machine, context, headers, asked="b")
    else:
        assert first == [False]
        assert unmask(machine, context, headers, asked="bc") == [True, True]


def test_clients_that_unmask_without_enough_agreements_are_caught(monkeypatch):
    """Two of three agree. Honest clients release nothing; those that take one agreement for enough are found out."""
    honest = client_round._announced_round

    def content_with_one(state):
        opened, about = honest(state)
        if state.stage != "AGREED":
            return opened, about
        once = SimpleNamespace(threshold=1)
        return opened, SimpleNamespace(context=about.context, model_hash=about.model_hash, invitation=once)

    for careless in (False, True):
        machine = Consortium()
        machine.start(count=3)
        context, headers = uploaded_by_all(machine, 1, 1)
        if careless:
            monkeypatch.setattr(client_round, "_announced_round", content_with_one)
            with pytest.raises(AssertionError, match="unmasked without enough agreements"):
                unmask(machine, context, headers, asked="ab")
        else:
            assert not any(unmask(machine, context, headers, asked="ab"))


def test_a_client_that_forgets_what_it_opened_is_caught():
    """It opens two sums over one model that differ by one site; with its memory it opens the first only."""

    class Forgetful(Consortium):
        def store(self, name, step, client):
            if step != "unmask":
                super().store(name, step, client)

    for machine, forgets in ((Consortium(), False), (Forgetful(), True)):
        machine.start(count=4)
        context, headers = uploaded_by_all(machine, 1, 1)
        assert all(unmask(machine, context, headers, asked="abcd"))
        context, headers = uploaded_by_all(machine, 2, 1)
        del headers["d"]
        if forgets:
            with pytest.raises(AssertionError, match="two sums over one model"):
                unmask(machine, context, headers, asked="abc")
        else:
            assert not any(unmask(machine, context, headers, asked="abc"))
