"""What a site does at each stage of a run: policy first, then the protocol, then its own durable state, then the reply.

Runs at a site. A request is unverified until this module has checked it: the plan against the site's policy, the
binding against the open session, the model against the hash that the site signed, and every protocol message through
privacy.secagg. What a site sends is either a signed protocol message, a masked vector or, in plain mode and only where
its policy allows plain, the unmasked integers.
"""

import time

import numpy as np
import numpy.typing as npt

from clients.device import torch_device
from clients.site import Session, Site, SiteCases
from clients.training import samples_for
from clients.update import TrainedRound, encode_update, rounding_stream
from privacy.errors import HostileInputError
from privacy.fixed_point import VectorFormat
from privacy.secagg.client import SecAggClient
from privacy.secagg.requests import RoundAnnouncement
from secfed.config import TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.errors import DataError, PolicyRefusal
from secfed.messages import BadMessage, Reply, Request, Stage
from secfed.parameters import ParameterLayout, model_digest
from secfed.protected_vector import example_weight, vector_format


class Participant:
    """Answers one request for one site."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def answer(self, request: Request) -> Reply:
        """Dispatch by stage; raises what the stage raises, and nothing has left the site then."""
        match request.stage:
            case Stage.JOIN:
                return self.join(request)
            case Stage.SHARE:
                return self.share(request)
            case Stage.TRAIN:
                return self.train(request)
            case Stage.UNMASK:
                return self.unmask(request)
            case Stage.ENCAPSULATE | Stage.CONFIRM | Stage.AGREE:
                return self.relay(request)

    def join(self, request: Request) -> Reply:
        """Agree to a plan, or refuse it; in masked runs the reply advertises this session's keys."""
        plan, layout = _offer(request)
        if self.site.has_joined(request.binding.session):
            # Keys and masks of a session are for one use; another attempt needs another session.
            raise PolicyRefusal("this site has joined that session already")
        self.site.file.policy.check_plan(plan, num_parameters=layout.num_parameters)
        _check_layout(plan, layout)
        session = Session(
            run=request.binding.run,
            session=request.binding.session,
            plan=plan,
            layout=layout,
            max_clients=_int_field(request, "max_clients"),
        )
        cases = self.site.cases(plan)
        if not cases.examples:
            raise DataError(f"site '{self.site.name}' has no training cases")
        self.site.file.policy.check_samples(sum(samples_for(source, plan.training) for source in cases.sources))
        client = None
        payload = b""
        if plan.protection.mode == "masked":
            roster = self.site.roster()
            if session.max_clients != len(roster.members):
                raise PolicyRefusal(f"max_clients = {session.max_clients} is not the roster's {len(roster.members)}")
            slots = _slots(session)
            client = SecAggClient.create(
                identity=self.site.identity(),
                roster=roster,
                session=session.session,
                floors=self.site.floors(max_vector_length=slots.length),
                opened=self.site.opened_sums(),
            )
            payload = client.advertise_keys()
        self.site.open_session(session, client)
        return self._reply(request, payload)

    def share(self, request: Request) -> Reply:
        """Enter a round: draw its secrets and share them. The first round also brings the peers' confirmations."""
        self._session(request)
        client = self.site.protocol_client()
        if not request.payloads:
            raise PolicyRefusal("the share stage carries no invitation")
        if request.payloads[1:]:
            client.accept_confirmations(request.payloads[1:])
        payload = client.share(request.payloads[0])
        self.site.keep(client)
        return self._reply(request, payload)

    def unmask(self, request: Request) -> Reply:
        """Release what opens the sum, and deal the secrets of the next round where one is announced with it."""
        self._session(request)
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
        return self._reply(request, *payloads)

    def train(self, request: Request) -> Reply:
        """Train on the global model, encode the update and protect it."""
        from clients.evaluation import mean_dice_by_modality
        from clients.training import train_one_round

        session = self._session(request)
        plan, layout = session.plan, session.layout
        model = request.vector
        if model is None or model.shape != (layout.size,):
            raise PolicyRefusal("the train stage must carry the global model in the agreed layout")
        if not 1 <= request.binding.server_round <= plan.federation.rounds:
            raise PolicyRefusal(
                f"round {request.binding.server_round} was asked for, the agreed plan has rounds 1 to "
                f"{plan.federation.rounds}"
            )
        client = None
        if plan.protection.mode == "masked":
            client = self.site.protocol_client()
            complaint = self._enter_round(request, session, client, model_hash=model_digest(model, layout))
            if complaint is not None:
                self.site.keep(client)
                return self._reply(request, complaint)
        else:
            self.site.file.policy.check_cohort(_int_field(request, "cohort_size"))
        cases: SiteCases = self.site.cases(plan)
        device = torch_device(self.site.file.device)
        validation = {}
        if request.fields.get("validate") == 1 and cases.validation:
            scores = mean_dice_by_modality(model, layout, cases.validation, plan=plan, device=device)
            validation = {
                f"validation_{kind}_{modality.lower()}": value
                for modality, (dice_sum, count) in scores.items()
                for kind, value in (("dice", dice_sum), ("cases", float(count)))
            }
        started = time.perf_counter()
        outcome = train_one_round(
            plan=plan,
            sources=cases.sources,
            start=np.asarray(model, np.float32),
            layout=layout,
            server_round=request.binding.server_round,
            state_folder=self.site.state,
            device=device,
            durable_state=self.site.file.durable_state,
        )
        trained_at = time.perf_counter()
        encoded = encode_update(
            TrainedRound(
                start=model,
                weights=outcome.weights,
                example_weight=example_weight(cases.examples, plan.federation),
                train_loss=outcome.mean_loss,
                validation=validation,
            ),
            plan=plan,
            layout=layout,
            slots=_slots(session),
            rounding=rounding_stream(self.site.rounding_key, plan=plan, server_round=request.binding.server_round),
        )
        encoded_at = time.perf_counter()
        header, vector = b"", encoded
        if client is not None:
            header, vector = client.mask(encoded)
            self.site.keep(client)
        masked_at = time.perf_counter()
        if request.binding.server_round == plan.federation.rounds:
            self.site.books.histogram(encoded, server_round=request.binding.server_round)
        self.site.books.timing(
            server_round=request.binding.server_round,
            training_seconds=trained_at - started,
            encoding_seconds=encoded_at - trained_at,
            masking_seconds=0.0 if client is None else masked_at - encoded_at,
            samples=outcome.samples,
        )
        return self._reply(request, header, vector=vector)

    def _enter_round(
        self, request: Request, session: Session, client: SecAggClient, *, model_hash: bytes
    ) -> bytes | None:
        """Check what the round is about and what the others dealt, before hours of training; maybe a complaint."""
        if not request.payloads:
            raise PolicyRefusal("the train stage carries no announcement")
        announced = RoundAnnouncement.from_bytes(request.payloads[0])
        if announced.round_number != request.binding.sequence:
            raise PolicyRefusal("the announced round is not the one that the request is bound to")
        if announced.plan_hash != session.plan.digest():
            raise PolicyRefusal("the announced plan is not the one that this site agreed to")
        if announced.vector_length != _slots(session).length:
            raise PolicyRefusal("the announced vector length is not that of the agreed model")
        if announced.model_hash != model_hash:
            raise PolicyRefusal("the model is not the one that was announced for this round")
        return client.accept(request.payloads[0], request.payloads[1:])

    def relay(self, request: Request) -> Reply:
        """The stages that only the protocol knows: keys, confirmations, and the agreement on the survivor set."""
        self._session(request)
        client = self.site.protocol_client()
        match request.stage:
            case Stage.ENCAPSULATE:
                payload = client.encapsulate_keys(request.payloads)
            case Stage.CONFIRM:
                payload = client.confirm_keys(request.payloads)
            case _:
                payload = client.agree(_only_payload(request))
        self.site.keep(client)
        return self._reply(request, payload)

    def _session(self, request: Request) -> Session:
        return self.site.session(run=request.binding.run, session=request.binding.session)

    def _reply(self, request: Request, *payloads: bytes, vector: npt.NDArray[np.uint32] | None = None) -> Reply:
        return Reply(
            stage=request.stage, binding=request.binding, site=self.site.name, payloads=payloads, vector=vector
        )


