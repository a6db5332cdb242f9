"""What a site does at each stage of a run: policy first, then the protocol, then its own durable state, then the reply.

Runs at a site. A request is unverified until it has been checked: the plan against the site's policy, the binding
against the open session, the stage against the protection that was agreed. What a site sends is a signed protocol
message, a masked vector, a ciphertext or, in plain mode and only where its policy allows plain, the unmasked integers.
"""

from clients.contribution import contribute, note
from clients.device import compute_of
from clients.encrypted_stages import EncryptedStages
from clients.masked_stages import MaskedStages
from clients.own_layers import modality_of
from clients.requests import int_field, require_initial_model, require_round, text_field, wants_validation
from clients.site import Session, Site
from clients.training import samples_for, steps_of
from privacy.errors import HostileInputError
from privacy.secagg.client import SecAggClient
from privacy.secagg.roster import Roster
from secfed.config import ProtectionMode, TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.errors import DataError, PolicyRefusal, RosterRefusal
from secfed.messages import BadMessage, Reply, Request, Stage
from secfed.parameters import ParameterLayout, model_digest

_SETUP = frozenset({Stage.ENCAPSULATE, Stage.CONFIRM})
_STAGES: dict[ProtectionMode, frozenset[Stage]] = {
    "plain": frozenset({Stage.TRAIN}),
    "masked": _SETUP | {Stage.SHARE, Stage.TRAIN, Stage.AGREE, Stage.UNMASK},
    "encrypted": _SETUP
    | {Stage.OFFER, Stage.TAKE, Stage.TRAIN, Stage.SNAPSHOT, Stage.RESTORE, Stage.END, Stage.FINISH},
}


class Participant:
    """Answers one request for one site."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def answer(self, request: Request) -> Reply:
        """Dispatch by stage; raises what the stage raises, and nothing has left the site then."""
        if request.stage is Stage.JOIN:
            return self.join(request)
        session = self.site.session(run=request.binding.run, session=request.binding.session)
        mode = session.plan.protection.mode
        if request.stage not in _STAGES[mode]:
            # Keys of one protocol are never to be used in another, whatever the aggregator asks for.
            raise PolicyRefusal(f"stage '{request.stage}' does not belong to a run with protection = '{mode}'")
        if request.stage in _SETUP:
            return self.set_up(request)
        if mode == "masked":
            return MaskedStages(self.site, session).answer(request)
        if mode == "encrypted":
            return EncryptedStages(self.site, session).answer(request)
        return self.train_in_plain(request, session)

    def join(self, request: Request) -> Reply:
        """Agree to a plan, or refuse it; in protected runs the reply advertises this session's keys."""
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
            max_clients=int_field(request, "max_clients"),
        )
        cases = self.site.cases(plan)
        if not cases.examples:
            raise DataError(f"site '{self.site.name}' has no training cases")
        if plan.federation.normalisation == "fednorm":
            modality_of(self.site, plan)
        samples = [samples_for(source, plan.training) for source in cases.sources]
        self.site.file.policy.check_samples(sum(samples))
        # Steps differ by one image at most.
        require_computable(
            self.site, plan, smallest_step=sum(samples) // steps_of(cases.sources, samples, plan.training)
        )
        if plan.privacy.mode != "off":
            from clients.private_contribution import require_affordable

            require_affordable(self.site, session)
        client = None
        payload = b""
        if plan.protection.mode != "plain":
            roster = _agreed_roster(self.site, request)
            if session.max_clients != len(roster.members):
                raise PolicyRefusal(f"max_clients = {session.max_clients} is not the roster's {len(roster.members)}")
            client = SecAggClient.create(
                identity=self.site.identity(),
                roster=roster,
                session=session.session,
                floors=self.site.floors(session),
                opened=self.site.opened_sums(),
            )
            payload = client.advertise_keys()
        if plan.protection.mode == "encrypted":
            EncryptedStages(self.site, session).check_run(request.vector)
        self.site.open_session(session, client)
        return self.site.reply(request, payload)

    def set_up(self, request: Request) -> Reply:
        """The stages that give every pair of sites a key of their own, in masked and in encrypted runs."""
        client = self.site.protocol_client()
        if request.stage is Stage.ENCAPSULATE:
            payload = client.encapsulate_keys(request.payloads)
        else:
            payload = client.confirm_keys(request.payloads)
        self.site.keep(client)
        return self.site.reply(request, payload)

    def train_in_plain(self, request: Request, session: Session) -> Reply:
        """Train on the global model, encode the update, and send it as it is."""
        model = request.vector
        if model is None or model.shape != (session.layout.size,):
            raise PolicyRefusal("the train stage must carry the global model in the agreed layout")
        require_round(request, session.plan, last=session.plan.federation.rounds)
        digest = model_digest(model, session.layout)
        require_initial_model(session.plan, digest, server_round=request.binding.server_round)
        self.site.file.policy.check_cohort(int_field(request, "cohort_size"))
        made = contribute(
            self.site,
            session,
            model=model,
            server_round=request.binding.server_round,
            validate=wants_validation(request),
        )
        note(self.site, session, made, protection_seconds=0.0)
        return self.site.reply(request, b"", vector=made.encoded)


def require_computable(site: Site, plan: TrainingPlan, *, smallest_step: int) -> None:
    """What would stop a round is said when the site joins: the devices, their shares of a step, and the compiler.

    Raises:
        PolicyRefusal: the site's settings do not go together with the plan.
        ConfigError: the machine has not got what site.toml says.
    """
    computing = site.file.computing
    computing.check_plan(plan)
    computing.check_step(smallest_step)
    compute = compute_of(site.file)
    if compute.compiled:
        from clients.compilation import require_compiler

        require_compiler(compute.device)


def _offer(request: Request) -> tuple[TrainingPlan, ParameterLayout]:
    try:
        plan = TrainingPlan.model_validate_json(text_field(request, "plan"))
        layout = ParameterLayout.from_json(text_field(request, "layout"))
    except ValueError as error:
        raise BadMessage(f"the offered plan or layout cannot be read: {error}") from error
    return plan, layout


def _agreed_roster(site: Site, request: Request) -> Roster:
    """The site's roster, where the aggregator works with the same one; else the protocol would fail with less words."""
    try:
        roster = site.roster()
    except HostileInputError as error:
        raise RosterRefusal(str(error)) from error
    theirs, version = text_field(request, "roster"), int_field(request, "roster_version")
    if theirs != roster.digest.hex():
        holder = "this site" if version > roster.version else "the aggregator"
        what = "is older" if version != roster.version else "is another one under the same number"
        raise RosterRefusal(
            f"the aggregator works with version {version} of the roster, this site holds version {roster.version}: "
            f"that of {holder} {what}; it accepts the consortium's newest with `secfed provision accept`"
        )
    return roster


def _check_layout(plan: TrainingPlan, layout: ParameterLayout) -> None:
    # The layout must be the one that this site's own code builds for the plan: a server cannot add layers.
    from secfed.model import state_layout
    from secfed.network import build_network

    model = build_network(plan, num_classes=LABEL_MAPS[plan.task].num_classes)
    expected = state_layout(model, plan.training.optimizer_state, plan.federation.normalisation)
    if expected != layout:
        raise PolicyRefusal("the offered model layout is not the one that the plan's architecture has")
