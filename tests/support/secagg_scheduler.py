"""A model check of secure aggregation: real clients under whatever an active aggregator and a bad network can do.

Every message that was ever sent can be shown to anybody, in any order and number; processes die before they store and
before they send; fewer than a third of the sites collude. The checks stand where messages leave a site: a client says
one thing once, nobody's upload can be opened alone, and what can be opened is exactly the sum of the survivors.
"""

import contextlib
from collections import Counter, defaultdict
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from secagg_world import LENGTH, World, announced, model_hash

from privacy.errors import HostileInputError, TooFewSurvivorsError
from privacy.secagg import masks
from privacy.secagg.client import SecAggClient
from privacy.secagg.envelope import digest_of_set, open_envelope
from privacy.secagg.messages import MaskedInput, ShareMessage, SurvivorAgreement, UnmaskReply
from privacy.secagg.opening import open_secrets
from privacy.secagg.requests import AgreementRequest, RoundInvitation, UnmaskRequest
from privacy.streams import Keystream

CRASHES = st.sampled_from(["none", "none", "before storing", "before sending"])
SETUP = ("advertise_keys", "encapsulate_keys", "confirm_keys", "accept_confirmations")
NOTHING = object()


class Consortium(RuleBasedStateMachine):
    """What is on each site's disk, all that was ever sent, and what follows from it about every secret."""

    tally: ClassVar[Counter[str]] = Counter()

    @staticmethod
    def may_collude(count):
        """n_c < n / 3, which is what the default threshold is made for."""
        return (count - 1) // 3

    @initialize(count=st.integers(2, 6))
    def start(self, count):
        self.world = World(count=count)
        self.names = self.world.names
        self.colluding = set(self.names[-self.may_collude(count) :]) if count >= 4 else set()
        self.stored = {name: self.world.clients[name].to_bytes() for name in self.names}
        self.stage = dict.fromkeys(self.names, "READY")
        self.pool = [*self.world.advertised, *self.world.encapsulated, *self.world.confirmed]
        self.said = {}  # (step, client, round number): the one message
        self.invitations, self.announcements = [], []
        self.dealt = defaultdict(dict)  # invitation context: client: R1
        self.shown = {}  # (announcement context, client): the R1 messages that it accepted
        self.uploads = defaultdict(dict)  # announcement context: client: (header, masked, vector)
        self.agreements = defaultdict(dict)  # announcement context: (client, survivor set): R3
        self.replies = defaultdict(dict)  # announcement, survivor set: client: R4 body
        self.released = defaultdict(set)  # (invitation context, kind, dealer): holders
        self.by_model = {}  # (client, model): the survivor set that it helped to open
        self.used = defaultdict(dict)  # mask key: client: vector
        self.newest, self.live, self.trained, self.calm = 0, None, 0, False

    # What a site does: restore, act, store, send. A process may die in between.

    def act(self, name, step, *arguments, crash="none"):
        """What came out of one step and left the site, or NOTHING."""
        client = SecAggClient.from_bytes(
            self.stored[name], identity=self.world.identities[name], roster=self.world.roster
        )
        keys, about = [], client.announcement
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masks, "Keystream", lambda key: (keys.append(key), Keystream(key))[1])
            try:
                result = getattr(client, step)(*arguments)
            except HostileInputError:
                assert client.to_bytes() == self.stored[name], f"{step} was refused and changed the state"
                return NOTHING
        if crash == "before storing":
            return NOTHING
        self.store(name, step, client)
        if step == "accept":
            self.shown[client.announcement.context, name] = tuple(arguments[1])
        if crash == "before sending":
            return NOTHING
        self.tally[step] += 1
        getattr(self, f"sent_by_{step}")(name, about or client.announcement, arguments, result, keys)
        return result

    def store(self, name, step, client):
        self.stored[name], self.stage[name] = client.to_bytes(), client.stage

    def send(self, step, name, number, message):
        assert self.said.setdefault((step, name, number), message) == message, f"{name} said {step} twice in {number}"
        self.pool.append(message)

    def sent_by_share(self, name, about, arguments, message, keys):
        invited = RoundInvitation.from_bytes(arguments[0])
        self.send("R1", name, invited.round_number, message)
        self.dealt[invited.context][name] = message

    def sent_by_accept(self, name, about, arguments, complaint, keys):
        assert complaint is None, "an honest client's shares are never complained about"

    def sent_by_mask(self, name, about, arguments, result, keys):
        header, masked = result
        self.send("R2", name, about.round_number, header)
        self.uploads[about.context][name] = (header, masked, arguments[0])
        for key in keys:
            vectors = self.used[key]
            assert vectors.setdefault(name, arguments[0].tobytes()) == arguments[0].tobytes(), "a mask was used twice"
            assert len(vectors) <= 2, "more than two clients share one mask"

    def sent_by_agree(self, name, about, arguments, message, keys):
        self.send("R3", name, about.round_number, message)
        found = open_envelope(message, SurvivorAgreement, context=about.context, roster=self.world.roster)
        self.agreements[about.context][name, found.previous] = message

    def sent_by_unmask(self, name, about, arguments, message, keys):
        self.send("R4", name, about.round_number, message)
        found = open_envelope(message, UnmaskReply, context=about.context, roster=self.world.roster)
        signed = [survivors for _, survivors in self.agreements[about.context] if survivors == found.previous]
        assert len(signed) >= about.invitation.threshold, "unmasked without enough agreements"
        invited = about.invitation.context
        for kind, shares in (("seed", found.body.seed_shares), ("wrap", found.body.wrap_shares)):
            for dealer in shares:
                self.released[invited, kind, dealer].add(name)
        assert not set(found.body.seed_shares) & set(found.body.wrap_shares)
        survivors = frozenset(found.body.seed_shares)
        assert self.by_model.setdefault((name, about.model_hash), survivors) == survivors, "two sums over one model"
        replies = self.replies[about.to_bytes(), found.previous]
        replies[name] = found.body
        self.check_secrecy(about.invitation)
        if len(replies) >= about.invitation.threshold:
            self.check_sum(about, replies, name)

    def check_secrecy(self, invited):
        """Nobody's self seed and wrap key can both be put together, though who colludes gives all that it holds."""
        for dealer in set(self.names) - self.colluding:
            seed, wrap = (self.released[invited.context, kind, dealer] | self.colluding for kind in ("seed", "wrap"))
            assert min(len(seed), len(wrap)) < invited.threshold, f"the upload of {dealer} can be opened alone"

    def check_sum(self, about, replies, holder):
        """What the replies open is the sum of what the survivors put in, word for word."""
        context = about.invitation.context
        dealers = {}
        for message in self.shown[about.context, holder]:
            found = open_envelope(message, ShareMessage, context=context, roster=self.world.roster)
            dealers[found.sender] = found.body
        survivors = sorted(replies[holder].seed_shares)
        opened = open_secrets(
            replies,
            survivors=survivors,
            dealers=dealers,
            roster=self.world.roster,
            threshold=about.invitation.threshold,
            context=context,
        )
        total, expected = np.zeros(LENGTH, np.uint32), np.zeros(LENGTH, np.uint32)
        for name in survivors:
            _, masked, vector = self.uploads[about.context][name]
            total += masked
            expected += vector
        masks.remove_masks(
            total, self_seeds=list(opened.self_seeds.values()), pair_secrets=opened.pair_secrets, context=about.context
        )
        assert total.tolist() == expected.tolist(), "what was unmasked is not the sum of the survivors"
        self.tally["opened"] += 1

    # What the aggregator and the network do.

    def some(self, data, found):
        """All of the elements, or all but one or two."""
        found = list(found)
        gone = 0 if self.calm else data.draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
        left_out = (
            data.draw(st.sets(st.integers(0, len(found) - 1), min_size=gone, max_size=gone)) if found[gone:] else ()
        )
        return [item for index, item in enumerate(found) if index not in left_out]

    def recent(self, data, found):
        """One of the last contexts that anything was said in."""
        return data.draw(st.sampled_from([context for context, messages in found.items() if messages][:-4:-1]))

    def ask(self, data, step, *arguments):
        """One step of some clients, of which one may die on the way; what left the sites."""
        dying, crash = data.draw(st.sampled_from(self.names)), "none" if self.calm else data.draw(CRASHES)
        sent = []
        for name in self.some(data, self.names):
            when = crash if name == dying else "none"
            sent.append(self.train(name, when) if step == "mask" else self.act(name, step, *arguments, crash=when))
        return [message for message in sent if message is not NOTHING]

    def train(self, name, crash="none"):
        """A client that trains a second time gets another vector, as training does."""
        self.trained += 1
        vector = np.random.default_rng(self.trained).integers(0, 2**32, LENGTH, dtype=np.uint32)
        return self.act(name, "mask", vector, crash=crash)

    @rule(data=st.data(), step=st.integers(-1, 3), lower=st.booleans())
    def invite(self, data, step, lower):
        """For a round that is new, skips some, or was there before; of everybody or of a few; at a lower threshold."""
        invited = tuple(sorted(self.some(data, self.names)))
        number = max(self.newest + step, 1)
        self.newest = max(self.newest, number)
        threshold = max(2 * len(invited) // 3 + 1 - lower, 1)
        self.invitations.append(self.world.invitation(number, invited=invited, threshold=threshold))
        self.pool.append(self.invitations[-1])

    @precondition(lambda self: self.invitations)
    @rule(data=st.data())
    def ask_for_shares(self, data):
        self.ask(data, "share", data.draw(st.sampled_from(self.invitations[:-4:-1])))

    @precondition(lambda self: any(self.dealt.values()))
    @rule(data=st.data(), model=st.integers(1, 3))
    def announce(self, data, model):
        """Also twice for one invitation, with other models to other clients, and with other shares."""
        invitation = data.draw(st.sampled_from(self.invitations[:-4:-1]))
        dealt = self.dealt[RoundInvitation.from_bytes(invitation).context]
        announcement = self.world.announcement(invitation, model_hash=model_hash(model))
        self.announcements.append(announcement)
        self.pool.append(announcement)
        self.ask(data, "accept", announcement, self.some(data, dealt.values()))

    @rule(data=st.data())
    def upload(self, data):
        self.ask(data, "mask")

    @precondition(lambda self: any(self.uploads.values()))
    @rule(data=st.data())
    def ask_for_agreement(self, data):
        """Up to two survivor sets, each shown to some."""
        context = self.recent(data, self.uploads)
        for _ in range(data.draw(st.integers(1, 2))):
            headers = tuple(header for header, _, _ in self.some(data, self.uploads[context].values()))
            request = AgreementRequest(context=context, headers=headers).to_bytes()
            self.pool.append(request)
            self.sign_as_colluding(context, headers)
            self.ask(data, "agree", request)

    def sign_as_colluding(self, context, headers):
        """The colluding sites sign whatever survivor set the aggregator wants."""
        digests = {}
        for header in headers:
            found = open_envelope(header, MaskedInput, context=context, roster=self.world.roster)
            digests[found.sender] = found.digest
        previous = digest_of_set("U2", context=context, digests=digests)
        for name in sorted(self.colluding & set(digests)):
            body = SurvivorAgreement(survivors=tuple(sorted(digests)))
            message = self.world.sign(body, context, sender=name, previous=previous)
            self.agreements[context][name, previous] = message
            self.pool.append(message)

    @precondition(lambda self: any(self.agreements.values()))
    @rule(data=st.data())
    def ask_for_shares_of_masks(self, data):
        context = self.recent(data, self.agreements)
        found = self.agreements[context]
        wanted = data.draw(st.sampled_from(list(dict.fromkeys(survivors for _, survivors in found))))
        same = [message for (_, survivors), message in found.items() if survivors == wanted]
        request = UnmaskRequest(context=context, agreements=tuple(self.some(data, same))).to_bytes()
        self.pool.append(request)
        self.ask(data, "unmask", request)

    @rule(data=st.data(), calm=st.lists(st.booleans(), min_size=1, max_size=6))
    def press_on(self, data, calm):
        """What most clients are ready for, several times: how an aggregator gets far with a round of its own making."""
        for self.calm in calm:
            stage = Counter(self.stage.values()).most_common(1)[0][0]
            if stage == "READY":
                self.invite(data, 1, lower=False)
                self.ask(data, "share", self.invitations[-1])
            elif stage == "SHARED":
                self.announce(data, 1 + self.newest // 3)
            elif stage == "ACCEPTED":
                self.upload(data)
            elif stage == "UPLOADED" and any(self.uploads.values()):
                self.ask_for_agreement(data)
            elif stage == "AGREED" and any(self.agreements.values()):
                self.ask_for_shares_of_masks(data)
        self.calm = False

    @rule(data=st.data(), step=st.sampled_from([*SETUP[1:], "share", "accept", "agree", "unmask"]))
    def replay(self, data, step):
        """Any earlier message of any kind, to anybody, as if it were the one that the next step needs."""
        message, several = st.sampled_from(self.pool), st.lists(st.sampled_from(self.pool), max_size=4)
        name = data.draw(st.sampled_from(self.names))
        if step in SETUP:
            self.act(name, step, data.draw(several))
        elif step == "accept":
            self.act(name, step, data.draw(message), data.draw(several))
        else:
            self.act(name, step, data.draw(message))

    @rule(name=st.sampled_from("abcdef"))
    def restart_the_setup(self, name):
        if name in self.names:
            assert self.act(name, "advertise_keys") is NOTHING

    # An aggregator that plays by the rules, in between and with the same clients.

    def answers(self, data, step, *arguments):
        """Those of some clients, in any order, some of them twice, among other messages from the pool."""
        found = self.ask(data, step, *arguments)
        noise = data.draw(st.lists(st.sampled_from(self.pool), max_size=2))
        return data.draw(st.permutations([*found, *found[:1], *noise]))

    @rule(data=st.data(), calm=st.lists(st.booleans(), min_size=1, max_size=3))
    def run_the_server(self, data, calm):
        """The next stages of the round at hand; a stage that too few clients answer ends it."""
        for self.calm in calm:
            self.run_a_stage(data)
        self.calm = False

    def run_a_stage(self, data):
        if self.live is None:
            self.newest = max(self.newest, self.world.server._last_round) + 1
            self.live = self.world.server.invite(round_number=self.newest)
            self.invitations.append(self.live.invitation)
        try:
            self.next_stage(data, self.live)
        except TooFewSurvivorsError:
            self.live = None

    def next_stage(self, data, round_):
        if round_._stage == "SHARES":
            round_.collect_shares(self.answers(data, "share", round_.invitation))
            self.announcements.append(self.world.announce(round_))
        elif round_._stage == "UPLOADS":
            self.collect_uploads(data, round_)
            round_.collect_agreements(self.answers(data, "agree", round_.request_agreement()))
        else:
            result = round_.finish(self.answers(data, "unmask", round_.request_unmask()))
            expected = np.zeros(LENGTH, np.uint32)
            for name in result.survivors:
                expected += self.uploads[announced(round_).context][name][2]
            assert result.total.tolist() == expected.tolist()
            self.tally["finished"] += 1
            self.live = None

    def collect_uploads(self, data, round_):
        self.ask(data, "accept", announced(round_).to_bytes(), round_.shares)
        for sent in self.ask(data, "mask"):
            for _ in range(2):
                with contextlib.suppress(HostileInputError):
                    round_.add_upload(*sent)
        noise = data.draw(st.sampled_from(self.pool))
        with pytest.raises(HostileInputError):
            round_.add_complaint(noise)

    def teardown(self):
        """Whatever happened, the next honest round of everybody comes out."""
        if not hasattr(self, "stored"):
            return
        for name in self.names:
            self.world.clients[name] = SecAggClient.from_bytes(
                self.stored[name], identity=self.world.identities[name], roster=self.world.roster
            )
        number = max(self.newest, self.world.server._last_round) + 1
        result = self.world.play(number, model=b"a model of which no sum was opened"[:32])
        assert result.total.tolist() == self.world.total(self.names)
        event(f"sums opened: {min(self.tally['opened'], 3)}")
