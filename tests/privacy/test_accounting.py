"""The accountant against published numbers, closed forms and other accountants; and what it refuses."""

import math

import pytest

from privacy.accounting import (
    ACCOUNTANT,
    Segment,
    Spend,
    calibrate,
    default_delta,
    prv_epsilon,
    rdp_epsilon,
    slicewise_epsilon_per_patient,
    spend,
    spend_curve,
    steps_left,
)
from privacy.errors import MisuseError, RangeError
from privacy.gaussian_trade_off import gaussian_epsilon


def segment(sampling_prob, noise_multiplier, steps):
    return Segment(sampling_prob=sampling_prob, noise_multiplier=noise_multiplier, steps=steps)


# q, sigma, T, delta; epsilon by dp-accounting's PLD at its default grid; epsilon by RDP; where the case comes from, and
# what stands there. "measured" numbers were taken with dp-accounting 0.6.0 and Opacus 1.6.0, apart from this code.
VECTORS = [
    # Opacus accountants_test.py: RDP 7.32911117 and PRV 6.77739571, both after 2249 steps.
    pytest.param(0.04, 1.5, 2250, 1e-5, 6.7688, 7.3293, id="opacus-test"),
    # Opacus accountants_test.py: the noise that RDP finds for epsilon 8.
    pytest.param(0.04, 1.416, 2250, 1e-5, 7.3884, 7.999, id="opacus-rdp-noise-for-8"),
    # Opacus accountants_test.py: the noise that PRV finds for epsilon 8.
    pytest.param(0.04, 1.34765625, 2250, 1e-5, 7.9834, 8.644, id="opacus-prv-noise-for-8"),
    # TensorFlow Privacy's MNIST tutorial; its README says 3.01, by an older conversion from RDP.
    pytest.param(256 / 60000, 1.1, 14063, 1e-5, 2.3818, 2.5967, id="tf-privacy-mnist"),
    # dp-accounting pld_privacy_accountant_test.py: exactly 1, by the closed form.
    pytest.param(1.0, math.sqrt(3.0), 3, 0.126936, 1.0000, 1.504, id="google-pld-test"),
    # dp-accounting rdp_privacy_accountant_test.py: RDP 1.
    pytest.param(1.0, 4.530877117, 1, 1e-6, 0.9274, 1.0000, id="google-rdp-test"),
    # De et al. 2022 (CIFAR-10), the configuration for epsilon 1.
    pytest.param(4096 / 50000, 10.0, 875, 1e-5, 0.9028, 0.9877, id="de-2022-epsilon-1"),
]


@pytest.mark.parametrize(("sampling_prob", "noise", "steps", "delta", "pld", "rdp"), VECTORS)
def test_published_cases_cost_what_other_accountants_say(sampling_prob, noise, steps, delta, pld, rdp):
    plan = [segment(sampling_prob, noise, steps)]
    found = spend(plan, delta=delta).epsilon
    assert found == pytest.approx(pld, abs=1.2e-4)
    assert rdp_epsilon(plan, delta=delta) == pytest.approx(rdp, abs=5e-4)
    assert found <= rdp_epsilon(plan, delta=delta)


def test_prv_gives_opacus_own_number_and_its_interval_holds_the_account():
    plan = [segment(0.04, 1.5, 2249)]
    interval = prv_epsilon(plan, delta=1e-5)
    assert interval.high == pytest.approx(6.77739571, abs=1e-4)
    assert interval.low <= spend(plan, delta=1e-5).epsilon <= interval.high
    assert not interval.low <= spend([segment(0.04, 1.5, 2270)], delta=1e-5).epsilon <= interval.high


def test_prv_interval_holds_the_account_of_a_mixed_history():
    plan = [segment(0.2, 2.0, 40), segment(0.1, 1.2, 60)]
    interval = prv_epsilon(plan, delta=1e-5)
    assert interval.low <= spend(plan, delta=1e-5).epsilon <= interval.high


