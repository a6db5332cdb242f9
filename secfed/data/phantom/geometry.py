"""Smooth random fields, and a warped canvas on which organs are implicit shapes.

A shape is a signed distance in mm, negative inside, evaluated at warped coordinates x + u(x). The warp u is a cubic
B-spline field whose steepness is bounded so that the map stays invertible: a shape can bend but never fold or tear, and
no label volume is ever resampled. Axes of every volume are (z, y, x): inferior to superior, anterior to posterior,
patient right to patient left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]
Point = tuple[float, float, float]

FAR_MM = 1000.0

# Splines leave a third of the deviation of their knots in three dimensions. The amplitudes in this package were tuned
# to fields with this gain, whose deviation is about 0.63.
_FIELD_GAIN = 1.9

# Largest allowed change of one warp component per mm along one axis. The rows of the Jacobian of u then sum to less
# than one, so x + u(x) is a diffeomorphism.
_MAX_SLOPE = 0.30


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Voxel grid of a generated volume, (z, y, x)."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


STANDARD_GRID = Grid(shape=(48, 64, 80), spacing_mm=(5.0, 5.0, 5.0))
FINE_GRID = Grid(shape=(64, 96, 96), spacing_mm=(4.0, 4.0, 4.0))

# As many voxels as the standard grid, so that a heart costs what an abdomen costs, but finer: a ventricle's wall is
# 8 mm thick. As in cardiac scans, the field of view ends inside the chest.
HEART_GRID = Grid(shape=(48, 64, 80), spacing_mm=(3.5, 3.5, 3.5))


def smooth_field(generator: np.random.Generator, grid: Grid, *, scale_mm: float) -> Volume:
    """Zero-mean random field of correlation length `scale_mm` and a standard deviation of about 0.63."""
    lengths = zip(grid.shape, grid.spacing_mm, strict=True)
    knots = [max(4, int(np.ceil(size * spacing / scale_mm)) + 3) for size, spacing in lengths]
    field = generator.standard_normal(knots, dtype=np.float32)
    for size, count in zip(grid.shape, knots, strict=True):
        # Contracting the first axis appends the new one at the end, so three turns restore the order.
        field = np.tensordot(field, _spline_basis(size, count), axes=(0, 1))
    return np.asarray(field * _FIELD_GAIN, dtype=np.float32)


def _spline_basis(size: int, knots: int) -> NDArray[np.float32]:
    """Weights (size, knots) of uniform cubic B-splines."""
    position = np.linspace(0, knots - 3 - 1e-6, size)
    first = position.astype(int)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3], axis=1) / 6
    basis = np.zeros((size, knots), np.float32)
    np.put_along_axis(basis, first[:, None] + np.arange(4), weights.astype(np.float32), axis=1)
    return basis


def subtract(shape: Volume, hole: Volume) -> Volume:
    """`shape` without `hole`."""
    return np.maximum(shape, -hole)


class Canvas:
    """Warped coordinates of a grid in mm, with its origin in the middle by default, and signed distances on it."""

    def __init__(
        self,
        generator: np.random.Generator,
        grid: Grid,
        *,
        warp_mm: float = 9.0,
        roughness_mm: float = 1.3,
        middle: Point = (0.0, 0.0, 0.0),
    ) -> None:
        """`middle` is where the middle of the grid lies, in mm: a scan need not be centred on the body."""
        self.grid, self._middle = grid, middle
        axes = [
            (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(spacing) + np.float32(place)
            for size, spacing, place in zip(grid.shape, grid.spacing_mm, middle, strict=True)
        ]
        straight = np.meshgrid(*axes, indexing="ij", sparse=True)
        warps = [_invertible(warp_mm * smooth_field(generator, grid, scale_mm=95.0), grid) for _ in range(3)]
        self.z, self.y, self.x = (line + warp for line, warp in zip(straight, warps, strict=True))
        self.roughness = np.float32(roughness_mm) * smooth_field(generator, grid, scale_mm=22.0)
        # Local boxes must be wide enough to hold a shape wherever the warp takes it.
        self._margin_mm = max(float(np.abs(warp).max()) for warp in warps) + 4.0

    def empty(self) -> Volume:
        """A shape that holds nothing: every voxel is far outside."""
        return np.full(self.grid.shape, FAR_MM, np.float32)

    def warped(self, index: tuple[int, int, int]) -> Point:
        """Warped coordinates of one voxel, where a shape centred on it has to be put."""
        return float(self.z[index]), float(self.y[index]), float(self.x[index])

    def ellipsoid(
        self,
        centre: Point,
        radii: Point,
        *,
        rotation: float = 0.0,
        tilt: float = 0.0,
        roughness: float = 1.0,
        into: Volume | None = None,
        blend_mm: float = 0.0,
    ) -> Volume:
        """Ellipsoid, rotated about z and then tilted about y (radians).

        With `into` the ellipsoid is united with that shape in place, over a smooth seam of `blend_mm`.
        """
        out = self.empty() if into is None else into
        box = self._box(centre, max(radii) * 1.1)
        z, y, x = self.z[box] - centre[0], self.y[box] - centre[1], self.x[box] - centre[2]
        if rotation:
            y, x = np.cos(rotation) * y - np.sin(rotation) * x, np.sin(rotation) * y + np.cos(rotation) * x
        if tilt:
            z, x = np.cos(tilt) * z - np.sin(tilt) * x, np.sin(tilt) * z + np.cos(tilt) * x
        level = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2)
        slope = np.sqrt((z / radii[0] ** 2) ** 2 + (y / radii[1] ** 2) ** 2 + (x / radii[2] ** 2) ** 2) + 1e-6
        distance = level * (level - 1) / slope + roughness * self.roughness[box]
        if blend_mm:
            share = np.clip(0.5 + 0.5 * (out[box] - distance) / blend_mm, 0, 1)
            out[box] = out[box] * (1 - share) + distance * share - blend_mm * share * (1 - share)
        else:
            np.minimum(out[box], distance, out=out[box])
        return out

    def tube(
        self,
        points: NDArray[np.float64],
        radius: float | NDArray[np.float64],
        *,
        roughness: float = 0.6,
        haustra: float = 0.0,
        into: Volume | None = None,
    ) -> Volume:
        """Tube along a smoothed polyline.

        Args:
            points: shape (num_points, 3), in mm.
            radius: in mm, one for the tube or one per point.
            roughness: multiple of the canvas roughness that is added to the surface.
            haustra: relative depth of the ring-shaped folds of a colon.
            into: shape that the tube is united with, in place.
        """
        out = self.empty() if into is None else into
        for centre, reach in _balls(points, radius, haustra):
            box = self._box(centre, reach + 3)
            squared = (
                (self.z[box] - np.float32(centre[0])) ** 2
                + (self.y[box] - np.float32(centre[1])) ** 2
                + (self.x[box] - np.float32(centre[2])) ** 2
            )
            distance = np.sqrt(squared) - np.float32(reach) + np.float32(roughness) * self.roughness[box]
            np.minimum(out[box], distance, out=out[box])
        return out

    def ball(self, centre: Point, radius: float, *, roughness: float = 0.5) -> Volume:
        """Ball of `radius` mm."""
        return self.tube(np.array([centre, centre]), radius, roughness=roughness)

    def _box(self, centre: Point, reach: float) -> tuple[slice, slice, slice]:
        reach += self._margin_mm
        slices = []
        from_middle = [place - zero for place, zero in zip(centre, self._middle, strict=True)]
        for middle, size, spacing in zip(from_middle, self.grid.shape, self.grid.spacing_mm, strict=True):
            low = int(np.floor((middle - reach) / spacing + (size - 1) / 2))
            high = int(np.ceil((middle + reach) / spacing + (size - 1) / 2)) + 1
            slices.append(slice(max(0, low), max(0, min(high, size))))
        return slices[0], slices[1], slices[2]


def _invertible(warp: Volume, grid: Grid) -> Volume:
    steepest = max(float(np.abs(np.diff(warp, axis=axis)).max()) / grid.spacing_mm[axis] for axis in range(3))
    return warp * np.float32(min(1.0, _MAX_SLOPE / (steepest + 1e-6)))


def _balls(
    points: NDArray[np.float64], radius: float | NDArray[np.float64], haustra: float
) -> list[tuple[Point, float]]:
    """Centres and radii of the balls whose union is the tube, half a radius apart."""
    count = len(points)
    radii = np.broadcast_to(np.asarray(radius, np.float64), count)
    length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    steps = int(max(4, length / max(2.5, 0.5 * float(radii.min()))))
    coarse, fine = np.linspace(0, 1, count), np.linspace(0, 1, steps)
    line = np.stack([np.interp(fine, coarse, points[:, axis]) for axis in range(3)], axis=1)
    line = ndimage.gaussian_filter1d(line, max(1, steps // (2 * count)), axis=0, mode="nearest")
    along = np.interp(fine, coarse, radii) * (1 + haustra * np.sin(1.3 * np.arange(steps)))
    return [((float(z), float(y), float(x)), float(r)) for (z, y, x), r in zip(line, along, strict=True)]
