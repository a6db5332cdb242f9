"""The heart and its great vessels as signed distances, before the chest is painted.

Four chambers, the muscle of the left ventricle as a shell, the ascending aorta from the left ventricle, the pulmonary
trunk from the right one. Where two claim a place the order of `build_heart` decides, with a wall between them. Numbers
are mm in a usual heart (assumptions, chosen by eye from anatomy). No valves, papillary muscles or coronary vessels.
"""

from dataclasses import dataclass

import numpy as np

from secfed.data.phantom.geometry import Canvas, Point, Volume
from secfed.data.phantom.heart_frame import HeartFrame, Ventricle
from secfed.data.phantom.population import HeartPopulation

# Walls between the blood of two structures, in mm.
_ROOF_MM = 7.0
SEPTUM_MM, VESSEL_WALL_MM, RIGHT_WALL_MM, ATRIAL_WALL_MM = 3.0, 2.5, 3.0, 2.0


@dataclass(frozen=True, kw_only=True)
class Heart:
    """Signed distances of blood pools, of the left ventricle's muscle and of the vessels that carry no label.

    `aorta` and `pulmonary_trunk` are the labelled parts; `arch` and `pulmonary_branches` go on where they end.
    """

    left_ventricle: Volume
    myocardium: Volume
    right_ventricle: Volume
    left_atrium: Volume
    right_atrium: Volume
    aorta: Volume
    pulmonary_trunk: Volume
    arch: Volume
    pulmonary_branches: Volume
    pulmonary_veins: Volume
    caval_veins: Volume


def build_heart(
    canvas: Canvas,
    generator: np.random.Generator,
    population: HeartPopulation,
    *,
    frame: HeartFrame,
    spine_front_mm: float,
) -> Heart:
    """Draw all structures of one heart."""
    ventricle = Ventricle.draw(generator, population, scale=frame.scale)
    along, right, up = frame.coordinates(canvas)
    off_axis = right**2 + up**2
    cavity = _half_open(along, off_axis, ventricle.centre_mm, ventricle.cavity_long_mm, ventricle.cavity_short_mm)
    cavity += 0.4 * canvas.roughness
    outer = _half_open(along, off_axis, ventricle.centre_mm, ventricle.outer_long_mm, ventricle.outer_short_mm)
    beyond_valve = -along
    left_ventricle, myocardium = np.maximum(cavity, beyond_valve), np.maximum(outer, beyond_valve)

    vessels = _Vessels.draw(canvas, generator, frame=frame, spine_front_mm=spine_front_mm)
    aorta = np.maximum(vessels.aorta, along)
    trunk = _apart(np.maximum(vessels.trunk, -vessels.beyond_pulmonary_valve), vessels.aorta, VESSEL_WALL_MM)
    # Atria fill while ventricles empty.
    atria = population.atrium_scale * frame.scale * (1 + 0.25 * ventricle.emptied)
    left_atrium = _left_atrium(canvas, generator, frame, size=atria)
    left_atrium = _apart(np.maximum(left_atrium, along), vessels.aorta, VESSEL_WALL_MM)
    left_atrium = _apart(_apart(left_atrium, trunk, VESSEL_WALL_MM), vessels.branches, VESSEL_WALL_MM)
    left_atrium = _apart(left_atrium, vessels.descending, VESSEL_WALL_MM)

    valve_mm = 2.0 * frame.scale
    right_ventricle = _right_ventricle(canvas, generator, frame, ventricle, across=(along, right, up))
    right_ventricle = np.maximum(right_ventricle, valve_mm - along)
    outflow = np.maximum(vessels.outflow, vessels.beyond_pulmonary_valve)
    right_ventricle = np.minimum(right_ventricle, outflow)
    right_ventricle = _apart(_apart(right_ventricle, outer, 0.5), vessels.aorta, VESSEL_WALL_MM)
    right_ventricle = _apart(right_ventricle, trunk, 0.0)

    right_atrium = canvas.ellipsoid(
        _jittered(generator, frame.point(-15, 38, -12), 2.5),
        _scaled(atria * _spread(generator, 0.04), (29, 26, 25)),
        roughness=0.6,
    )
    caval = _caval_veins(canvas, generator, frame)
    right_atrium = np.maximum(right_atrium, along - valve_mm)
    right_atrium = _apart(_apart(right_atrium, left_atrium, SEPTUM_MM), vessels.aorta, VESSEL_WALL_MM)
    right_atrium = _apart(_apart(right_atrium, outer, 1.0), right_ventricle, 0.0)

    # The label of the aorta ends at the upper level of the atria (definition of MM-WHS), here with their roof.
    atria_top_mm = _highest(canvas, np.minimum(left_atrium, right_atrium)) + _ROOF_MM
    return Heart(
        left_ventricle=left_ventricle,
        myocardium=np.maximum(myocardium, -left_ventricle),
        right_ventricle=right_ventricle,
        left_atrium=left_atrium,
        right_atrium=right_atrium,
        aorta=np.maximum(aorta, canvas.z - np.float32(atria_top_mm)),
        pulmonary_trunk=trunk,
        arch=np.minimum(vessels.arch, vessels.descending),
        pulmonary_branches=vessels.branches,
        pulmonary_veins=_pulmonary_veins(canvas, generator, frame),
        caval_veins=caval,
    )


