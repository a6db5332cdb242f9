"""A site's part of a round under differential privacy: charge, sample patients, clip each one, add noise, encode.

    at the join      the network takes patients one by one, the noise can be accounted, the budget has a round left

    known question?  -> the very integers that were let out before
    charge           the ledger, on the disk before any patient is looked at; refused where the budget is spent
    sample           every patient by an exact coin (privacy.patient_sampling)
    clip             each patient's gradient, mean over patches and views (privacy.patientwise)
    noise            exact integers of the discrete Gaussian (privacy.noise), this site's share or all of it
    keep             the integers, before they leave

Runs at a site. Nothing about patients leaves but these integers: no loss, no score, no count of who was sampled. What
the sites' sizes are is public by agreement. It does not protect a person who stands in the data of two sites.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clients.contribution import Contribution
from clients.device import compute_of
from clients.releases import Releases
from clients.site import Session, Site
from clients.update import rounding_stream
from privacy.cbor import to_cbor
from privacy.clipping import clip_by_l2_norm
from privacy.errors import PrivacyError
from privacy.fixed_point import encode
from privacy.noise import add_share, noise_share
from privacy.patient_sampling import poisson_lot
from privacy.segment import Segment
from privacy.streams import Keystream, Words
from secfed.config import TrainingPlan
from secfed.errors import ConfigError, DataError, PolicyRefusal
from secfed.parameters import FloatVector, ParameterLayout, model_digest
from secfed.privacy_plan import noise_split, read_alone, round_cost
from secfed.protected_vector import ModelUpdate, example_weight, pack

if TYPE_CHECKING:
    from clients.patient_training import PatientTraining
    from clients.patients import Patient

RELEASES = "releases"
_NOTHING: npt.NDArray[np.float64] = np.zeros(0)


@dataclass(frozen=True, kw_only=True)
class _Round:
    """One round at one site: everything that its streams are bound to."""

    site: Site
    session: Session
    patients: "tuple[Patient, ...]"
    fingerprint: bytes
    model: FloatVector
    server_round: int

    @property
    def plan(self) -> TrainingPlan:
        return self.session.plan

    @property
    def question(self) -> bytes:
        """The same plan, round, model and data, and nothing that depends on how updates travel."""
        return self._digest("secfed question/1")

    @property
    def release(self) -> bytes:
        """What was paid for: the question, among how many sites, and whether somebody reads this site alone.

        Integers that were let out under masks cost less than the same ones do in plain.
        """
        return self._digest("secfed release/2", self.session.max_clients, int(read_alone(self.plan)))

    def _digest(self, *bound: str | int) -> bytes:
        return hashlib.sha256(
            to_cbor(
                [
                    *bound,
                    self.plan.unprotected_digest(),
                    self.server_round,
                    model_digest(self.model, self.session.layout),
                    self.fingerprint,
                ]
            )
        ).digest()

    @property
    def weight(self) -> float:
        """This site's patients over the cap: public, as the sites' sizes are."""
        return example_weight(len(self.patients), self.plan.federation)

    def samples(self, patients: int) -> int:
        """Images that so many patients gave, for the site's own books."""
        return patients * self.plan.privacy.patches * self.plan.privacy.views

    def opened(self) -> "AbstractContextManager[PatientTraining]":
        """The network at this round's model."""
        from clients.patient_training import PatientTraining

        return PatientTraining.opened(
            plan=self.plan,
            layout=self.session.layout,
            patients=self.patients,
            start=self.model,
            server_round=self.server_round,
            device=compute_of(self.site.file).device,
        )

    def stream(self, label: str) -> Keystream:
        """Fresh from the operating system; in a simulation from its seed and the question."""
        return Keystream(self.site.noise_key(label=label, context={"release": self.question}))


def require_affordable(site: Site, session: Session) -> None:
    """What would stop a round is said when a site joins, while no patient has been looked at and nothing is charged.

    Raises:
        PolicyRefusal: the noise cannot be accounted for, or the network or the loss couples patients.
        BudgetSpentError: what is left of the budget does not hold one round.
        LedgerError, DataError: as `contribute_privately`.
    """
    from clients.budget import require_a_round

    plan, patients = session.plan, _patients(site, session.plan)
    try:
        cost = _cost(session)
        # A simulation's key in the folder of a real site is found before anything is charged.
        site.noise_key(label="noise", context={"release": bytes(32)})
        if plan.privacy.mode != "silo":
            # Nobody's model, and not zero, at which a network shows nothing of what it does.
            start: FloatVector = (np.sin(np.arange(session.layout.size)) / 10).astype(np.float32)
            with _round(site, session, patients, model=start, server_round=1).opened():
                pass
    except (ConfigError, PrivacyError) as error:
        raise PolicyRefusal(f"privacy.mode = '{plan.privacy.mode}' cannot be held here: {error}") from error
    if cost is not None:
        require_a_round(site, session, patients, cost=cost)