@pytest.mark.parametrize("noise", [0.7, 3.0, 50.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
def test_without_sampling_the_account_is_the_closed_form_of_the_gaussian(noise, delta):
    # Balle and Wang 2018, theorem 8, for T steps of noise sigma: mu = sqrt(T) / sigma.
    exact = gaussian_epsilon(delta, mu=math.sqrt(12) / noise)
    found = spend([segment(1.0, noise, 12)], delta=delta).epsilon
    assert exact * (1 - 1e-9) <= found <= exact * (1 + 1e-3) + 1e-5


@pytest.mark.parametrize("steps", [1_000, 100_000])
def test_rounding_in_long_compositions_never_makes_a_small_delta_cheaper(steps):
    """Sampled almost always, so that dp-accounting composes step by step; the truth is at most the unsampled value."""
    noise = math.sqrt(steps)
    found = spend([segment(1.0 - 1e-12, noise, steps)], delta=2e-9 if steps > 1e4 else 1e-10).epsilon
    exact = gaussian_epsilon(2e-9 if steps > 1e4 else 1e-10, mu=1.0)
    assert exact * (1 - 1e-9) <= found <= exact * 1.01


def test_delta_that_float64_cannot_resolve_for_so_many_steps_is_refused():
    with pytest.raises(RangeError, match=r"delta = 1e-10 is too small for so many steps"):
        spend([segment(0.01, 5.0, 1_000_000)], delta=1e-10)


def test_a_step_without_noise_has_no_finite_price_and_nobody_sampled_costs_nothing():
    assert spend([segment(0.1, 1.0, 10), segment(0.01, 0.0, 1)], delta=1e-5).epsilon == math.inf
    assert spend([segment(0.0, 0.0, 10)], delta=1e-5).epsilon == 0.0
    assert spend([], delta=1e-5).epsilon == 0.0


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.01, 0.03])
def test_hardly_any_noise_still_has_a_finite_and_growing_price(noise):
    costs = [spend([segment(0.2, value, 3)], delta=1e-5).epsilon for value in (2 * noise, noise)]
    assert 100 < costs[0] < costs[1] < 3 * 0.5 / noise**2 + 3 * 9 / noise


@pytest.mark.parametrize("left_out", [1e-16, 1e-13, 1e-10])
@pytest.mark.parametrize("noise", [0.1, 0.3, 2.0])
def test_sampling_nearly_everybody_costs_what_everybody_does(left_out, noise):
    nearly, all_of_them = (
        spend([Segment(sampling_prob=q, noise_multiplier=noise, steps=3)], delta=1e-7) for q in (1.0 - left_out, 1.0)
    )
    assert nearly.epsilon == all_of_them.epsilon


def test_order_and_splitting_of_segments_change_no_bit():
    whole = [segment(0.2, 2.0, 40), segment(0.1, 1.2, 60), segment(1.0, 9.0, 5)]
    parts = [segment(0.1, 1.2, 25), segment(1.0, 9.0, 5), segment(0.2, 2.0, 40), segment(0.1, 1.2, 35)]
    assert spend(whole, delta=1e-5).epsilon == spend(parts, delta=1e-5).epsilon


def test_composed_segments_cost_more_than_each_and_less_than_their_sum():
    first, second = segment(0.2, 2.0, 40), segment(0.1, 1.2, 60)
    both = spend([first, second], delta=2e-5).epsilon
    single = [spend([one], delta=1e-5).epsilon for one in (first, second)]
    assert max(spend([one], delta=2e-5).epsilon for one in (first, second)) < both < sum(single)


def test_epsilon_stands_with_everything_that_gives_it_a_meaning():
    found = spend([segment(0.04, 1.5, 2250)], delta=1e-5)
    assert (found.delta, found.unit, found.relation, found.accountant) == (1e-5, "patient", "zero-out", ACCOUNTANT)
    assert ACCOUNTANT.startswith("PLD (dp-accounting 0.")
    for word in ("6.769", "1e-05", "patient", "zero-out", "PLD"):
        assert word in str(found)


def test_the_curve_grows_to_the_whole_price():
    plan = [segment(0.2, 2.0, 10), segment(0.1, 1.2, 10)]
    curve = spend_curve(plan, delta=1e-5, points=4)
    assert [steps for steps, _ in curve] == [5, 10, 15, 20]
    epsilons = [epsilon for _, epsilon in curve]
    assert epsilons == sorted(epsilons)
    assert epsilons[1] == spend(plan[:1], delta=1e-5).epsilon
    assert epsilons[-1] == spend(plan, delta=1e-5).epsilon
    assert spend_curve([], delta=1e-5) == []
    assert len(spend_curve(plan[:1], delta=1e-5, points=100)) == 10


@pytest.mark.parametrize(
    ("sampling_prob", "steps", "epsilon", "delta", "before"),
    [
        (0.2, 150, 8.0, 1e-3, []),
        (1.0, 40, 8.0, 1e-3, []),
        (0.1, 100, 0.01, 1e-5, []),
        (0.1, 10, 1e6, 1e-5, []),
        (0.2, 50, 3.0, 1e-5, [segment(0.2, 4.0, 50)]),
    ],
)
def test_calibrated_noise_is_enough_and_hardly_more(sampling_prob, steps, epsilon, delta, before):
    noise = calibrate(epsilon=epsilon, delta=delta, sampling_prob=sampling_prob, steps=steps, before=before)

    def cost(value):
        return spend([*before, segment(sampling_prob, value, steps)], delta=delta).epsilon

    assert cost(noise) <= epsilon < cost(noise * 0.999)


