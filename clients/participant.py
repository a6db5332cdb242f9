"""What a site does at each stage of a run: policy first, then the protocol, then its own durable state, then the reply.

Runs at a site. A request is unverified until this module has checked it: the plan against the site's policy, the
binding against the open session, the model against the hash that the site signed, and every protocol message through
privacy.secagg. What a site sends is either a signed protocol message, a masked vector or, in plain mode and only where
its policy allows plain, the unmasked integers.
"""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clients.device import torch_device
from clients.site import Session, Site, SiteCases
from clients.update import TrainedRound, encode_update, rounding_stream
from privacy.fixed_point import VectorFormat
from privacy.secagg.client import SecAggClient
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
            case Stage.ENCAPSULATE:
                return self._relay(request, lambda client: client.encapsulate_keys(request.payloads))
            case Stage.CONFIRM:
                return self._relay(request, lambda client: client.confirm_keys(request.payloads))
            case Stage.SHARE:
                return self.share(request)
            case Stage.TRAIN:
                return self.train(request)
            case Stage.UNMASK:
                return self._relay(request, lambda client: client.unmask(_only_payload(request)))

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
        if not self.site.cases(plan).examples:
            raise DataError(f"site '{self.site.name}' has no training cases")
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
            )
            payload = client.advertise_keys()
        self.site.open_session(session, client)
        return self._reply(request, payload)

    def share(self, request: Request) -> Reply:
        """Enter a round: draw its secrets and share them. The first round also brings the peers' confirmations."""
        session = self._session(request)
        client = self.site.protocol_client()
        if request.payloads[1:]:
            client.accept_confirmations(request.payloads[1:])
        if not request.payloads:
            raise PolicyRefusal("the share stage carries no announcement")
        payload = client.begin_round(request.payloads[0])
        announced = client.announcement
        if announced is None or announced.round_number != request.binding.sequence:
            raise PolicyRefusal("the announced round is not the one that the request is bound to")
        if announced.plan_hash != session.plan.digest():
            raise PolicyRefusal("the announced plan is not the one that this site agreed to")
        if announced.vector_length != _slots(session).length:
            raise PolicyRefusal("the announced vector length is not that of the agreed model")
        self.site.keep(client)
        return self._reply(request, payload)

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
            announced = client.announcement
            if announced is None or announced.round_number != request.binding.sequence:
                raise PolicyRefusal("the request is bound to another round than the open one")
            if model_digest(model, layout) != announced.model_hash:
                raise PolicyRefusal("the model is not the one that was announced for this round")
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
            header, vector = client.mask(request.payloads, encoded)
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
        return self._reply(request, header, vector)

    def _relay(self, request: Request, act: Callable[[SecAggClient], bytes]) -> Reply:
        self._session(request)
        client = self.site.protocol_client()
        payload = act(client)
        self.site.keep(client)
        return self._reply(request, payload)

    def _session(self, request: Request) -> Session:
        return self.site.session(run=request.binding.run, session=request.binding.session)

    def _reply(self, request: Request, payload: bytes, vector: npt.NDArray[np.uint32] | None = None) -> Reply:
        return Reply(stage=request.stage, binding=request.binding, site=self.site.name, payload=payload, vector=vector)


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
