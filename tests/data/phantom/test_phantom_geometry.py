"""Smooth fields, invertible warps and implicit shapes."""

import numpy as np
import pytest

from secfed.data.phantom.geometry import STANDARD_GRID, Canvas, Grid, smooth_field, subtract

SMALL = Grid(shape=(24, 32, 40), spacing_mm=(5.0, 5.0, 5.0))


def straight_canvas(grid: Grid = SMALL) -> Canvas:
    return Canvas(np.random.default_rng(0), grid, warp_mm=0.0, roughness_mm=0.0)


def test_smooth_field_has_its_stated_deviation_and_no_steps():
    fields = np.stack([smooth_field(np.random.default_rng(seed), STANDARD_GRID, scale_mm=40) for seed in range(8)])
    assert fields.shape == (8, 48, 64, 80)
    assert 0.55 < fields.std() < 0.71
    assert abs(fields.mean()) < 0.1
    assert np.abs(np.diff(fields, axis=3)).max() < 0.6


def test_smooth_field_is_linear_in_the_order_of_axes():
    """Every axis carries its own number of voxels and its own correlation length."""
    grid = Grid(shape=(8, 40, 16), spacing_mm=(10.0, 1.0, 5.0))
    field = smooth_field(np.random.default_rng(1), grid, scale_mm=40)
    assert field.shape == grid.shape
    roughness = [float(np.abs(np.diff(field, axis=axis)).mean()) for axis in range(3)]
    assert roughness[1] < roughness[2] < roughness[0]


@pytest.mark.parametrize("seed", range(6))
def test_the_warp_never_folds(seed: int):
    """The rows of the Jacobian of the displacement sum to less than one, even when a huge warp is asked for."""
    canvas = Canvas(np.random.default_rng(seed), STANDARD_GRID, warp_mm=60.0)
    middle = [(size - 1) / 2 for size in STANDARD_GRID.shape]
    for axis, coordinate in enumerate((canvas.z, canvas.y, canvas.x)):
        line = (np.arange(STANDARD_GRID.shape[axis]) - middle[axis]) * 5.0
        shift = coordinate - line.reshape([-1 if other == axis else 1 for other in range(3)])
        steepness = sum(float(np.abs(np.diff(shift, axis=other)).max()) / 5.0 for other in range(3))
        assert steepness < 1
        # One coordinate rises strictly along its own axis wherever the map is invertible by this bound.
        assert (np.diff(coordinate, axis=axis) > 0).all()


def test_ellipsoid_has_the_volume_of_an_ellipsoid():
    grid = Grid(shape=(60, 60, 60), spacing_mm=(2.0, 2.0, 2.0))
    inside = straight_canvas(grid).ellipsoid((0, 0, 0), (40, 30, 20), rotation=0.4, tilt=-0.3) < 0
    assert inside.sum() * 8 == pytest.approx(4 / 3 * np.pi * 40 * 30 * 20, rel=0.01)


def test_tube_has_the_volume_of_a_capsule():
    grid = Grid(shape=(60, 60, 60), spacing_mm=(2.0, 2.0, 2.0))
    inside = straight_canvas(grid).tube(np.array([(-30.0, 0, 0), (30.0, 0, 0)]), 12.0) < 0
    full = np.pi * 12**2 * 60 + 4 / 3 * np.pi * 12**3
    # Smoothing the line pulls its ends in a little.
    assert 0.85 * full < inside.sum() * 8 < 1.01 * full


def test_a_shape_lies_where_it_was_put():
    canvas = straight_canvas()
    z, y, x = np.argwhere(canvas.ball((20.0, -30.0, 45.0), 15.0) < 0).mean(axis=0)
    assert (z - 11.5) * 5 == pytest.approx(20, abs=1)
    assert (y - 15.5) * 5 == pytest.approx(-30, abs=1)
    assert (x - 19.5) * 5 == pytest.approx(45, abs=1)


def test_local_boxes_change_nothing():
    """A shape is evaluated in a box around it; nothing of it may lie outside that box, however it is warped."""
    canvas = Canvas(np.random.default_rng(5), SMALL, warp_mm=20.0)
    local = canvas.ellipsoid((10, 10, -30), (25, 20, 15)) < 0
    whole = Canvas(np.random.default_rng(5), SMALL, warp_mm=20.0)
    whole._margin_mm = 1e4
    np.testing.assert_array_equal(local, whole.ellipsoid((10, 10, -30), (25, 20, 15)) < 0)


def test_subtract_leaves_what_the_hole_does_not_cover():
    canvas = straight_canvas()
    ball, hole = canvas.ball((0, 0, 0), 30.0), canvas.ball((0, 0, 20.0), 20.0)
    np.testing.assert_array_equal(subtract(ball, hole) < 0, (ball < 0) & (hole > 0))


def test_a_shape_beyond_the_grid_is_empty():
    assert (straight_canvas().ball((500.0, 0, 0), 20.0) > 0).all()