def contribute_privately(
    site: Site, session: Session, *, model: FloatVector, server_round: int, validation: Mapping[str, float]
) -> Contribution:
    """The integers of one update, uint32 of shape (slots.length,), with the noise that was agreed.

    Raises:
        BudgetSpentError: the round would pass what the site's policy allows for these patients; nothing was looked at.
        LedgerError: the ledger is damaged, or of other data.
        DataError: more patients than `federation.example_cap`.
        MisuseError: the network or the loss couples patients.
    """
    from clients.budget import bind, paid, pay

    started = time.perf_counter()
    plan = session.plan
    patients = _patients(site, plan)
    asked = _round(site, session, patients, model=model, server_round=server_round)
    releases = Releases(site.state / RELEASES, durable=site.file.durable_state)
    known = releases.find(asked.release, length=session.slots.length)
    cost = _cost(session)
    if known is not None:
        charge = None if cost is None else paid(site, session, patients, server_round=server_round)
        if charge is not None:
            # A kill may have come between keeping the integers and writing down that this charge is theirs.
            bind(site, patients, charge, known)
        return Contribution(
            server_round=server_round, encoded=known, samples=0, training_seconds=0.0, encoding_seconds=0.0
        )
    charge = None if cost is None else pay(site, session, patients, server_round=server_round, cost=cost)
    made = _MODES[plan.privacy.mode](asked)
    trained_at = time.perf_counter()
    encoded = _encode(asked, made, validation)
    releases.keep(asked.release, encoded)
    if charge is not None:
        bind(site, patients, charge, encoded)
    return Contribution(
        server_round=server_round,
        encoded=encoded,
        samples=made.samples,
        training_seconds=trained_at - started,
        encoding_seconds=time.perf_counter() - trained_at,
    )


def _patients(site: Site, plan: TrainingPlan) -> "tuple[Patient, ...]":
    from clients.patients import patients_of

    patients = patients_of(site.cases(plan).sources, plan)
    if len(patients) > plan.federation.example_cap:
        raise DataError(
            f"this site has {len(patients)} patients, federation.example_cap = {plan.federation.example_cap}: under "
            "differential privacy the cap must hold all of them"
        )
    return patients


def _round(
    site: Site, session: Session, patients: "tuple[Patient, ...]", *, model: FloatVector, server_round: int
) -> _Round:
    from clients.patients import fingerprint_of

    return _Round(
        site=site,
        session=session,
        patients=patients,
        fingerprint=fingerprint_of(patients),
        model=np.asarray(model, np.float32),
        server_round=server_round,
    )


def _cost(session: Session) -> Segment | None:
    """What a round costs, None without a guarantee."""
    if not session.plan.privacy.guarantees:
        return None
    return round_cost(session.plan, session.slots, dimension=trained_count(session.plan, session.layout))


def trained_count(plan: TrainingPlan, layout: ParameterLayout) -> int:
    """How many parameters learn under the plan."""
    import torch

    from clients.patient_training import trained_positions
    from clients.training import network_for

    return len(trained_positions(network_for(plan, torch.device("cpu")), layout))


@dataclass(frozen=True, kw_only=True)
class _Delta:
    """How far the model is to move, before weighting, shape (num_parameters,), and what moments to average.

    The integers of `shared` entries get this site's share of the noise; in local mode the noise is in them already.
    """

    delta: npt.NDArray[np.float64]
    weight: float
    samples: int
    shared: npt.NDArray[np.intp]
    moments: npt.NDArray[np.float64]
    train_loss: float = 0.0


def _one_step(asked: _Round) -> _Delta:
    """Distributed: minus the sum of clipped gradients at the model as it came; the server divides and steps."""
    plan = asked.plan
    with asked.opened() as work:
        lot = poisson_lot(len(asked.patients), plan.privacy.sampling_prob, asked.stream("patient sampling"))
        total = work.clipped_sum(lot)
        delta = np.zeros(asked.session.layout.num_parameters)
        # Weighted by N / cap and divided by the summed weights, this is the mean over q N patients of all sites.
        delta[work.positions] = -total.vector / (plan.privacy.sampling_prob * len(asked.patients))
        return _Delta(
            delta=delta, weight=asked.weight, samples=asked.samples(len(lot)), shared=work.positions, moments=_NOTHING
        )