def _half_open(along: Volume, off_axis: Volume, centre: float, long: float, short: float) -> Volume:
    """Distance to an ellipsoid of revolution about the long axis."""
    middle = along - np.float32(centre)
    level = np.sqrt((middle / long) ** 2 + off_axis / short**2)
    slope = np.sqrt((middle / long**2) ** 2 + off_axis / short**4) + 1e-6
    return np.asarray(level * (level - 1) / slope, dtype=np.float32)


def _apart(shape: Volume, other: Volume, gap_mm: float) -> Volume:
    """`shape` without what lies within `gap_mm` of `other`."""
    apart: Volume = np.maximum(shape, np.float32(gap_mm) - other)
    return apart


def _scaled(size: float, radii: Point) -> Point:
    return size * radii[0], size * radii[1], size * radii[2]


def _spread(generator: np.random.Generator, deviation: float) -> float:
    return float(np.exp(generator.normal(0, deviation)))


def _jittered(generator: np.random.Generator, point: Point, deviation_mm: float) -> Point:
    z, y, x = np.array(point) + generator.normal(0, deviation_mm, 3)
    return float(z), float(y), float(x)


def _highest(canvas: Canvas, shape: Volume) -> float:
    inside = shape < 0
    return float(canvas.z[inside].max()) if inside.any() else float(canvas.z.max())


def _right_ventricle(
    canvas: Canvas,
    generator: np.random.Generator,
    frame: HeartFrame,
    ventricle: Ventricle,
    *,
    across: tuple[Volume, Volume, Volume],
) -> Volume:
    """A pouch that lies on the septum like a hand on a ball; the outflow tract is drawn apart."""
    along, right, up = across
    size = frame.scale * _spread(generator, 0.035) * (1 - 0.28 * ventricle.emptied)
    middle, reach = np.array([33.0, 27.0, -4.0]) * frame.scale, np.array([50.0, 34.0, 39.0]) * size
    parts = [
        (line - np.float32(zero)) / length for line, zero, length in zip((along, right, up), middle, reach, strict=True)
    ]
    level = np.sqrt(sum(part**2 for part in parts))
    slope = np.sqrt(sum((part / length) ** 2 for part, length in zip(parts, reach, strict=True))) + 1e-6
    # Trabeculae make the right ventricle's wall rougher than the left one's.
    return np.asarray(level * (level - 1) / slope + 1.2 * canvas.roughness, dtype=np.float32)


def _left_atrium(canvas: Canvas, generator: np.random.Generator, frame: HeartFrame, *, size: float) -> Volume:
    size *= _spread(generator, 0.04)
    centre = _jittered(generator, frame.point(-16, -6, -4), 2.0)
    atrium = canvas.ellipsoid(centre, _scaled(size, (25, 21, 29)), roughness=0.5)
    ear = [
        (centre[0] + 8 * size, centre[1] - 8 * size, centre[2] + 18 * size),
        (centre[0] + 14 * size, centre[1] - 20 * size, centre[2] + 34 * size),
        (centre[0] + 12 * size, centre[1] - 30 * size, centre[2] + 38 * size),
    ]
    return canvas.tube(np.array(ear), np.array([9.0, 7.5, 5.5]) * size, roughness=0.8, into=atrium)


def _pulmonary_veins(canvas: Canvas, generator: np.random.Generator, frame: HeartFrame) -> Volume:
    """Four veins from the back of the left atrium to the lungs."""
    z, y, x = frame.point(-16, -6, -4)
    veins = canvas.empty()
    for side, height, backwards in ((-1, 12, 4), (-1, -8, 9), (1, 13, 4), (1, -6, 9)):
        line = [
            (z + 0.7 * height, y + 6, x + side * 16),
            (z + height, y + 6 + backwards, x + side * 36),
            (z + 1.6 * height, y + 8 + 1.8 * backwards, x + side * 66),
        ]
        line = [_jittered(generator, point, 2.0) for point in line]
        canvas.tube(np.array(line), np.array([8.0, 6.5, 5.0]) * frame.scale, roughness=0.3, into=veins)
    return veins