def _offer(request: Request) -> tuple[TrainingPlan, ParameterLayout]:
    try:
        plan = TrainingPlan.model_validate_json(_text_field(request, "plan"))
        layout = ParameterLayout.from_json(_text_field(request, "layout"))
    except ValueError as error:
        raise BadMessage(f"the offered plan or layout cannot be read: {error}") from error
    return plan, layout


def _slots(session: Session) -> VectorFormat:
    return vector_format(session.layout, session.plan, cohort_size=session.max_clients)


def _check_layout(plan: TrainingPlan, layout: ParameterLayout) -> None:
    # The layout must be the one that this site's own code builds for the plan: a server cannot add layers.
    from secfed.model import build_model, state_layout

    model = build_model(plan.model, num_classes=LABEL_MAPS[plan.task].num_classes)
    expected = state_layout(model, plan.training.optimizer_state)
    if expected != layout:
        raise PolicyRefusal("the offered model layout is not the one that the plan's architecture has")


def _only_payload(request: Request) -> bytes:
    if len(request.payloads) != 1:
        raise PolicyRefusal(f"the {request.stage} stage carries one payload, got {len(request.payloads)}")
    return request.payloads[0]


def _text_field(request: Request, name: str) -> str:
    value = request.fields.get(name)
    if not isinstance(value, str):
        raise PolicyRefusal(f"the {request.stage} stage must carry the text '{name}'")
    return value


def _int_field(request: Request, name: str) -> int:
    value = request.fields.get(name)
    if type(value) is not int:
        raise PolicyRefusal(f"the {request.stage} stage must carry the whole number '{name}'")
    return value