def _whole_update(asked: _Round) -> _Delta:
    """Silo: ordinary training, and then the whole update is what is clipped."""
    from clients.training import TrainingDiverged, train_one_round

    site, session = asked.site, asked.session
    with asked.opened() as work:
        trained = work.positions
    delta, samples = np.zeros(session.layout.num_parameters), 0
    try:
        outcome = train_one_round(
            plan=asked.plan,
            sources=site.cases(asked.plan).sources,
            start=asked.model,
            layout=session.layout,
            server_round=asked.server_round,
            state_folder=site.state,
            device=compute_of(site.file).device,
            durable_state=site.file.durable_state,
        )
        moved = outcome.weights.astype(np.float64) - asked.model
        delta[trained] = clip_by_l2_norm(moved[trained], bound=asked.plan.privacy.clip_norm).values
        samples = outcome.samples
    except TrainingDiverged as error:
        # One patient's images can do that: staying away then would tell of them, so the site sends noise alone.
        site.books.log("nothing but noise", round=asked.server_round, error=str(error))
    return _Delta(delta=delta, weight=1.0, samples=samples, shared=trained, moments=_NOTHING)


def _local_steps(asked: _Round) -> _Delta:
    """Local and clip_only: many steps here, each on the sum over a lot, with all of the noise or with none."""
    import torch

    from clients.local_steps import adamw, learning_rate
    from clients.optimizer_state import OptimizerStates, load_shared, shared_moments
    from secfed.model import flatten

    plan, layout, training = asked.plan, asked.session.layout, asked.plan.training
    steps, seen = training.steps_per_round, 0
    sampling, noise = asked.stream("patient sampling"), asked.stream("noise")
    with asked.opened() as work:
        optimizer = adamw(work.network, training)
        owner = json.dumps([plan.digest().hex(), asked.site.name])
        states = OptimizerStates(asked.site.state, owner=owner, durable=asked.site.file.durable_state)
        if training.optimizer_state == "keep":
            states.restore(work.network, optimizer, before=asked.server_round)
        elif training.optimizer_state == "average":
            load_shared(
                work.network, optimizer, asked.model[layout.model_size :], steps_taken=(asked.server_round - 1) * steps
            )
        for step in range(steps):
            lot = poisson_lot(len(asked.patients), plan.privacy.sampling_prob, sampling)
            total = work.clipped_sum(lot, step=step)
            seen += len(lot)
            released = total.vector if plan.privacy.mode == "clip_only" else _with_all_noise(asked, total.vector, noise)
            work.set_gradients(released / (plan.privacy.sampling_prob * len(asked.patients)))
            progress = (asked.server_round - 1 + (step + 0.5) / steps) / plan.federation.rounds
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, training)
            torch.nn.utils.clip_grad_norm_(work.parameters(), training.gradient_clip_norm)
            optimizer.step()
        weights, moments = flatten(work.network), _NOTHING
        if training.optimizer_state == "keep":
            states.save(work.network, optimizer, server_round=asked.server_round)
        elif training.optimizer_state == "average":
            moments = shared_moments(work.network, optimizer).astype(np.float64)
        losses = [float(loss) for loss in work.mean_losses if loss.isfinite()]
    moved = weights.astype(np.float64) - asked.model[: layout.model_size]
    return _Delta(
        delta=clip_by_l2_norm(moved[: layout.num_parameters], bound=plan.federation.clip_norm).values,
        weight=asked.weight,
        samples=asked.samples(seen),
        shared=np.zeros(0, np.intp),
        moments=moments,
        train_loss=float(np.mean(losses)) if losses and plan.privacy.mode == "clip_only" else 0.0,
    )


def _with_all_noise(asked: _Round, total: npt.NDArray[np.float64], noise: Keystream) -> npt.NDArray[np.float64]:
    """A clipped sum as integers, with exact noise on them: floating-point noise would tell by its low bits."""
    split = noise_split(asked.plan, asked.session.slots, dimension=len(total))
    dither = noise.words(len(total)) * 2.0**-32
    integers = np.floor(total / split.quantum + dither).astype(np.int64)
    noisy = (integers + noise_share(split, stream=noise)).astype(np.float64)
    return noisy * np.float64(split.quantum)


def _encode(asked: _Round, made: _Delta, validation: Mapping[str, float]) -> Words:
    """Fixed point, and then this site's share of the noise on the integers, modulo 2^32."""
    plan, slots = asked.plan, asked.session.slots
    update = ModelUpdate(
        delta=made.delta,
        buffer_delta=np.zeros(0),
        moments=np.clip(made.moments, -plan.training.gradient_clip_norm, plan.training.gradient_clip_norm),
        weight=made.weight,
        train_loss=made.train_loss,
        validation=validation,
    )
    rounding = rounding_stream(asked.site.rounding_key, plan=plan, server_round=asked.server_round)
    encoded = encode(pack(update, slots=slots), vector_format=slots, rounding=rounding)
    if len(made.shared):
        split = noise_split(plan, slots, dimension=len(made.shared))
        # The delta stands first in the vector, in the order of the layout.
        encoded[made.shared] = add_share(encoded[made.shared], noise_share(split, stream=asked.stream("noise")))
    return encoded


_MODES: dict[str, Callable[[_Round], _Delta]] = {
    "distributed": _one_step,
    "silo": _whole_update,
    "local": _local_steps,
    "clip_only": _local_steps,
}