def _caval_veins(canvas: Canvas, generator: np.random.Generator, frame: HeartFrame) -> Volume:
    z, y, x = frame.point(-15, 38, -12)
    upper = [(z + 20, y + 6, x + 2), (z + 45, y + 13, x - 3), (z + 120, y + 10, x - 4)]
    lower = [(z - 20, y + 8, x + 3), (z - 48, y + 20, x + 6), (z - 110, y + 28, x + 8)]
    veins = canvas.tube(np.array(upper), generator.uniform(8.0, 10.0) * frame.scale, roughness=0.3)
    return canvas.tube(np.array(lower), generator.uniform(9.5, 12.5) * frame.scale, roughness=0.3, into=veins)


@dataclass(frozen=True, kw_only=True)
class _Vessels:
    """Great arteries; `beyond_pulmonary_valve` is the distance past the plane of the pulmonary valve."""

    aorta: Volume
    arch: Volume
    descending: Volume
    outflow: Volume
    trunk: Volume
    branches: Volume
    beyond_pulmonary_valve: Volume

    @classmethod
    def draw(
        cls, canvas: Canvas, generator: np.random.Generator, *, frame: HeartFrame, spine_front_mm: float
    ) -> "_Vessels":
        """Diameters: Mao et al., Acad Radiol 2008, and a pulmonary trunk of 23 to 26 mm (orders only: assumption)."""

        def near(point: Point, deviation_mm: float = 2.0) -> Point:
            return _jittered(generator, point, deviation_mm)

        root = frame.point(-1, 9, 11)
        z, y, x = root
        aortic = frame.scale * generator.uniform(13.5, 17.0)
        top = near((z + 74, y + 4, x - 16), 3.0)
        rising = [root, near((z + 20, y - 6, x - 9)), near((z + 45, y - 7, x - 17)), top]
        aorta = canvas.tube(np.array(rising), np.array([12.5, aortic + 1.5, aortic, 0.95 * aortic]), roughness=0.3)
        descending_top = (z + 70, spine_front_mm - 4, 22.0)
        arch_line = [top, (top[0] + 12, top[1] + 14, top[2] + 12), (top[0] + 8, top[1] + 36, 20.0), descending_top]
        arch = canvas.tube(np.array(arch_line), 0.85 * aortic, roughness=0.3, into=aorta.copy())
        sway = generator.normal(0, 2, 2)
        down = [
            descending_top,
            (z + 20, spine_front_mm - 1 + sway[0], 25.0 + sway[1]),
            (z - 130, spine_front_mm - 6, 14.0),
        ]
        descending = canvas.tube(np.array(down), frame.scale * generator.uniform(10.0, 13.0), roughness=0.3)

        pulmonary = frame.scale * generator.uniform(11.5, 13.5)
        valve = near(frame.point(2, 22, 37), 1.5)
        fork = near((valve[0] + 34, valve[1] + 34, valve[2] + 4), 2.0)
        bend = (valve[0] + 18, valve[1] + 12, valve[2] + 5)
        trunk = canvas.tube(
            np.array([valve, bend, fork]), np.array([12.5 * frame.scale, pulmonary, pulmonary]), roughness=0.3
        )
        branches = _branches(canvas, generator, fork=fork, radius=0.75 * pulmonary)
        outflow = canvas.tube(
            np.array([frame.point(24, 28, 12), frame.point(12, 26, 27), valve]), 14.0 * frame.scale, roughness=0.5
        )
        normal = np.array(bend) - np.array(frame.point(12, 26, 27))
        normal /= np.linalg.norm(normal)
        beyond = sum(
            np.float32(step) * (line - np.float32(zero))
            for step, line, zero in zip(normal, (canvas.z, canvas.y, canvas.x), valve, strict=True)
        )
        return cls(
            aorta=aorta,
            arch=arch,
            descending=descending,
            outflow=outflow,
            trunk=trunk,
            branches=branches,
            beyond_pulmonary_valve=np.asarray(beyond, dtype=np.float32),
        )


def _branches(canvas: Canvas, generator: np.random.Generator, *, fork: Point, radius: float) -> Volume:
    """The right branch runs behind the ascending aorta, the left one over the left bronchus."""
    z, y, x = fork
    right = [fork, (z - 2, y + 12, x - 26), (z - 6, y + 14, x - 52), (z - 14, y + 18, x - 76)]
    left = [fork, (z + 4, y + 14, x + 22), (z - 4, y + 26, x + 42), (z - 24, y + 32, x + 56)]
    branches = canvas.empty()
    for line in (right, left):
        points = [_jittered(generator, point, 2.0) for point in line[1:]]
        canvas.tube(np.array([fork, *points]), np.array([1.1, 1.0, 0.85, 0.6]) * radius, roughness=0.3, into=branches)
    return branches
