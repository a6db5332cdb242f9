"""The server's step against numbers worked out by hand."""

import numpy as np
import pytest

from secfed.federation_config import FederationConfig
from secfed.modality_sets import with_sets
from secfed.parameters import ParameterLayout, TensorSpec
from secfed.protected_vector import CohortAverage
from secfed.server_optimizer import ServerState, max_state_bytes, step

LAYOUT = ParameterLayout((TensorSpec("w", (2,), "parameter"), TensorSpec("b", (1,), "buffer")))
SHARED = ParameterLayout((*LAYOUT.tensors, TensorSpec("m", (2,), "moment")))


def average(delta, buffers=(0.0,), moments=(), sets=None):
    return CohortAverage(
        delta=np.array(delta, float),
        buffer_delta=np.array(buffers, float),
        moments=np.array(moments, float),
        total_weight=1.0,
        metrics={},
        sets={modality: np.array(values, float) for modality, values in (sets or {}).items()},
    )


def run(deltas, *, start=(1.0, -1.0, 5.0), layout=LAYOUT, **settings):
    state = ServerState.initial(np.array(start, np.float32), layout)
    for found in deltas:
        state = step(state, found, federation=FederationConfig(**settings), layout=layout)
    return state


def test_fedavg_adds_the_mean():
    state = run([average([0.5, 0.25]), average([1.0, 0.0])])
    np.testing.assert_array_equal(state.model, np.array([2.5, -0.75, 5.0], np.float32))
    assert state.completed == 2


def test_fedavg_ignores_a_configured_momentum():
    state = run([average([1.0, 0.0])] * 2, server_momentum=0.9)
    np.testing.assert_array_equal(state.model[:2], np.array([3.0, -1.0], np.float32))


def test_fedavgm_accumulates_a_velocity():
    # v1 = 1, v2 = 0.5 + 1 = 1.5, v3 = 0.75 + 0 = 0.75; the model moves by half of each.
    state = run(
        [average([1.0, 0.0]), average([1.0, 0.0]), average([0.0, 0.0])],
        server_optimizer="fedavgm",
        server_momentum=0.5,
        server_learning_rate=0.5,
    )
    np.testing.assert_array_equal(state.model[:2], np.array([1.0 + 0.5 * 3.25, -1.0], np.float32))
    np.testing.assert_array_equal(state.momentum, [0.75, 0.0])


def test_statistics_take_the_plain_mean_whatever_the_optimiser():
    moves = [average([0.0, 0.0], buffers=(2.0,))] * 2
    state = run(moves, server_optimizer="fedavgm", server_momentum=0.9, server_learning_rate=0.1)
    assert state.model[2] == 9.0


def test_shared_moments_replace_the_former_ones():
    moves = [average([0.0, 0.0], moments=(1.0, 2.0)), average([0.0, 0.0], moments=(3.0, 4.0))]
    state = run(moves, start=(1.0, -1.0, 5.0, 9.0, 9.0), layout=SHARED)
    np.testing.assert_array_equal(state.model, np.array([1.0, -1.0, 5.0, 3.0, 4.0], np.float32))


def test_a_step_changes_no_former_state():
    state = ServerState.initial(np.ones(3, np.float32), LAYOUT)
    step(state, average([1.0, 1.0], buffers=(1.0,)), federation=FederationConfig(), layout=LAYOUT)
    np.testing.assert_array_equal(state.model, np.ones(3, np.float32))
    assert state.completed == 0


@pytest.mark.parametrize("size", [1e-9, 1e-4])
def test_steps_are_taken_in_double_precision(size):
    """A thousand steps of the size of a float32 rounding error still move the momentum."""
    state = run([average([size, 0.0])] * 10, server_optimizer="fedavgm", server_momentum=0.9)
    expected = size * sum(0.9**k for k in range(10))
    assert state.momentum[0] == pytest.approx(expected, rel=1e-12)


def test_the_average_of_models_warms_up_and_then_decays():
    # The decay is 2/11 after the first round, 3/12 after the second, then 0.25, which the plan says, and no more.
    moves = [average([11.0, 0.0]), average([0.0, 0.0]), average([12.0, 0.0])]
    states = [run(moves[:rounds], start=(0.0, 0.0, 0.0), ema_decay=0.25) for rounds in (1, 2, 3)]
    expected = [11 * 9 / 11]
    expected.append(expected[0] * 3 / 12 + 11 * 9 / 12)
    expected.append(expected[1] / 4 + 23 * 3 / 4)
    np.testing.assert_array_equal([state.model[0] for state in states], [11, 11, 23])
    np.testing.assert_allclose([state.result[0] for state in states], expected, rtol=1e-6)


