"""The frame of one heart, and its size in this moment of the cycle.

Points of the heart are given along three axes at the middle of the mitral valve: along the left ventricle to its apex,
at a right angle towards the right ventricle, and upwards. Sizes are of the order of the reference values for
cardiovascular magnetic resonance in Kawel-Boehm et al., J Cardiovasc Magn Reson 2015;17:29 (assumption: not looked up
value by value).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secfed.data.phantom.geometry import Canvas, Point, Volume
from secfed.data.phantom.population import HeartPopulation

Vector = NDArray[np.float64]

# Radii change more than the length while the ventricle empties: volume goes with radius squared times length, and these
# exponents of the volume's factor add up to one.
_RADIUS_POWER, _LENGTH_POWER = 0.40, 0.20


@dataclass(frozen=True, kw_only=True)
class HeartFrame:
    """`base` is the middle of the mitral valve in (z, y, x) mm; `axes` are unit rows: along, right, up.

    Lengths given to `point` are multiplied by `scale`.
    """

    base: Vector
    axes: Vector
    scale: float

    @classmethod
    def draw(cls, generator: np.random.Generator, *, base: Vector, scale: float) -> "HeartFrame":
        """A usual heart points left, forwards and down, by about 40 degrees each, and rolls a little about its axis."""
        turn, fall, roll = np.deg2rad(generator.normal([42.0, 33.0, 0.0], [7.0, 7.0, 8.0]))
        along = np.array([-np.sin(fall), -np.cos(fall) * np.sin(turn), np.cos(fall) * np.cos(turn)])
        towards_right = np.array([0.0, -0.72, -0.69])
        right = towards_right - (towards_right @ along) * along
        right /= np.linalg.norm(right)
        up = np.cross(along, right)
        up *= np.sign(up[0])
        right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
        return cls(base=base, axes=np.stack([along, right, up]), scale=scale)

    def point(self, along: float, right: float, up: float) -> Point:
        """A point of the heart in (z, y, x) mm."""
        z, y, x = self.base + self.scale * (np.array([along, right, up]) @ self.axes)
        return float(z), float(y), float(x)

    def coordinates(self, canvas: Canvas) -> tuple[Volume, Volume, Volume]:
        """Where every voxel lies along the three axes, in mm."""
        z, y, x = (
            line - np.float32(zero) for line, zero in zip((canvas.z, canvas.y, canvas.x), self.base, strict=True)
        )
        rows = self.axes.astype(np.float32)
        along, right, up = (row[0] * z + row[1] * y + row[2] * x for row in rows)
        return along, right, up


@dataclass(frozen=True, kw_only=True)
class Ventricle:
    """The left ventricle now: two half-open ellipsoids about one centre on the long axis, cut at the mitral valve.

    `emptied` is the share of the end-diastolic volume that has left; atria are full where ventricles are empty.
    """

    centre_mm: float
    cavity_long_mm: float
    cavity_short_mm: float
    outer_long_mm: float
    outer_short_mm: float
    emptied: float

    @classmethod
    def draw(cls, generator: np.random.Generator, population: HeartPopulation, *, scale: float) -> "Ventricle":
        """Draw the ventricle at the end of diastole, then let it contract: muscle keeps its volume."""
        size = scale * population.ventricle_scale
        length, short = size * generator.normal(85.0, 3.0), size * generator.normal(25.0, 1.0)
        wall = float(np.clip(generator.normal(population.wall_mm, 0.9), 6.0, 13.0))
        emptied = generator.uniform(*population.emptied)
        centre = 0.32 * length
        inner = _cut_volume(centre, length - centre, short)
        outer = _cut_volume(centre, length - centre + 0.85 * wall, short + wall)
        inner_left = 1 - emptied
        outer_left = 1 - emptied * inner / outer
        return cls(
            centre_mm=centre * inner_left**_LENGTH_POWER,
            cavity_long_mm=(length - centre) * inner_left**_LENGTH_POWER,
            cavity_short_mm=short * inner_left**_RADIUS_POWER,
            outer_long_mm=(length - centre + 0.85 * wall) * outer_left**_LENGTH_POWER,
            outer_short_mm=(short + wall) * outer_left**_RADIUS_POWER,
            emptied=float(emptied),
        )


def _cut_volume(centre: float, long: float, short: float) -> float:
    """Volume of an ellipsoid of revolution beyond a plane at `centre` before its middle."""
    return float(np.pi * short**2 * (2 / 3 * long + centre - centre**3 / (3 * long**2)))
