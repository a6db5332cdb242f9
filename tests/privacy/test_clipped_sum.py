"""The ball that every patient is scaled into: what floating-point numbers make of it, at its edges."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch

from privacy.clipped_sum import MAX_PATIENTS, ClippedAccumulator
from privacy.errors import MisuseError

CPU = torch.device("cpu")


def clipped(values, *, clip_norm=1.0, scale=1.0, dtype=torch.float32):
    tensor = torch.tensor(values, dtype=dtype)
    total = ClippedAccumulator([tensor.shape], clip_norm=clip_norm, device=CPU)
    total.add([tensor], scale=scale)
    return total.result()


def exact_square(vector):
    return sum(Fraction(value) ** 2 for value in vector.tolist())


def test_short_gradients_are_added_bit_for_bit():
    assert clipped([0.3, -0.4]).vector.tolist() == torch.tensor([0.3, -0.4]).double().tolist()


@pytest.mark.parametrize(
    "values",
    [
        [3.0, 4.0],
        [1.0],
        [math.nextafter(1.0, 2.0)],
        [1.0 - 2.0**-24],
        [3.4e38] * 7,
        [1e-45] * 3,
        [1e38, 1e-38],
        [1 / 3] * 10_000,
        [0.01] * 10_000,
    ],
)
@pytest.mark.parametrize("clip_norm", [1.0, 1e-30, 0.1, 1e30])
def test_norm_after_clipping_is_at_most_the_bound_in_exact_arithmetic(values, clip_norm):
    found = clipped(values, clip_norm=clip_norm).vector
    assert exact_square(found) <= Fraction(clip_norm) ** 2
    # Clipping takes no more than it must.
    length = math.dist(np.float32(values).astype(np.float64), np.zeros(len(values)))
    assert np.linalg.norm(found) >= min(length, clip_norm) * (1 - 2.0**-19)


def test_scale_is_taken_out_before_clipping():
    for scale in (1.0, 1024.0, 3.0):
        found = clipped([0.5 * scale, 0.0], scale=scale)
        assert found.vector.tolist() == pytest.approx([0.5, 0.0], rel=1e-7)
        assert found.diagnostics.norms.tolist() == pytest.approx([0.5], rel=1e-7)
        assert found.diagnostics.fraction_clipped == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_is_measured_in_float64(dtype):
    found = clipped([100.0] * 1000, dtype=dtype)
    assert found.diagnostics.norms.tolist() == pytest.approx([100 * math.sqrt(1000)], rel=1e-12)
    assert exact_square(found.vector) <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradient_that_is_not_finite_contributes_zero_and_is_counted(bad):
    total = ClippedAccumulator([torch.Size([2]), torch.Size([1, 2])], clip_norm=1.0, device=CPU)
    total.add([torch.tensor([0.1, 0.2]), torch.tensor([[0.3, 0.4]])])
    before = total.result().vector
    total.add([torch.tensor([5.0, bad]), torch.tensor([[1.0, 1.0]])])
    found = total.result()
    assert np.array_equal(found.vector, before)
    assert (found.patients, found.diagnostics.not_finite) == (2, 1)
    assert found.diagnostics.fraction_clipped == 0


def test_float64_gradient_whose_norm_overflows_contributes_zero():
    found = clipped([1e200, 1e200], dtype=torch.float64)
    assert not found.vector.any()
    assert found.diagnostics.not_finite == 1


def test_gradients_are_read_and_not_changed():
    tensor = torch.tensor([3.0, math.nan], dtype=torch.float64)
    total = ClippedAccumulator([tensor.shape], clip_norm=1.0, device=CPU)
    total.add([tensor])
    assert tensor[0] == 3
    assert tensor[1].isnan()


def test_rounding_of_a_large_lot_stays_inside_the_bound():
    """Many contributions of the same size, and one that was left out: the worst case of the guarantee."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(2000, 3, generator=generator) * 1e6
    for left_out in (0, 999, 1999):
        sums = []
        for without in (None, left_out):
            total = ClippedAccumulator([torch.Size([3])], clip_norm=0.1, device=CPU)
            for index, gradient in enumerate(gradients):
                if index != without:
                    total.add([gradient])
            sums.append(total.result().vector)
        change = [Fraction(a) - Fraction(b) for a, b in zip(*map(np.ndarray.tolist, sums), strict=True)]
        assert sum(entry**2 for entry in change) <= Fraction(0.1) ** 2


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, 1e-31, 1e31, math.inf, math.nan])
def test_bounds_that_no_arithmetic_holds_are_refused(clip_norm):
    with pytest.raises(MisuseError, match="clip_norm"):
        ClippedAccumulator([torch.Size([1])], clip_norm=clip_norm, device=CPU)


def test_gradient_of_other_shapes_is_refused():
    total = ClippedAccumulator([torch.Size([2])], clip_norm=1.0, device=CPU)
    for wrong in ([], [torch.zeros(3)], [torch.zeros(2), torch.zeros(2)], [torch.zeros(2, 1)]):
        with pytest.raises(MisuseError, match="shapes"):
            total.add(wrong)
    assert total.result().patients == 0


def test_lot_that_is_larger_than_the_guarantee_is_refused(monkeypatch):
    assert MAX_PATIENTS == 2**15
    monkeypatch.setattr("privacy.clipped_sum.MAX_PATIENTS", 2)
    total = ClippedAccumulator([torch.Size([1])], clip_norm=1.0, device=CPU)
    total.add([torch.ones(1)])
    total.add([torch.ones(1)])
    with pytest.raises(MisuseError, match="at most 2 patients"):
        total.add([torch.ones(1)])


def test_what_is_not_for_release_does_not_print_and_does_not_pickle():
    found = clipped([123.5, 0.0])
    assert "123" not in repr(found)
    assert "private" in repr(found)
    with pytest.raises(MisuseError, match="no noise"):
        pickle.dumps(found)