def test_budget_that_was_spent_before_is_named_as_out_of_reach():
    with pytest.raises(MisuseError, match=r"epsilon = 1 at delta 1e-05 is out of reach: .* costs 18\.\d+"):
        calibrate(epsilon=1.0, delta=1e-5, sampling_prob=0.2, steps=10, before=[segment(0.2, 1.0, 150)])


def test_rounds_that_are_left_fit_and_one_more_does_not():
    history, one = [segment(0.2, 2.0, 20)], segment(0.2, 2.0, 2)
    left = steps_left(history, per_round=one, cap_epsilon=4.0, delta=1e-5)
    assert left > 5
    assert spend([*history, segment(0.2, 2.0, 2 * left)], delta=1e-5).epsilon <= 4.0
    assert spend([*history, segment(0.2, 2.0, 2 * left + 2)], delta=1e-5).epsilon > 4.0


def test_nothing_is_left_of_a_spent_budget_and_free_rounds_are_unlimited():
    history = [segment(0.2, 1.0, 150)]
    assert steps_left(history, per_round=segment(0.2, 1.0, 1), cap_epsilon=4.0, delta=1e-5) == 0
    assert steps_left(history, per_round=segment(0.0, 1.0, 1), cap_epsilon=4.0, delta=1e-5) == 0
    assert steps_left([], per_round=segment(0.2, 0.0, 1), cap_epsilon=4.0, delta=1e-5) == 0
    assert steps_left([], per_round=segment(0.0, 1.0, 1000), cap_epsilon=4.0, delta=1e-5) == 10_000


def test_sampling_slices_costs_a_patient_far_more_than_it_claims():
    plan = {"sampling_prob": 0.005, "noise_multiplier": 1.5, "steps": 2000, "delta": 1e-5}
    claimed = slicewise_epsilon_per_patient(**plan, slices=1)
    assert claimed == spend([segment(0.005, 1.5, 2000)], delta=1e-5).epsilon == pytest.approx(0.6188, abs=1e-3)
    # dp-accounting's own grid of 1e-4 gives 6.4181, in sixteen seconds.
    assert slicewise_epsilon_per_patient(**plan, slices=8) == pytest.approx(6.4181, rel=1e-3)


def test_slices_that_are_always_sampled_together_are_one_contribution_as_large_as_all():
    found = slicewise_epsilon_per_patient(sampling_prob=1.0, noise_multiplier=20.0, steps=1, delta=1e-5, slices=4)
    assert found == pytest.approx(gaussian_epsilon(1e-5, mu=4 / 20.0), rel=1e-3)


@pytest.mark.parametrize(("patients", "delta"), [(1, 1e-5), (10_000, 1e-5), (100_000, 1e-6)])
def test_default_delta_is_a_tenth_of_one_patient_and_at_most_1e_5(patients, delta):
    assert default_delta(patients) == pytest.approx(delta)


@pytest.mark.parametrize("patients", [0, -3, 1.5, True, 10**10])
def test_impossible_numbers_of_patients_are_refused(patients):
    with pytest.raises(RangeError, match="patients ="):
        default_delta(patients)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("sampling_prob", value) for value in (math.nan, -0.1, 1.1, math.inf, True, "0.1")),
        *(("noise_multiplier", value) for value in (math.nan, -1.0, math.inf, 1e-7, False)),
        *(("steps", value) for value in (0, -1, 1.0, math.nan, True, 10_000_001)),
    ],
    ids=str,
)
def test_impossible_segments_are_refused_by_the_setting_s_name(field, value):
    with pytest.raises(RangeError, match=f"{field} = "):
        Segment(**{"sampling_prob": 0.1, "noise_multiplier": 1.0, "steps": 1, field: value})


@pytest.mark.parametrize("value", [math.nan, 0.0, -1e-5, 1.0, 1e-11], ids=str)
def test_impossible_deltas_are_refused(value):
    with pytest.raises(RangeError, match="delta = "):
        spend([segment(0.1, 1.0, 1)], delta=value)


@pytest.mark.parametrize("value", [math.nan, 0.0, -1.0, math.inf], ids=str)
def test_impossible_budgets_are_refused(value):
    with pytest.raises(RangeError, match="epsilon = "):
        calibrate(epsilon=value, delta=1e-5, sampling_prob=0.1, steps=1)
    with pytest.raises(RangeError, match="cap_epsilon = "):
        steps_left([], per_round=segment(0.1, 1.0, 1), cap_epsilon=value, delta=1e-5)


def test_prv_refuses_what_it_cannot_express():
    for one in (segment(1.0, 1.0, 1), segment(0.1, 0.0, 1)):
        with pytest.raises(RangeError, match="PRV accounting needs"):
            prv_epsilon([one], delta=1e-5)


def test_a_spend_is_frozen():
    with pytest.raises(AttributeError):
        Spend(epsilon=1.0, delta=1e-5).epsilon = 0.5
