"""A site's part of a masked round: enter it, train, mask, agree on the survivors, release what opens the sum.

Runs at a site, on unverified requests of a session that the site has joined. Every protocol message goes through
privacy.secagg; the site's state is on disk before an answer leaves.
"""

import time

from clients.contribution import contribute, note
from clients.requests import (
    leading_payloads,
    only_payload,
    require_initial_model,
    require_round,
    wants_validation,
)
from clients.site import Session, Site
from privacy.errors import HostileInputError
from privacy.secagg.client import SecAggClient
from privacy.secagg.requests import RoundAnnouncement
from secfed.errors import PolicyRefusal
from secfed.messages import Reply, Request, Stage
from secfed.parameters import model_digest


class MaskedStages:
    """Answers the stages that belong to masked runs alone."""

    def __init__(self, site: Site, session: Session) -> None:
        self.site = site
        self.session = session

    def answer(self, request: Request) -> Reply:
        """Dispatch by stage."""
        match request.stage:
            case Stage.SHARE:
                return self.share(request)
            case Stage.TRAIN:
                return self.train(request)
            case Stage.UNMASK:
                return self.unmask(request)
            case _:
                client = self.site.protocol_client()
                payload = client.agree(only_payload(request))
                self.site.keep(client)
                return self.site.reply(request, payload)

    def share(self, request: Request) -> Reply:
        """Enter a round: draw its secrets and share them. The first round also brings the peers' confirmations."""
        client = self.site.protocol_client()
        (invitation,), confirmations = leading_payloads(request, 1)
        if confirmations:
            client.accept_confirmations(confirmations)
        payload = client.share(invitation)
        self.site.keep(client)
        return self.site.reply(request, payload)

    def train(self, request: Request) -> Reply:
        """Train on the global model, encode the update and mask it."""
        session = self.session
        model = request.vector
        if model is None or model.shape != (session.layout.size,):
            raise PolicyRefusal("the train stage must carry the global model in the agreed layout")
        require_round(request, session.plan, last=session.plan.federation.rounds)
        client = self.site.protocol_client()
        complaint = self._enter_round(request, client, model_hash=model_digest(model, session.layout))
        if complaint is not None:
            self.site.keep(client)
            return self.site.reply(request, complaint)
        made = contribute(
            self.site,
            session,
            model=model,
            server_round=request.binding.server_round,
            validate=wants_validation(request),
        )
        started = time.perf_counter()
        header, vector = client.mask(made.encoded)
        self.site.keep(client)
        note(self.site, session, made, protection_seconds=time.perf_counter() - started)
        return self.site.reply(request, header, vector=vector)

    def unmask(self, request: Request) -> Reply:
        """Release what opens the sum, and deal the secrets of the next round where one is announced with it."""
        if not 1 <= len(request.payloads) <= 2:
            raise PolicyRefusal(f"the unmask stage carries one or two payloads, got {len(request.payloads)}")
        client = self.site.protocol_client()
        receipt = client.receipt
        payloads = [client.unmask(request.payloads[0])]
        if receipt is not None:
            self.site.books.receipt(receipt)
        self.site.remember_opened(client)
        for invitation in request.payloads[1:]:
            try:
                payloads.append(client.share(invitation))
            except HostileInputError as error:
                # The shares that open this round's sum are due whatever the next round is to be.
                self.site.books.log("refused", stage="share", round=request.binding.server_round, error=repr(error))
        self.site.keep(client)
        return self.site.reply(request, *payloads)

    def _enter_round(self, request: Request, client: SecAggClient, *, model_hash: bytes) -> bytes | None:
        """Check what the round is about and what the others dealt, before hours of training; maybe a complaint."""
        (announcement,), shares = leading_payloads(request, 1)
        announced = RoundAnnouncement.from_bytes(announcement)
        if announced.round_number != request.binding.sequence:
            raise PolicyRefusal("the announced round is not the one that the request is bound to")
        if announced.plan_hash != self.session.plan.digest():
            raise PolicyRefusal("the announced plan is not the one that this site agreed to")
        if announced.vector_length != self.session.slots.length:
            raise PolicyRefusal("the announced vector length is not that of the agreed model")
        if announced.model_hash != model_hash:
            raise PolicyRefusal("the model is not the one that was announced for this round")
        require_initial_model(self.session.plan, model_hash, server_round=request.binding.server_round)
        return client.accept(announcement, shares)
