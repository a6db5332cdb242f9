"""The discrete Gaussian's tables, its exact decisions, and what it refuses. Its law is in tests/statistical."""

from fractions import Fraction

import numpy as np
import pytest

from privacy import discrete_gaussian as sampler
from privacy.discrete_gaussian import discrete_gaussian
from privacy.errors import MisuseError
from privacy.exact_exponential import exponential_bounds
from privacy.streams import Keystream

KEY = bytes(range(32))
SIGMAS = [Fraction(1, 64), Fraction(1, 2), Fraction(1), Fraction(7.9), Fraction(8), Fraction(1000, 3), Fraction(2**28)]


class FixedWords(Keystream):
    """Gives the words of a list, and then the stream's."""

    def __init__(self, words: list[int]) -> None:
        super().__init__(KEY)
        self._fixed = words

    def words(self, count: int) -> np.ndarray:
        if not self._fixed:
            return super().words(count)
        given, self._fixed = self._fixed[:count], self._fixed[count:]
        assert len(given) == count
        return np.array(given, dtype=np.uint32)


@pytest.fixture(autouse=True)
def no_tables_of_other_settings():
    sampler._law.cache_clear()
    yield
    sampler._law.cache_clear()


def test_one_key_gives_one_vector() -> None:
    first = discrete_gaussian(70_000, sigma=3.5, stream=Keystream(KEY))
    assert first.dtype == np.int64
    assert np.array_equal(first, discrete_gaussian(70_000, sigma=Fraction(7, 2), stream=Keystream(KEY)))
    assert not np.array_equal(first, discrete_gaussian(70_000, sigma=3.5, stream=Keystream(bytes(32))))


@pytest.mark.parametrize("count", [0, 1, 29_000, 32_768, 69_999])
def test_fewer_samples_are_the_first_of_more(count: int) -> None:
    more = discrete_gaussian(70_000, sigma=1e5, stream=Keystream(KEY))
    assert np.array_equal(discrete_gaussian(count, sigma=1e5, stream=Keystream(KEY)), more[:count])


def test_a_stream_gives_other_samples_each_time() -> None:
    stream = Keystream(KEY)
    assert not np.array_equal(*(discrete_gaussian(100, sigma=1e4, stream=stream) for _ in range(2)))


@pytest.mark.parametrize("sigma", [0.5, 12.25, 1e6])
def test_deciding_every_coin_in_integers_changes_no_sample(monkeypatch: pytest.MonkeyPatch, sigma: float) -> None:
    """The exact rule, without float64 and without the quick bound, on the same uniform words."""
    monkeypatch.setattr(sampler, "_BATCH", 2048)
    quick = discrete_gaussian(1_500, sigma=sigma, stream=Keystream(KEY))
    law = sampler._law(Fraction(sigma))
    monkeypatch.setattr(sampler, "_UNCERTAINTY", 2.0)
    monkeypatch.setattr(law, "_surely", np.zeros_like(law._surely))
    assert np.array_equal(discrete_gaussian(1_500, sigma=sigma, stream=Keystream(KEY)), quick)


def test_float_decisions_stay_far_inside_their_claimed_uncertainty() -> None:
    """Compare the float64 coin with bounds of 96 bits at the largest offsets of every block."""
    for sigma in SIGMAS:
        law = sampler._law(sigma)
        y = np.array(
            [float(law.exponent(b.start + d) - law.exponent(b.peak)) for b in law.blocks for d in (0, law.width - 1)]
        )
        assert y.max() < 1.6
        chance = np.full(y.size, sampler._COEFFICIENTS[-1])
        for coefficient in sampler._COEFFICIENTS[-2::-1]:
            chance = chance * y + coefficient
        x = [b.start + d for b in law.blocks for d in (0, law.width - 1)]
        for at, block in enumerate(law.blocks):
            for i in (2 * at, 2 * at + 1):
                low, high = exponential_bounds(law.exponent(x[i]), precision=96)
                true = law.scale * (low + high) / 2 / block.weight / 2**96
                assert abs(float(chance[i] * block.factor) - true) < 2.0**-44


@pytest.mark.parametrize("sigma", SIGMAS, ids=str)
def test_no_coin_of_any_block_needs_a_probability_above_one(sigma: Fraction) -> None:
    law = sampler._law(sigma)
    assert law.used_slots < sampler._SLOTS, "the last slot is the tail's"
    assert [b.start for b in law.blocks] == list(range(-law.reach, law.reach, law.width))
    assert law.reach >= 12 * sigma
    assert 16 * law.width >= sigma
    for block in law.blocks:
        inside = (block.start, block.start + law.width - 1)
        assert block.peak == min(inside, key=abs)
        _, high = exponential_bounds(law.exponent(block.peak), precision=96)
        assert law.scale * high < block.weight * 2**96
        low, _ = exponential_bounds(law.exponent(max(inside, key=abs)), precision=96)
        assert Fraction(block.surely, 2**32) <= Fraction(law.scale * low, block.weight * 2**96)


@pytest.mark.parametrize("sigma", SIGMAS, ids=str)
def test_no_coin_of_the_tail_needs_a_probability_above_one(sigma: Fraction) -> None:
    law = sampler._law(sigma)
    for m in [*range(40), 1000]:
        _, high = exponential_bounds(law.exponent(law.reach + m * law.width), precision=2000)
        assert law.scale * high * 2 ** (66 + m) < 2**2000


def test_the_tail_is_reached_by_its_slot_alone_and_keeps_its_sign() -> None:
    law = sampler._law(Fraction(1000))
    batch = np.array(Keystream(KEY).words(4 * sampler._BATCH)).reshape(4, -1)
    batch[:, 7] = (0xFFFFFFFF, 123, 0, 0)
    # Heads, heads, tails: block 2; an offset; the sign; and a uniform below any probability.
    for sign, expected in ((1 << 31, law.reach + 2 * law.width + 5), (0, -1 - law.reach - 2 * law.width - 5)):
        flips = [1 << 31, 1 << 31, 0, 5 << (32 - law.shift), sign, 0, 0, 0, 0, 0, 0]
        samples = law.batch(FixedWords([*batch.reshape(-1).tolist(), *flips]))
        assert np.count_nonzero(samples == expected) == 1
        assert np.abs(samples[samples != expected]).max() < law.reach
    batch[3, 7] = 1
    samples = law.batch(FixedWords(batch.reshape(-1).tolist()))
    assert np.abs(samples).max() < law.reach


def test_what_the_tail_proposes_is_rejected_as_a_rule() -> None:
    law, stream = sampler._law(Fraction(1000)), Keystream(KEY)
    assert [law.tail_candidate(stream) for _ in range(50)] == [None] * 50


@pytest.mark.parametrize(
    "sigma", [0.0, -1.0, float("nan"), float("inf"), -float("inf"), 2.0**28 + 1, Fraction(1, 65), Fraction(-3)]
)
def test_a_sigma_out_of_range_is_refused(sigma: float | Fraction) -> None:
    with pytest.raises(MisuseError, match="sigma = "):
        discrete_gaussian(1, sigma=sigma, stream=Keystream(KEY))


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(MisuseError, match="count = -1"):
        discrete_gaussian(-1, sigma=1.0, stream=Keystream(KEY))
