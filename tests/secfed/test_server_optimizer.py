"""The server's step against numbers worked out by hand."""

import numpy as np
import pytest

from secfed.config import FederationConfig
from secfed.parameters import ParameterLayout, TensorSpec
from secfed.protected_vector import CohortAverage
from secfed.server_optimizer import ServerState, step

LAYOUT = ParameterLayout((TensorSpec("w", (2,), "parameter"), TensorSpec("b", (1,), "buffer")))
SHARED = ParameterLayout((*LAYOUT.tensors, TensorSpec("m", (2,), "moment")))


def average(delta, buffers=(0.0,), moments=()):
    return CohortAverage(
        delta=np.array(delta, float),
        buffer_delta=np.array(buffers, float),
        moments=np.array(moments, float),
        total_weight=1.0,
        metrics={},
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
