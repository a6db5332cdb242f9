"""The organs as signed distances on the canvas, before overlaps are resolved.

Numbers are mm in a usual body: (z, y, x) towards the head, the back and the patient's left. They were chosen by eye
from anatomy (assumptions), with jitter and size spreads wide enough that no two subjects look alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secfed.data.phantom.body import Placement
from secfed.data.phantom.geometry import Canvas, Point, Volume, subtract
from secfed.data.phantom.population import PopulationConfig

_RIGHT, _LEFT = -1, 1


@dataclass(frozen=True, kw_only=True)
class Kidney:
    """A kidney and the parts inside it; `sinus` is the fat at its hilum."""

    whole: Volume
    medulla: Volume
    sinus: Volume
    pelvis: Volume


@dataclass(frozen=True, kw_only=True)
class Organs:
    """Signed distances of everything in the cavity.

    Gas fills the stomach in front of `gas_level_mm`, because subjects lie on their backs.
    """

    liver: Volume
    spleen: Volume
    kidney_right: Kidney
    kidney_left: Kidney
    pancreas: Volume
    gallbladder: Volume
    stomach: Volume
    aorta: Volume
    vena_cava: Volume
    portal_vein: Volume
    colon: Volume
    duodenum: Volume
    small_bowel: Volume
    heart: Volume
    hepatic_veins: Volume
    gas_level_mm: float


def build_organs(canvas: Canvas, placement: Placement, population: PopulationConfig) -> Organs:
    """Draw the shapes of all organs of one subject."""
    pancreas_line = _pancreas_line(placement)
    stomach_line = [
        placement.at(72, 18, 62),
        placement.at(48, -12, 72),
        placement.at(18, -40, 62),
        placement.at(-4, -52, 34),
        placement.at(-6, -46, 4),
    ]
    pancreas_size = placement.size(0.12) * population.pancreas_scale
    stomach_size = placement.size(0.18) * population.stomach_scale
    portal_vein = _portal_vein(canvas, pancreas_line)
    return Organs(
        liver=_liver(canvas, placement, population),
        spleen=_spleen(canvas, placement, population),
        kidney_right=_kidney(canvas, placement, population, side=_RIGHT),
        kidney_left=_kidney(canvas, placement, population, side=_LEFT),
        pancreas=canvas.tube(
            np.array(pancreas_line), np.array([14, 14, 8.5, 9.5, 10.5, 9]) * pancreas_size, roughness=1.5
        ),
        gallbladder=canvas.ellipsoid(
            placement.at(-8, -38, -48),
            (28 * placement.size(0.2), 14 * placement.size(0.15), 14 * placement.size(0.15)),
            rotation=placement.normal(0, 0.3),
            tilt=placement.normal(0.3, 0.2),
        ),
        stomach=canvas.tube(np.array(stomach_line), np.array([36, 32, 25, 20, 14]) * stomach_size, roughness=1.4),
        aorta=_aorta(canvas, placement),
        vena_cava=_vena_cava(canvas, placement),
        portal_vein=portal_vein,
        colon=_colon(canvas, placement),
        duodenum=_duodenum(canvas, placement, head=pancreas_line[0]),
        small_bowel=_small_bowel(canvas, placement, vessels=portal_vein),
        heart=canvas.ellipsoid(placement.at(128, -34, 12), (42, 34, 46), roughness=0.6),
        hepatic_veins=_hepatic_veins(canvas, placement),
        gas_level_mm=stomach_line[2][1] + placement.uniform(-12, 22),
    )


def _liver(canvas: Canvas, placement: Placement, population: PopulationConfig) -> Volume:
    right, left = (placement.size(spread) * population.liver_scale for spread in (0.12, 0.20))
    habitus = placement.habitus
    liver = canvas.ellipsoid(
        placement.at(42, -4, -72),
        (72 * right, 70 * habitus.depth_scale, 60 * right * habitus.width_scale),
        rotation=placement.normal(0, 0.12),
    )
    canvas.ellipsoid(
        placement.at(52, -38, -2),
        (34 * left, 27 * left, 62 * left),
        rotation=placement.normal(0.1, 0.15),
        tilt=placement.normal(0, 0.15),
        into=liver,
        blend_mm=18,
    )
    canvas.ellipsoid(placement.at(-22, 12, -88), (48 * right, 38, 26), into=liver, blend_mm=16)
    hilum = canvas.ellipsoid(placement.at(5, 22, -22, jitter_mm=5), (48, 30, 36), roughness=0.5)
    return subtract(liver, hilum)


def _spleen(canvas: Canvas, placement: Placement, population: PopulationConfig) -> Volume:
    size = placement.size(0.18) * population.spleen_scale
    spleen = canvas.ellipsoid(
        placement.at(46, 34, 92),
        (48 * size, 38 * size, 24 * size),
        rotation=placement.normal(0.45, 0.2),
        tilt=placement.normal(-0.1, 0.15),
    )
    return subtract(spleen, canvas.ellipsoid(placement.at(40, 8, 62), (52, 36, 30), roughness=0.5))


def _kidney(canvas: Canvas, placement: Placement, population: PopulationConfig, *, side: int) -> Kidney:
    # The liver pushes the right kidney down.
    centre = placement.at(-34 if side == _RIGHT else -18, 44, side * 60, jitter_mm=6)
    size = placement.size(0.10) * population.kidney_scale
    tilt = side * placement.normal(0.22, 0.08)
    radii = (52 * size, 27 * size, 24 * size)
    hilum = (centre[0], centre[1] - 8, centre[2] - side * 17)
    inner = (0.74 * radii[0], 0.74 * radii[1], 0.74 * radii[2])
    return Kidney(
        whole=canvas.ellipsoid(centre, radii, rotation=-side * placement.normal(0.5, 0.15), tilt=tilt),
        medulla=canvas.ellipsoid(centre, inner, tilt=tilt, roughness=1.6),
        sinus=canvas.ellipsoid(hilum, (20 * size, 11, 14), roughness=0.5),
        pelvis=canvas.ellipsoid(hilum, (12, 5, 8), roughness=0.3),
    )


def _pancreas_line(placement: Placement) -> list[Point]:
    """Head in the loop of the duodenum, neck, body over the spine, tail at the spleen."""
    front = min(placement.habitus.spine_mm - 38, 14 * placement.habitus.depth_scale + 6)
    return [
        placement.at(-24, front - 18, -40, jitter_mm=5),
        placement.at(-8, front - 20, -30, jitter_mm=4),
        placement.at(2, front - 30, -8, jitter_mm=4),
        placement.at(10, front - 26, 20, jitter_mm=5),
        placement.at(18, front - 8, 48, jitter_mm=5),
        placement.at(24 + placement.normal(0, 10), 24, 70),
    ]


def _aorta(canvas: Canvas, placement: Placement) -> Volume:
    sway_y, sway_x, middle = placement.normal(0, 4), placement.normal(0, 4), 9 + placement.normal(0, 4)
    front = placement.habitus.spine_mm - 27
    line = [
        (z, front + 2 * np.sin(step + sway_y), middle + 3 * np.sin(0.9 * step + sway_x))
        for step, z in enumerate(np.linspace(-150, 150, 8))
    ]
    return canvas.tube(np.array(line), placement.uniform(9, 12.5), roughness=0.3)


def _vena_cava(canvas: Canvas, placement: Placement) -> Volume:
    sway, middle = placement.normal(0, 4), -18 + placement.normal(0, 3)
    front = placement.habitus.spine_mm - 25
    line = [
        (z, front - (6 if z > 20 else 0), middle + 2 * np.sin(step + sway))
        for step, z in enumerate(np.linspace(-150, 150, 8))
    ]
    return canvas.tube(np.array(line), placement.uniform(9, 13), roughness=0.3)


def _portal_vein(canvas: Canvas, pancreas_line: list[Point]) -> Volume:
    """The mesenteric and portal veins behind the neck of the pancreas, and the splenic vein behind its body."""
    neck, body, tail = pancreas_line[2], pancreas_line[3], pancreas_line[5]
    joint = (neck[0] - 4, neck[1] + 16, neck[2])
    upwards = [(joint[0] - 90, joint[1] - 14, joint[2]), joint, (20, 0, -30), (36, -2, -48)]
    vein = canvas.tube(np.array(upwards), 6.5, roughness=0.2)
    splenic = [joint, (body[0], body[1] + 13, body[2]), (tail[0] + 4, tail[1] + 10, tail[2])]
    return canvas.tube(np.array(splenic), 4.5, roughness=0.2, into=vein)


def _hepatic_veins(canvas: Canvas, placement: Placement) -> Volume:
    veins = canvas.empty()
    for _ in range(5):
        start = np.array(placement.at(70, 18, -24, jitter_mm=8))
        end = np.array(
            placement.at(
                placement.uniform(-10, 80), placement.uniform(-45, 40), placement.uniform(-115, 10), jitter_mm=8
            )
        )
        bend = (start + end) / 2 + placement.generator.normal(0, 8, 3)
        canvas.tube(np.stack([start, bend, end]), np.array([4.5, 3.5, 2.5]), roughness=0.3, into=veins)
    return veins


def _colon(canvas: Canvas, placement: Placement) -> Volume:
    frame = [
        (-110, 8, -104),
        (-50, 0, -104),
        (-34, -34, -92),
        (-44, -66, -40),
        (-38, -68, 20),
        (-12, -56, 78),
        (4, -18, 104),
        (-40, 10, 106),
        (-120, 14, 104),
    ]
    line = np.array([placement.at(*point) for point in frame])
    return canvas.tube(line, placement.uniform(13, 20), roughness=1.2, haustra=0.18)


def _duodenum(canvas: Canvas, placement: Placement, *, head: Point) -> Volume:
    """A loop that hugs the head of the pancreas."""
    loop: NDArray[np.float64] = np.array(
        [(22, -14, -12), (4, 2, -26), (-24, 6, -16), (-32, 6, 20), (-14, -4, 60)], dtype=np.float64
    )
    return canvas.tube(np.array(head) + loop, placement.uniform(9, 13), roughness=0.8)


def _small_bowel(canvas: Canvas, placement: Placement, *, vessels: Volume) -> Volume:
    """Loops of small bowel; nine mesenteric vessels are added to `vessels` in place."""

    def walk(highest_mm: float) -> NDArray[np.float64]:
        centre = placement.at(
            placement.uniform(-135, highest_mm), placement.uniform(-55, 18), placement.uniform(-85, 85), jitter_mm=3
        )
        steps = np.cumsum(placement.generator.normal(0, 24, (5, 3)), axis=0)
        return np.asarray(np.array(centre) + steps - steps.mean(axis=0))

    bowel = canvas.empty()
    for _ in range(9):
        canvas.tube(walk(10), placement.uniform(2, 3.2), roughness=0.8, into=vessels)
    for _ in range(int(placement.generator.integers(7, 13))):
        canvas.tube(walk(-25), placement.uniform(9, 15), roughness=0.8, into=bowel)
    return bowel
