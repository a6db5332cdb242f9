"""An encrypted run of the real protocol on tiny vectors, recorded by the real writer: what transcript tests build on.

Everything that a site or the aggregator does is done by the real classes; only network, training and server step are
missing.
"""

from he_group_world import PLAN, GroupWorld

from aggregator.encrypted_transcript import EncryptedTranscript
from privacy.chain import HEAD, Retention
from privacy.he.errors import StaleMemberError
from privacy.he.transcript import FORMAT
from privacy.he.verifier import EncryptedVerifier
from privacy.secagg.roster import generate_consortium_key, sign_roster

KEEP_ALL = Retention()


class RecordedEncryptedRun:
    """Sites a, b, c and so on; `receipts` holds what they keep, by site, `sums` what was published and stays."""

    def __init__(self, folder, *, count=4, retention=KEEP_ALL, plan=b"{}"):
        self.folder, self.retention, self.plan = folder, retention, plan
        self.world = GroupWorld(count=count, ready=False)
        self.names = self.world.names
        consortium = generate_consortium_key()
        self.anchor = consortium.public_key().public_bytes_raw()
        self.signed_roster = sign_roster(self.world.roster, consortium)
        self.receipts = {name: [] for name in self.names}
        self.sums = []
        self.reopen()

    def reopen(self):
        """A new process of the aggregator."""
        self.transcript = EncryptedTranscript(self.folder, retention=self.retention, durable=False)

    @property
    def server_round(self):
        """The next one."""
        return len(self.sums) + 1

    def open_session(self, *, new_members=False):
        """S0 to S2, G0 and G1, and their entry; `new_members` have lost everything, the group key too."""
        world = self.world
        if new_members:
            world.members = {name: world.new_member(name) for name in self.names}
        world.start_session()
        world.agree_on_key()
        self.transcript.begin_session(
            session=world.pairs.session,
            run=world.run,
            roster=self.signed_roster,
            plan=self.plan,
            parameters=world.parameters.to_bytes(),
            setup=world.pairs.server.setup_messages,
            group_setup=world.server.setup_messages,
            completed=len(self.sums),
            code_digest="",
        )

    def play(self, *, absent="", refused="", stop=False, fail=False, change=None):
        """One round with its entry; `absent` sites do nothing, uploads of `refused` ones never arrive.

        `stop` ends it after the uploads as a kill would, `fail` aborts it there; `change` makes another
        `PublishedSum` of the honest one, and that is what is written and shown to the sites.
        """
        world = self.world
        world.before = self.sums[-1] if self.sums else None
        round_ = world.announce(previous=self.transcript.previous)
        self.transcript.note_open(announcement=round_.announcement, server_round=self.server_round)
        for name in (name for name in self.names if name not in absent):
            self.accept(name, round_.announcement)
            header, ciphertext = world.members[name].encrypt(world.vectors[name])
            self.receipts[name].append(world.members[name].receipt)
            if name in refused:
                world.members[name].withdraw()
            else:
                round_.add_input(header, ciphertext)
                self.transcript.keep_upload(name, ciphertext)
        if stop:
            return round_
        if fail:
            self.transcript.abort_round(
                announcement=round_.announcement,
                headers=round_.headers,
                server_round=self.server_round,
                reason="too few",
            )
            return round_
        published = round_.finish()
        published = published if change is None else change(published)
        self.transcript.complete_round(published, server_round=self.server_round)
        self.sums.append(published)
        return round_

    def accept(self, name, announcement):
        """E0 at one site, with a peer's snapshot before it where the site missed too much."""
        world, before = self.world, self.sums[-1] if self.sums else None
        try:
            world.accept(name, announcement, before)
        except StaleMemberError:
            giver = max((peer for peer in self.names if peer != name), key=lambda peer: world.members[peer].completed)
            world.adopt(name, *world.snapshot(giver))
            world.accept(name, announcement, before)

    def rerun(self, **settings):
        """The last round once more, as after a sum that did not decrypt."""
        self.sums.pop()
        return self.play(**settings)

    def end(self, *, stop=False):
        """E2 of all sites, and its entry."""
        world = self.world
        world.last_round += 1
        end = world.server.announce_end(
            round_number=world.last_round,
            server_round=self.server_round,
            plan_hash=PLAN,
            before=self.sums[-1],
            previous=self.transcript.previous,
        )
        self.transcript.note_open(announcement=end.announcement, server_round=self.server_round)
        messages = []
        for name in self.names:
            self.accept(name, end.announcement)
            messages.append(world.members[name].close())
            self.receipts[name].append(world.members[name].receipt)
        if not stop:
            self.transcript.complete_end(
                announcement=end.announcement, endings=end.collect(messages), server_round=self.server_round
            )

    def all_receipts(self):
        return [receipt for kept in self.receipts.values() for receipt in kept]


def entry_files(folder):
    """The bytes of all entries, in order."""
    return [path.read_bytes() for path in sorted((folder / "entries").glob("*.cbor"))]


def contents(folder):
    return [FORMAT.decode_entry(data).content for data in entry_files(folder)]


def reader(folder):
    """The uploads of a folder."""

    def read(number, owner, *, limit):
        path = folder / FORMAT.vector_name(number, owner)
        return path.read_bytes()[:limit] if path.exists() else None

    return read


def verify(folder, *, anchor, entries=None, head=None, receipts=(), read=None):
    """All findings, through the pure functions."""
    verifier = EncryptedVerifier(anchor=anchor, read=read or reader(folder))
    found = [item for data in entries or entry_files(folder) for item in verifier.add(data).findings]
    found += verifier.finish((folder / HEAD).read_bytes() if head is None else head)
    return [*found, *verifier.check_receipts(receipts)]


def failed(findings):
    """What did not hold."""
    return [finding for finding in findings if finding.status == "failed"]
