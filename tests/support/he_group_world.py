"""A small world for tests of encrypted runs: honest sites, an aggregator, and the means to forge what either says."""

import copy
import dataclasses
import hashlib

import numpy as np
from secagg_world import World

from privacy.he.distribution import CHANNEL_PURPOSE
from privacy.he.group_server import GroupServer
from privacy.he.member import GroupMember
from privacy.he.messages import setup_context
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement, PreviousRound
from privacy.secagg.envelope import open_envelope
from privacy.secagg.messages import KeyConfirmation, session_context

LENGTH = 6
INITIAL = hashlib.sha256(b"initial model").digest()
PLAN = b"p" * 32


def next_model(model, words):
    """The stand-in for the server optimiser's step."""
    return hashlib.sha256(model + words.tobytes()).digest()


class GroupWorld:
    """Sites a, b, c and so on in one run; every method plays honest steps unless its name says otherwise."""

    def __init__(self, *, count=4, ready=True, **floors):
        self.pairs = World(count=count, **floors)
        self.names, self.identities, self.roster = self.pairs.names, self.pairs.identities, self.pairs.roster
        self.floors = self.pairs.floors
        self.parameters = HeParameters.exact(max_clients=max(count, 4))
        self.run = b"r" * 32
        self.models = dict.fromkeys(self.names, INITIAL)
        self.vectors = {name: np.full(LENGTH, 10**i, dtype=np.uint32) for i, name in enumerate(self.names)}
        self.members = {name: self.new_member(name) for name in self.names}
        self.last_round, self.before = 0, None
        self.use_session()
        if ready:
            self.agree_on_key()

    def new_member(self, name, *, completed=0, parameters=None, run=None):
        """A site without any state of the run but its model."""
        return GroupMember.create(
            identity=self.identities[name],
            roster=self.roster,
            run=run or self.run,
            parameters=parameters or self.parameters,
            floors=self.floors,
            model_hash=self.models[name],
            completed=completed,
        )

    def load(self, name, stored):
        return GroupMember.from_bytes(
            stored, identity=self.identities[name], roster=self.roster, parameters=self.parameters, floors=self.floors
        )

    def restore(self, name):
        """A new process of the site, from its stored bytes."""
        self.members[name] = self.load(name, self.members[name].to_bytes())
        return self.members[name]

    def copy(self):
        """The same world once more; what happens in one does not happen in the other."""
        other = copy.copy(self)
        other.members = {name: self.load(name, member.to_bytes()) for name, member in self.members.items()}
        other.pairs = copy.copy(self.pairs)
        other.models, other.server = dict(self.models), copy.deepcopy(self.server)
        return other

    def start_session(self):
        """New clients with new pair keys; offers are yet to be made."""
        self.pairs.start_session()
        self.use_session()

    def use_session(self):
        self.channels = {name: self.pairs.clients[name].channels(CHANNEL_PURPOSE) for name in self.names}
        self.server = GroupServer(
            roster=self.roster,
            session=self.pairs.session,
            run=self.run,
            parameters=self.parameters,
            confirmations=self.pairs.server.setup_messages[KeyConfirmation.KIND],
            last_round=self.last_round,
        )

    @property
    def setup_context(self):
        return setup_context(self.run, session_context=session_context(self.pairs.session, self.roster))

    def offers(self, names=None):
        """What each site offers: (G0, sealed key) by name."""
        return {name: self.members[name].offer(self.channels[name]) for name in names or self.names}

    def confirmations(self, offers, sealed, names=None):
        return {
            name: self.members[name].accept_offers(self.channels[name], offers, sealed) for name in names or self.names
        }

    def agree_on_key(self, names=None):
        """G0 and G1 through the aggregator."""
        names = names or self.names
        offers = self.server.collect_offers(self.offers(names).values())
        confirmed = self.server.collect_confirmations(
            [
                self.members[name].accept_offers(self.channels[name], offers, self.server.sealed_keys_for(name))
                for name in names
            ]
        )
        for name in names:
            self.members[name].accept_confirmations(self.channels[name], confirmed)

    def announce(self, *, server_round=None, **changes):
        self.last_round += 1
        following = 1
        if self.before is not None:
            following = EncryptedAnnouncement.from_bytes(self.before.announcement).server_round + 1
        return self.server.announce(
            round_number=self.last_round,
            server_round=server_round or following,
            vector_length=LENGTH,
            plan_hash=PLAN,
            before=self.before,
            **changes,
        )

    def accept(self, name, announcement, before="honest"):
        """E0 and the step at one site; returns the sum where there was one to step on."""
        shown = self.before if before == "honest" else before
        previous, total = (None, None) if shown is None else (shown.previous_round, shown.total)
        words = self.members[name].accept(announcement, previous=previous, total=total)
        if words is not None:
            self.models[name] = next_model(self.models[name], words)
            self.members[name].record_model(self.models[name])
        return words

    def upload(self, round_, name):
        header, ciphertext = self.members[name].encrypt(self.vectors[name])
        round_.add_input(header, ciphertext)
        return header, ciphertext

    def play(self, *, absent=""):
        """One honest round; returns the published sum, and what the sites stepped on at its start."""
        round_ = self.announce()
        sums = {}
        for name in (name for name in self.names if name not in absent):
            sums[name] = self.accept(name, round_.announcement)
            self.upload(round_, name)
        self.before = round_.finish()
        return self.before, sums

    def end(self):
        self.last_round += 1
        return self.server.announce_end(
            round_number=self.last_round,
            server_round=EncryptedAnnouncement.from_bytes(self.before.announcement).server_round + 1,
            plan_hash=PLAN,
            before=self.before,
        )

    def snapshot(self, giver):
        return self.members[giver].give_snapshot(self.models[giver])

    def adopt(self, name, header, sealed):
        found = self.members[name].read_snapshot(header, sealed)
        self.models[name] = found.payload
        self.members[name].adopt_snapshot(header, model_hash=found.payload)

    def total(self, names):
        return sum((self.vectors[name].astype(np.uint64) for name in names), np.zeros(LENGTH, np.uint64)).tolist()

    def forge(self, message, body_type, context, *, previous=None, sender=None, **changes):
        """What a corrupt sender could have sent instead of a message: another body, properly signed."""
        found = open_envelope(message, body_type, context=context, roster=self.roster)
        return self.pairs.sign(
            dataclasses.replace(found.body, **changes),
            context,
            sender=sender or found.sender,
            previous=found.previous if previous is None else previous,
        )


def with_announcement(announcement, **changes):
    """Any announcement that a malicious aggregator could write instead."""
    return dataclasses.replace(EncryptedAnnouncement.from_bytes(announcement), **changes).to_bytes()


def with_previous(published, **changes):
    """What a malicious aggregator could show beside the announcement."""
    honest = PreviousRound(announcement=published.announcement, headers=published.headers)
    return dataclasses.replace(honest, **changes).to_bytes()