def test_the_average_does_not_enter_training():
    moves = [average([1.0, -1.0])] * 4
    plain, averaged = run(moves), run(moves, ema_decay=0.9)
    np.testing.assert_array_equal(plain.model, averaged.model)
    assert plain.average is None
    assert plain.result is plain.model
    assert not np.array_equal(averaged.result, averaged.model)


ADAM = {
    "server_optimizer": "fedadam",
    "server_learning_rate": 0.3,
    "server_momentum": 0.9,
    "server_second_momentum": 0.95,
    "server_adaptivity": 0.02,
}


def test_fedadam_is_algorithm_2_of_its_paper_over_three_rounds():
    """Written out with the paper's letters; nothing corrects for the start from zero."""
    deltas = np.array([[0.5, -0.001], [-0.25, 0.0], [1.0, 0.003]])
    eta, beta1, beta2, tau = 0.3, 0.9, 0.95, 0.02
    m, v, w = np.zeros(2), np.zeros(2), np.array([1.0, -1.0])
    for number, delta in enumerate(deltas, start=1):
        m = beta1 * m + (1 - beta1) * delta
        v = beta2 * v + (1 - beta2) * delta**2
        w = (w + eta * m / (np.sqrt(v) + tau)).astype(np.float32).astype(np.float64)
        state = run([average(found) for found in deltas[:number]], **ADAM)
        np.testing.assert_array_equal(state.model[:2], w.astype(np.float32))
        np.testing.assert_array_equal(state.momentum, m)
        np.testing.assert_array_equal(state.second_moment, v)
    # A step that corrected for the start would be longer by (1 - beta1) / sqrt(1 - beta2) in the first round.
    [first] = run([average(deltas[0])], **ADAM).momentum[:1]
    assert first == (1 - beta1) * 0.5


def test_fedadam_with_another_second_momentum_or_adaptivity_is_another_model():
    moves = [average([0.5, -0.001]), average([-0.25, 0.1])]
    given = run(moves, **ADAM).model
    for name in ("server_momentum", "server_second_momentum", "server_adaptivity"):
        assert not np.array_equal(given, run(moves, **{**ADAM, name: ADAM[name] / 2}).model), name


def test_fedadam_leaves_alone_what_no_site_moves():
    """Layers that stay at sites send nothing, and the server's own values of them must not drift."""
    moved = run([average([0.5, 0.0])] * 5, **ADAM)
    assert moved.model[1] == -1.0
    assert moved.model[0] != 1.0


@pytest.mark.parametrize("optimizer", ["fedavg", "fedavgm"])
def test_a_state_without_a_second_moment_is_no_larger_for_it(optimizer):
    state = run([average([1.0, 0.0])], server_optimizer=optimizer)
    assert state.second_moment is None
    plain = max_state_bytes(LAYOUT, FederationConfig(server_optimizer=optimizer))
    assert plain == 8 * 3 + 8 * 2 + 1024
    assert max_state_bytes(LAYOUT, FederationConfig(server_optimizer="fedadam")) == plain + 8 * 2


SETS = with_sets(SHARED, SHARED.tensors[1:])


@pytest.mark.parametrize("optimizer", ["fedavg", "fedavgm", "fedadam"])
def test_a_modality_s_layers_take_the_mean_of_its_sites_whatever_the_optimiser(optimizer):
    """Of each set the statistic moves and the two moments are replaced; a modality without a survivor stays."""
    start = (1.0, -1.0, 5.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    moves = [
        average([0.0, 0.0], moments=(0.0, 0.0), sets={"CT": (0.5, 7.0, 8.0)}),
        average([0.0, 0.0], moments=(0.0, 0.0), sets={"CT": (0.25, 1.0, 1.5), "MR": (-1.0, 0.0, 2.0)}),
    ]
    settings = {"server_optimizer": optimizer, "server_momentum": 0.9, "server_learning_rate": 0.1}
    first, last = (run(moves[:rounds], start=start, layout=SETS, **settings) for rounds in (1, 2))
    np.testing.assert_array_equal(first.model[5:], [1.5, 7.0, 8.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(last.model[5:], [1.75, 1.0, 1.5, 3.0, 0.0, 2.0])
    np.testing.assert_array_equal(last.model[:3], start[:3])
    assert last.momentum.shape == (2,)
