"""A site's part of an encrypted run: take the group key, step on the sums, train, encrypt, help peers, end.

Runs at a site, on unverified requests of a session that the site has joined. Every protocol message goes through
privacy.he; what is announced is compared with the plan that the site agreed to. The server's step is taken here, by
every site on the same integers, and the model stays here. Site state is on disk before an answer leaves.

It does not protect against a site that works with the aggregator: they read every update together.
"""

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clients.contribution import contribute, note
from clients.encrypted_run import EncryptedRun
from clients.requests import leading_payloads, require_round, wants_validation
from clients.site import Session, Site
from privacy.errors import HostileInputError
from privacy.fixed_point import decode_sum
from privacy.he.distribution import CHANNEL_PURPOSE
from privacy.he.errors import UnreadableSumError
from privacy.he.member import GroupMember
from privacy.he.requests import EncryptedAnnouncement
from privacy.secagg.channels import SessionChannels
from privacy.streams import Words
from secfed.errors import PolicyRefusal
from secfed.messages import Reply, Request, Stage
from secfed.parameters import model_digest
from secfed.protected_vector import unpack_sum
from secfed.server_optimizer import ServerState, step


class EncryptedStages:
    """Answers the stages that belong to encrypted runs alone."""

    def __init__(self, site: Site, session: Session) -> None:
        self.site = site
        self.session = session
        self.run = EncryptedRun(site, session)

    def check_run(self, initial: npt.NDArray[np.float32] | None) -> None:
        """Before joining: a run goes on as what it began; `initial` is the model that the plan may name."""
        self.run.check()
        self.run.begin(initial)

    def answer(self, request: Request) -> Reply:
        """Dispatch by stage."""
        stages = {
            Stage.OFFER: self.offer,
            Stage.TAKE: self.take,
            Stage.TRAIN: self.train,
            Stage.SNAPSHOT: self.snapshot,
            Stage.RESTORE: self.restore,
            Stage.END: self.end,
            Stage.FINISH: self.finish,
        }
        return stages[request.stage](request)

    def offer(self, request: Request) -> Reply:
        """G0: which group key this site holds, sealed to its peers, and where it stands."""
        client = self.site.protocol_client()
        client.accept_confirmations(request.payloads)
        member = self.run.rejoin()
        message, sealed = member.offer(client.channels(CHANNEL_PURPOSE))
        self.site.keep(client)
        self.run.keep(member)
        return self.site.reply(request, message, attachment=sealed or None)

    def take(self, request: Request) -> Reply:
        """G1: the key of the run, from a peer where this site lacks it."""
        member = self.run.member()
        sealed = () if request.attachment is None else (request.attachment,)
        message = member.accept_offers(self._channels(), request.payloads, sealed)
        self.run.keep(member)
        return self.site.reply(request, message)

    def train(self, request: Request) -> Reply:
        """E0 and E1: step on the sum before, train on the model that gives, encrypt the update."""
        plan = self.session.plan
        require_round(request, plan, last=plan.federation.rounds)
        started = time.perf_counter()
        member, state = self._follow(request, step="round")
        stepped_at = time.perf_counter()
        made = contribute(
            self.site,
            self.session,
            model=state.model,
            server_round=request.binding.server_round,
            validate=wants_validation(request),
        )
        trained_at = time.perf_counter()
        header, ciphertext = member.encrypt(made.encoded)
        self.run.keep(member)
        self._keep_receipt(member)
        protecting = (stepped_at - started) + (time.perf_counter() - trained_at)
        note(self.site, self.session, made, protection_seconds=protecting)
        return self.site.reply(request, header, attachment=ciphertext)

    def end(self, request: Request) -> Reply:
        """E0 and E2: step on the last sum, and say by a tag on which model this site ends."""
        require_round(request, self.session.plan, last=self.session.plan.federation.rounds + 1)
        member, _ = self._follow(request, step="end")
        message = member.close()
        self.run.keep(member)
        self._keep_receipt(member)
        return self.site.reply(request, message)

    def finish(self, request: Request) -> Reply:
        """Given everybody's E2, erase the group key: the run is over."""
        member = self.run.member()
        member.finish(request.payloads)
        self.run.keep(member)
        self.site.books.log("ended", run=self.session.run.hex(), rounds=member.completed, model=member.model_hash.hex())
        return self.site.reply(request)

    def snapshot(self, request: Request) -> Reply:
        """The model, sealed under the group key, for peers that missed rounds."""
        member = self._ready(request.payloads)
        header, sealed = member.give_snapshot(self.run.snapshot(self.run.state(member)))
        return self.site.reply(request, header, attachment=sealed)

    def restore(self, request: Request) -> Reply:
        """Stand where a peer stands: its snapshot, signed and sealed."""
        (header,), confirmations = leading_payloads(request, 1)
        if request.attachment is None:
            raise PolicyRefusal("the restore stage carries no snapshot")
        member = self._ready(confirmations)
        found = member.read_snapshot(header, request.attachment)
        state = self.run.read_snapshot(found.payload)
        digest = model_digest(state.model, self.session.layout)
        member.adopt_snapshot(header, model_hash=digest)
        if state.completed != member.completed:
            raise HostileInputError("the snapshot is of another round than its header says", party=found.giver)
        self.run.save(state)
        self.run.keep(member)
        self.site.books.log("restored", run=self.session.run.hex(), rounds=member.completed, giver=found.giver)
        return self.site.reply(request)

    def _follow(self, request: Request, *, step: str) -> tuple[GroupMember, ServerState]:
        """Check what is announced, and stand on the model that it is about."""
        (announcement, previous), confirmations = leading_payloads(request, 2)
        member = self._ready(confirmations)
        announced = EncryptedAnnouncement.from_bytes(announcement)
        self._check(announced, request, step=step)
        if request.fields.get("late") == 1 and member.stage in ("READY", "UPLOADED"):
            # Only this site's own part is at stake, and whoever relays could withhold it anyway. READY after an upload
            # is a site that has joined a new session since, or was given a snapshot.
            member.withdraw()
            self.site.books.log("upload came too late", round=announced.server_round - 1)
        before = self.run.state(member)
        slots = self.session.slots
        try:
            words = member.accept(
                announcement,
                previous=previous or None,
                total=request.attachment,
                max_abs=len(announced.contributors) * slots.max_integer + slots.noise_tail,
            )
        except UnreadableSumError:
            # The state counts sums that did not decrypt.
            self.run.keep(member)
            raise
        if words is None:
            return member, before
        return member, self._step(member, announced, before, words)

    def _step(
        self, member: GroupMember, announced: EncryptedAnnouncement, before: ServerState, words: Words
    ) -> ServerState:
        """The server's step, on integers that all sites have alike."""
        session = self.session
        try:
            average = unpack_sum(decode_sum(words, vector_format=session.slots), slots=session.slots)
        except ValueError as error:
            raise UnreadableSumError(str(error)) from error
        after = step(before, average, federation=session.plan.federation, layout=session.layout)
        digest = model_digest(after.model, session.layout)
        self.run.save(after)
        self.site.books.round(
            run=session.run,
            server_round=after.completed,
            model_hash=digest,
            contributors=announced.contributors,
            metrics=average.metrics,
        )
        member.record_model(digest)
        # Training may take hours: whoever is killed in it need not be shown this sum again.
        self.run.keep(member)
        return after

    def _check(self, announced: EncryptedAnnouncement, request: Request, *, step: str) -> None:
        """What only the plan says: privacy.he checks the rest."""
        session = self.session
        if announced.step != step:
            raise PolicyRefusal(f"stage '{request.stage}' came with the announcement of '{announced.step}'")
        bound = (request.binding.sequence, request.binding.server_round)
        if (announced.round_number, announced.server_round) != bound:
            raise PolicyRefusal("the announced round is not the one that the request is bound to")
        if announced.plan_hash != session.plan.digest():
            raise PolicyRefusal("the announced plan is not the one that this site agreed to")
        if announced.vector_length != (session.slots.length if step == "round" else 0):
            raise PolicyRefusal("the announced vector length is not that of the agreed model")
        if step == "end" and announced.server_round != session.plan.federation.rounds + 1:
            raise PolicyRefusal(f"the end was announced before round {session.plan.federation.rounds}, the last")

    def _ready(self, confirmations: Sequence[bytes]) -> GroupMember:
        """The protocol state; a session's first request after `take` also brings all confirmations of the key."""
        member = self.run.member()
        if member.stage == "CONFIRMED":
            member.accept_confirmations(self._channels(), confirmations)
            self.run.keep(member)
        return member

    def _channels(self) -> SessionChannels:
        return self.site.protocol_client().channels(CHANNEL_PURPOSE)

    def _keep_receipt(self, member: GroupMember) -> None:
        receipt = member.receipt
        if receipt is not None:
            self.site.books.receipt(receipt)
