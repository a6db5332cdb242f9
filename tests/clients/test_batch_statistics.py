"""Batch normalisation whose statistics are averaged, or not: the model that comes of it segments in evaluation mode."""

import numpy as np
import pytest

from clients.evaluation import mean_dice_by_modality
from clients.training import TrainingSource, train_one_round
from clients.update import TrainedRound, encode_update
from privacy.fixed_point import decode_sum
from privacy.streams import Keystream
from secfed.network import initial_vector
from secfed.protected_vector import unpack_sum, vector_format
from secfed.server_optimizer import ServerState, step


def federated(plan, sources, folder):
    """Rounds of two sites through the fixed-point code and the server's step."""
    start, layout = initial_vector(plan, num_classes=9)
    slots = vector_format(layout, plan, cohort_size=len(sources))
    state = ServerState.initial(start, layout)
    for server_round in range(1, plan.federation.rounds + 1):
        total = np.zeros(slots.length, np.uint32)
        for source in sources:
            outcome = train_one_round(
                plan=plan,
                sources=(source,),
                start=state.model,
                layout=layout,
                server_round=server_round,
                state_folder=folder / source.site,
            )
            found = TrainedRound(
                start=state.model,
                weights=outcome.weights,
                example_weight=0.01,
                train_loss=outcome.mean_loss,
                validation={},
            )
            total += encode_update(found, plan=plan, layout=layout, slots=slots, rounding=Keystream(bytes(32)))
        average = unpack_sum(decode_sum(total, vector_format=slots), slots=slots)
        state = step(state, average, federation=plan.federation, layout=layout)
    return state.model, layout


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_a_federation_with_averaged_statistics_learns_as_one_without_any(make_plan, cases, tmp_path, normalisation):
    plan = make_plan(
        model={"normalisation": normalisation},
        training={"steps_per_round": 20, "learning_rate": 2e-2, "optimizer_state": "average"},
        augmentation={"method": "none"},
        rounds=4,
    )
    sources = (TrainingSource(site="a", cases=cases[:1]), TrainingSource(site="b", cases=cases[1:]))
    untrained, layout = initial_vector(plan, num_classes=9)
    model, _ = federated(plan, sources, tmp_path)

    def dice(vector):
        [(total, count)] = mean_dice_by_modality(vector, layout, cases, plan=plan).values()
        return total / count

    assert dice(model) > 0.6
    assert dice(untrained) < 0.1
    if normalisation == "batch":
        # The statistics moved with the data, and a variance stays one.
        moved = model[layout.num_parameters : layout.model_size] - untrained[layout.num_parameters : layout.model_size]
        assert np.abs(moved).max() > 0.01
        for spec, place in layout.slices():
            assert not spec.name.endswith("running_var") or (model[place] > 0).all()
