"""Random patches: shape, alignment of image and label, fairness and foreground."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from secfed.data.cases import Modality
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import PatchSampler
from secfed.errors import DataError


def make_case(
    shape: tuple[int, int, int] = (6, 16, 20), *, patient: str = "p", foreground: bool = True
) -> PreparedCase:
    """Every voxel's image value is its own number, so a patch tells where it was cut."""
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1000
    label = np.zeros(shape, np.uint8)
    if foreground:
        label[2:4, 5:8, 6:9] = 3
    return PreparedCase(
        patient=patient,
        modality=Modality.CT,
        image=image,
        label=label,
        spacing_mm=(5.0, 5.0, 5.0),
        source=Path(f"{patient}.nii.gz"),
    )


def place(value: float, shape: tuple[int, ...] = (6, 16, 20)) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(int(value) - 1000, shape))


@pytest.mark.parametrize("patch_size", [(16, 20), (8, 8), (16, 8), (32, 32), (8, 32), (4, 8, 8), (8, 8, 32)])
@pytest.mark.parametrize("foreground_prob", [0.0, 0.5, 1.0])
def test_patches_have_their_size_and_types(patch_size: tuple[int, ...], foreground_prob: float):
    sampler = PatchSampler([make_case()], patch_size=patch_size, foreground_prob=foreground_prob)
    for _ in range(20):
        image, label = sampler.draw(np.random.default_rng(0))
        assert image.shape == label.shape == patch_size
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize("patch_size", [(8, 8), (32, 32), (4, 8, 8), (8, 20, 8)])
def test_image_and_label_are_cut_at_the_same_place(patch_size: tuple[int, ...]):
    case = make_case()
    sampler = PatchSampler([case], patch_size=patch_size, foreground_prob=0.5)
    generator = np.random.default_rng(1)
    for _ in range(50):
        image, label = sampler.draw(generator)
        for value, class_index in zip(image.ravel(), label.ravel(), strict=True):
            # The minimum is both a voxel and the padding; neither has a class.
            assert class_index == (0 if value == 1000 else case.label[place(value)])


@pytest.mark.parametrize("patch_size", [(8, 8), (16, 20), (4, 4), (2, 4, 4), (6, 16, 20), (12, 20, 24)])
def test_foreground_patches_hold_foreground(patch_size: tuple[int, ...]):
    sampler = PatchSampler([make_case(), make_case(foreground=False)], patch_size=patch_size, foreground_prob=1.0)
    generator = np.random.default_rng(2)
    assert all(sampler.draw(generator)[1].any() for _ in range(100))


def test_foreground_probability_is_the_share_of_forced_patches():
    """A third of the slices hold foreground, so the share is p + (1 - p) / 3."""
    sampler = PatchSampler([make_case()], patch_size=(16, 20), foreground_prob=0.4)
    generator = np.random.default_rng(3)
    share = np.mean([sampler.draw(generator)[1].any() for _ in range(4000)])
    assert share == pytest.approx(0.4 + 0.6 / 3, abs=0.035)
    assert share != pytest.approx(0.4, abs=0.035)


def test_without_any_foreground_plain_patches_are_drawn():
    sampler = PatchSampler([make_case(foreground=False)], patch_size=(8, 8), foreground_prob=1.0)
    assert not sampler.draw(np.random.default_rng(0))[1].any()


def test_cases_are_drawn_equally_often_whatever_their_size():
    small, large = make_case((2, 16, 20), foreground=False), make_case((40, 16, 20), foreground=False)
    sampler = PatchSampler([small, large], patch_size=(16, 20), foreground_prob=0.0)
    generator = np.random.default_rng(4)
    from_small = [sampler.draw(generator)[0].min() < 1000 + 2 * 320 for _ in range(4000)]
    # Two of the 40 slices of the large case look like slices of the small one.
    assert np.mean(from_small) == pytest.approx(0.5 + 0.5 * 2 / 40, abs=0.035)


def test_every_slice_and_every_corner_is_reached():
    sampler = PatchSampler([make_case()], patch_size=(14, 19), foreground_prob=0.0)
    generator = np.random.default_rng(5)
    corners = {place(sampler.draw(generator)[0][0, 0]) for _ in range(2000)}
    assert corners == set(itertools.product(range(6), range(3), range(2)))


def test_padding_is_even_and_dark():
    sampler = PatchSampler([make_case()], patch_size=(20, 24), foreground_prob=0.0)
    image, label = sampler.draw(np.random.default_rng(6))
    assert (image[:2] == 1000).all()
    assert (image[-2:] == 1000).all()
    assert (image[:, :2] == 1000).all()
    assert (image[:, -2:] == 1000).all()
    assert (np.diff(image[2:-2, 2:-2], axis=1) == 1).all()
    assert not label[:2].any()


def test_draws_are_fresh_arrays():
    case = make_case()
    sampler = PatchSampler([case], patch_size=(16, 20), foreground_prob=0.0)
    image, label = sampler.draw(np.random.default_rng(7))
    image += 1
    label += 1
    assert case.image.max() == 1000 + 6 * 320 - 1
    assert case.label.max() == 3


def test_equal_generators_give_equal_draws():
    sampler = PatchSampler([make_case(), make_case()], patch_size=(8, 8), foreground_prob=0.5)
    first, second = np.random.default_rng(8), np.random.default_rng(8)
    for _ in range(20):
        np.testing.assert_array_equal(sampler.draw(first)[0], sampler.draw(second)[0])


def test_a_pass_counts_slices_or_blocks():
    cases = [make_case((6, 16, 20)), make_case((5, 16, 20))]
    assert PatchSampler(cases, patch_size=(8, 8), foreground_prob=0.0).num_slices == 11
    assert PatchSampler(cases, patch_size=(4, 8, 8), foreground_prob=0.0).num_slices == 2 * 2 * 3 + 2 * 2 * 3
    assert PatchSampler(cases, patch_size=(8, 32, 32), foreground_prob=0.0).num_slices == 2


def test_a_case_without_label_is_named():
    case = make_case()
    bare = PreparedCase(
        patient="p2",
        modality=Modality.CT,
        image=case.image,
        label=None,
        spacing_mm=case.spacing_mm,
        source=Path("scans/p2.nii.gz"),
    )
    with pytest.raises(DataError, match=r"scans/p2\.nii\.gz: has no label"):
        PatchSampler([case, bare], patch_size=(8, 8), foreground_prob=0.0)


def test_no_case_is_an_error():
    with pytest.raises(DataError, match="no case"):
        PatchSampler([], patch_size=(8, 8), foreground_prob=0.0)


@pytest.mark.parametrize(("patch_size", "probability"), [((8,), 0.0), ((8, 0), 0.0), ((8, 8), 1.1), ((8, 8), -0.1)])
def test_settings_out_of_range_are_refused(patch_size: tuple[int, ...], probability: float):
    with pytest.raises(ValueError, match=r"patch_size|foreground_prob"):
        PatchSampler([make_case()], patch_size=patch_size, foreground_prob=probability)
