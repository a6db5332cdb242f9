"""Noise split over sites: what is added, how far one patient moves a rounded sum, and the room for the tail."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.distributed_noise import NoiseSplit
from privacy.errors import MisuseError, RangeError
from privacy.fixed_point import Segment, VectorFormat, decode_sum, encode
from privacy.noise import (
    add_share,
    noise_share,
    noise_stream,
    noise_tail,
    plan_noise_tail,
    quantised_sensitivity,
    share_sigma,
    tail_deviations,
)
from privacy.streams import Keystream

KEY = bytes(range(32))
SPLIT = NoiseSplit(
    noise_multiplier=1.5,
    clip_norm=0.7,
    quantum=1e-5,
    dimension=1000,
    invited=8,
    max_dropouts=2,
    max_colluders=2,
)


class InsecureEntropy:
    """Gives the bytes that it is asked to count."""

    def token_bytes(self, count: int) -> bytes:
        return bytes(range(count))


def test_a_share_has_exactly_the_planned_parameter_in_steps() -> None:
    assert share_sigma(SPLIT) == Fraction(SPLIT.site_noise) / Fraction(SPLIT.quantum)
    assert float(share_sigma(SPLIT)) == pytest.approx(1.5 * 0.7 / math.sqrt(4) / 1e-5, rel=1e-15)


@pytest.mark.parametrize(("dropouts", "colluders"), [(8, 0), (0, 8), (4, 4)])
def test_a_split_without_one_certain_honest_site_is_refused(dropouts: int, colluders: int) -> None:
    with pytest.raises(RangeError, match="no honest site"):
        replace(SPLIT, max_dropouts=dropouts, max_colluders=colluders)


def test_a_split_without_noise_has_no_share() -> None:
    with pytest.raises(MisuseError, match="adds no noise"):
        noise_share(replace(SPLIT, noise_multiplier=0.0), stream=Keystream(KEY))


def test_a_stream_of_noise_has_a_key_of_its_own() -> None:
    assert np.array_equal(noise_stream(InsecureEntropy()).words(9), Keystream(KEY).words(9))
    assert not np.array_equal(noise_stream().words(9), noise_stream().words(9))


def test_adding_a_share_is_addition_modulo_two_to_the_32() -> None:
    words = np.array([0, 5, 2**32 - 1, 7], dtype=np.uint32)
    share = np.array([-1, -6, 3, 2**40 + 1], dtype=np.int64)
    assert add_share(words, share).tolist() == [2**32 - 1, 2**32 - 1, 2, 8]
    assert words.tolist() == [0, 5, 2**32 - 1, 7]


@pytest.mark.parametrize(
    ("words", "share"),
    [
        (np.zeros(3, dtype=np.uint32), np.zeros(1, dtype=np.int64)),
        (np.zeros(3, dtype=np.uint32), np.zeros(3)),
        (np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)),
    ],
)
def test_a_share_of_another_kind_is_not_added(words: np.ndarray, share: np.ndarray) -> None:
    with pytest.raises(MisuseError, match="uint32 and noise int64"):
        add_share(words, share)


def test_noisy_vectors_of_all_sites_add_up_to_values_plus_noise() -> None:
    layout = VectorFormat(
        segments=(Segment(name="gradient", length=1000, max_abs=20.0),),
        max_clients=8,
        noise_tail=plan_noise_tail(site_noise=SPLIT.site_noise, max_abs=20.0, sites=8, entries=1000),
    )
    split = replace(SPLIT, quantum=layout.quantum(layout.segments[0]))
    values = np.random.default_rng(1).uniform(-20, 20, (8, 1000))
    total, noise = np.zeros(1000, dtype=np.uint32), np.zeros(1000, dtype=np.int64)
    for i, vector in enumerate(values):
        share = noise_share(split, stream=Keystream(bytes([i]) * 32))
        total += add_share(encode(vector, vector_format=layout, rounding=Keystream(bytes([i + 9]) * 32)), share)
        noise += share
    error = decode_sum(total, vector_format=layout) - values.sum(axis=0) - noise * split.quantum
    assert np.abs(error).max() < 8 * split.quantum
    assert np.abs(noise).max() > 100


@given(
    share=st.floats(1e-6, 1e3),
    sites=st.integers(1, 256),
    entries=st.integers(1, 2**40),
)
def test_planned_tails_leave_room_for_the_noise_at_the_quantum_that_they_lead_to(
    share: float, sites: int, entries: int
) -> None:
    tail = plan_noise_tail(site_noise=share, max_abs=1.0, sites=sites, entries=entries)
    layout = VectorFormat(
        segments=(Segment(name="gradient", length=1, max_abs=1.0),), max_clients=sites, noise_tail=tail
    )
    in_steps = share / layout.quantum(layout.segments[0]) * math.sqrt(sites)
    assert layout.analysis().headroom >= 0
    assert noise_tail(in_steps, entries=entries) <= tail
    assert layout.max_integer == 1 or tail < 1.01 * noise_tail(in_steps, entries=entries) + 4 * sites + (
        in_steps * 13 / layout.max_integer
    )


def test_noise_that_fills_the_modulus_is_refused() -> None:
    with pytest.raises(RangeError, match="leaves no integers"):
        plan_noise_tail(site_noise=1e9, max_abs=1.0, sites=4, entries=1000)


@pytest.mark.parametrize(
    "arguments", [{"site_noise": 0.0}, {"site_noise": math.nan}, {"max_abs": math.inf}, {"sites": 0}, {"entries": 0}]
)
def test_plans_with_other_values_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(RangeError, match="must be positive"):
        plan_noise_tail(**{"site_noise": 1.0, "max_abs": 1.0, "sites": 4, "entries": 10, **arguments})


def test_the_tail_follows_the_bound_of_a_gaussian_over_all_entries() -> None:
    """2 N exp(-x^2 / 2) = 2^-80 for 2^24 entries in 300 rounds, x = 12.5."""
    entries = 300 * 2**24
    x = tail_deviations(entries=entries)
    assert x == pytest.approx(12.5, abs=0.05)
    assert 2 * entries * math.exp(-x * x / 2) == pytest.approx(2.0**-80, rel=1e-9)
    assert noise_tail(1e4, entries=entries) == math.ceil(1e4 * x)


@pytest.mark.parametrize(
    ("sigma", "entries", "failure"), [(0.0, 1, 0.5), (math.inf, 1, 0.5), (1.0, 0, 0.5), (1.0, 1, 0.0), (1.0, 1, 1.0)]
)
def test_tails_of_other_values_are_refused(sigma: float, entries: int, failure: float) -> None:
    with pytest.raises(RangeError, match="total_sigma"):
        noise_tail(sigma, entries=entries, failure=failure)


def test_the_sensitivity_without_conditions_is_that_of_the_split() -> None:
    for dimension in (1, 1000, 2**24):
        split = replace(SPLIT, dimension=dimension)
        assert quantised_sensitivity(0.7, 1e-5, dimension) == split.sensitivity


def moved_by(patient: np.ndarray, *, others: np.ndarray, layout: VectorFormat, key: bytes) -> float:
    """How far the rounded sum goes when a patient joins the others, with one dither."""
    rounded = [
        encode(values, vector_format=layout, rounding=Keystream(key)).view(np.int32).astype(np.float64)
        for values in (others, others + patient)
    ]
    return float(np.linalg.norm(rounded[1] - rounded[0])) * layout.quantum(layout.segments[0])


def test_no_patient_moves_a_rounded_sum_further_than_the_sensitivity() -> None:
    layout = VectorFormat(segments=(Segment(name="gradient", length=64, max_abs=8.0),), max_clients=2**27)
    quantum = layout.quantum(layout.segments[0])
    bound, generator, largest = quantised_sensitivity(1.0, quantum, 64), np.random.default_rng(2), 0.0
    assert 0.4 < quantum < 0.7
    for i in range(200):
        others, patient = generator.uniform(-6, 6, 64), generator.normal(size=64)
        patient *= min(1.0, 1.0 / np.linalg.norm(patient))
        largest = max(largest, moved_by(patient, others=others, layout=layout, key=bytes([i]) * 32))
    assert largest <= bound
    # A patient whose contribution is next to nothing moves every entry by a step, if all stand just below their dither.
    dither = Keystream(KEY).words(64) * 2.0**-32
    worst = moved_by(np.full(64, quantum * 2.0**-30), others=quantum * (dither - 2.0**-31), layout=layout, key=KEY)
    assert worst == pytest.approx(quantum * 8)
    assert worst <= bound


def test_the_conditional_sensitivity_is_smaller_and_broken_no_more_often_than_beta() -> None:
    """Half a step in every entry is where rounding spreads most."""
    layout = VectorFormat(segments=(Segment(name="gradient", length=4096, max_abs=8.0),), max_clients=2**23)
    quantum = layout.quantum(layout.segments[0])
    bound = quantised_sensitivity(1.0, quantum, 4096, beta=0.01)
    assert bound < 0.51 * quantised_sensitivity(1.0, quantum, 4096)
    distances = [
        moved_by(np.full(4096, 1 / 64), others=np.full(4096, 0.3), layout=layout, key=i.to_bytes(32, "big"))
        for i in range(200)
    ]
    assert sum(distance > bound for distance in distances) <= 2
    assert max(distances) > 0.96 * bound


@pytest.mark.parametrize(
    ("clip_norm", "quantum", "dimension", "beta"),
    [(0.0, 1.0, 1, 0.0), (1.0, math.nan, 1, 0.0), (1.0, 1.0, 0, 0.0), (1.0, 1.0, 1, 1.0), (1.0, 1.0, 1, -0.1)],
)
def test_sensitivities_of_other_values_are_refused(
    clip_norm: float, quantum: float, dimension: int, beta: float
) -> None:
    with pytest.raises(RangeError, match="clip_norm"):
        quantised_sensitivity(clip_norm, quantum, dimension, beta=beta)
