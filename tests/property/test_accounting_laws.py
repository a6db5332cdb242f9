"""Laws of every account: monotone in each setting, blind to order and splitting, bracketed by other accountants."""

from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import Segment, calibrate, prv_epsilon, rdp_epsilon, spend

# Each account of a new setting takes a tenth of a second, so the examples are few and the ranges are those of training.
probabilities = st.floats(0.01, 1.0)
noises = st.floats(0.7, 8.0)
deltas = st.sampled_from([1e-7, 1e-5, 1e-3])
segments = st.builds(Segment, sampling_prob=probabilities, noise_multiplier=noises, steps=st.integers(1, 60))
# A grid that changes with the plan moves epsilon by this much.
GRID = 1e-3


def changed(segment, **changes):
    return Segment(
        **{
            "sampling_prob": segment.sampling_prob,
            "noise_multiplier": segment.noise_multiplier,
            "steps": segment.steps,
            **changes,
        }
    )


@settings(max_examples=12)
@given(segments, deltas, st.floats(1.05, 2.0))
def test_more_sampling_more_steps_and_less_noise_cost_more(segment, delta, factor):
    cost = spend([segment], delta=delta).epsilon
    assert cost > 0
    more_steps = changed(segment, steps=segment.steps + 1)
    less_noise = changed(segment, noise_multiplier=segment.noise_multiplier / factor)
    more_patients = changed(segment, sampling_prob=min(1.0, segment.sampling_prob * factor))
    for other in (more_steps, less_noise, more_patients):
        assert spend([other], delta=delta).epsilon >= cost * (1 - GRID)
    assert spend([less_noise], delta=delta).epsilon > cost
    assert spend([segment], delta=delta / 10).epsilon > cost


@settings(max_examples=10)
@given(st.lists(segments, min_size=2, max_size=3), deltas, st.data())
def test_order_and_splitting_change_nothing_and_every_part_costs_less(history, delta, data):
    whole = spend(history, delta=delta).epsilon
    assert spend(data.draw(st.permutations(history)), delta=delta).epsilon == whole
    first = history[0]
    if first.steps > 1:
        cut = data.draw(st.integers(1, first.steps - 1))
        parts = [changed(first, steps=cut), changed(first, steps=first.steps - cut)]
        assert spend([*parts, *history[1:]], delta=delta).epsilon == whole
    assert spend(history[:-1], delta=delta).epsilon <= whole * (1 + GRID)


@settings(max_examples=12)
@given(st.lists(segments, min_size=1, max_size=2), deltas)
def test_renyi_accounting_is_never_below(history, delta):
    assert spend(history, delta=delta).epsilon <= rdp_epsilon(history, delta=delta) * (1 + 1e-9) + 1e-6


@settings(max_examples=5)
@given(st.floats(0.05, 0.5), st.floats(0.9, 3.0), st.integers(10, 60), st.sampled_from([1e-6, 1e-4]))
def test_the_prv_interval_holds_the_account(sampling_prob, noise, steps, delta):
    plan = [Segment(sampling_prob=sampling_prob, noise_multiplier=noise, steps=steps)]
    interval = prv_epsilon(plan, delta=delta)
    assert interval.low <= spend(plan, delta=delta).epsilon <= interval.high


@settings(max_examples=5)
@given(st.floats(0.1, 30.0), st.floats(0.02, 1.0), st.integers(1, 60), deltas)
def test_calibration_undoes_accounting_and_never_exceeds_the_budget(epsilon, sampling_prob, steps, delta):
    noise = calibrate(epsilon=epsilon, delta=delta, sampling_prob=sampling_prob, steps=steps)

    def cost(value):
        plan = [Segment(sampling_prob=sampling_prob, noise_multiplier=value, steps=steps)]
        return spend(plan, delta=delta).epsilon

    assert cost(noise) <= epsilon < cost(0.998 * noise)
