"""What a site adds to a round: validate the model, train on it, encode the update. Protection comes after, elsewhere.

Runs at a site. torch is imported when work starts, because a Flower process starts for every message.
"""

import time
from dataclasses import dataclass

from clients.device import compute_of
from clients.own_layers import OwnLayers
from clients.site import Session, Site
from clients.update import TrainedRound, encode_update, rounding_stream
from privacy.streams import Words
from secfed.parameters import FloatVector
from secfed.protected_vector import example_weight


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """The integers of one update, uint32 of shape (slots.length,), and what making them took."""

    server_round: int
    encoded: Words
    samples: int
    training_seconds: float
    encoding_seconds: float


def contribute(site: Site, session: Session, *, model: FloatVector, server_round: int, validate: bool) -> Contribution:
    """Train on the global model, shape (layout.size,), and encode what came of it, under the plan's privacy.

    Where normalisation layers are the site's own, or its modality's, they stand in the model's before it is validated.

    Raises:
        DataError, SecfedError: as `clients.training.train_one_round`.
        RangeError: a value does not fit its slot.
    """
    from clients.evaluation import mean_dice_by_modality
    from clients.training import train_one_round

    plan, layout = session.plan, session.layout.shared_layout()
    cases = site.cases(plan)
    own = OwnLayers.of(site, session)
    network = own.start(model, server_round=server_round)
    compute = compute_of(site.file)
    validation = {}
    if plan.privacy.guarantees:
        # Whatever the request asks for: scores of private cases are a release, and nobody pays for one here.
        validate = False
    if validate and cases.validation:
        scores = mean_dice_by_modality(network, layout, cases.validation, plan=plan, device=compute.device)
        validation = {
            f"validation_{kind}_{modality.lower()}": value
            for modality, (dice_sum, count) in scores.items()
            for kind, value in (("dice", dice_sum), ("cases", float(count)))
        }
    if plan.privacy.mode != "off":
        from clients.private_contribution import contribute_privately

        return contribute_privately(site, session, model=model, server_round=server_round, validation=validation)
    started = time.perf_counter()
    outcome = train_one_round(
        plan=plan,
        sources=cases.sources,
        start=network,
        layout=layout,
        server_round=server_round,
        state_folder=site.state,
        device=compute.device,
        replicas=compute.replicas,
        compiled=compute.compiled,
        durable_state=site.file.durable_state,
    )
    trained_at = time.perf_counter()
    encoded = encode_update(
        TrainedRound(
            start=network,
            weights=outcome.weights,
            own=own.positions,
            modality=own.modality,
            example_weight=example_weight(cases.examples, plan.federation),
            train_loss=outcome.mean_loss,
            validation=validation,
        ),
        plan=plan,
        layout=layout,
        slots=session.slots,
        rounding=rounding_stream(site.rounding_key, plan=plan, server_round=server_round),
    )
    own.keep(outcome.weights, server_round=server_round)
    return Contribution(
        server_round=server_round,
        encoded=encoded,
        samples=outcome.samples,
        training_seconds=trained_at - started,
        encoding_seconds=time.perf_counter() - trained_at,
    )


def note(site: Site, session: Session, made: Contribution, *, protection_seconds: float) -> None:
    """Write a round into the site's own books: what it took, and of the last one how its integers are spread."""
    if made.server_round == session.plan.federation.rounds:
        site.books.histogram(made.encoded, server_round=made.server_round)
    site.books.timing(
        server_round=made.server_round,
        training_seconds=made.training_seconds,
        encoding_seconds=made.encoding_seconds,
        protection_seconds=protection_seconds,
        samples=made.samples,
    )
