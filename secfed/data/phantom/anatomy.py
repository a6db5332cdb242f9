"""A random abdomen: tissue codes and organ labels of one subject, before any scanner sees it.

Pure functions of a generator and a population. Every voxel belongs to one tissue; the eight organs of
`secfed.data.cases.ABDOMEN` are labelled with its class indices. Cysts keep the label of the organ that holds them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from secfed.data.cases import ABDOMEN
from secfed.data.phantom.body import Body, Codes, Habitus, Mask, Placement, build_body
from secfed.data.phantom.geometry import FAR_MM, Canvas, Grid, Volume
from secfed.data.phantom.organs import Kidney, Organs, build_organs
from secfed.data.phantom.population import PopulationConfig
from secfed.data.phantom.tissues import Tissue

# Where two organs claim a voxel, the deeper one wins after this head start in mm: small organs and vessels would
# otherwise be swallowed by large neighbours.
_HEAD_START_MM = {
    "liver": 0.0,
    "spleen": 1.0,
    "kidney_right": 6.0,
    "kidney_left": 6.0,
    "pancreas": 5.0,
    "stomach": 1.0,
    "aorta": 9.0,
    "vena_cava": 6.0,
    "portal_vein": 5.0,
    "gallbladder": 5.0,
    "colon": 0.0,
    "duodenum": 2.0,
    "small_bowel": 0.0,
    "heart": 0.0,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One synthetic patient on a (z, y, x) grid: inferior to superior, anterior to posterior, right to left.

    `tissue` holds codes of `Tissue` (of `HeartTissue` too in a chest), `label` class indices of the task,
    `depth_mm` the distance below the skin (0 outside).
    """

    grid: Grid
    tissue: Codes
    label: Codes
    depth_mm: Volume


def draw_subject(generator: np.random.Generator, population: PopulationConfig, grid: Grid) -> Subject:
    """Draw one subject of the population."""
    canvas = Canvas(generator, grid)
    placement = Placement(generator=generator, habitus=Habitus.draw(generator, population))
    body = build_body(canvas, placement)
    organs = build_organs(canvas, placement, population)
    masks = _resolve_overlaps(organs, body)

    tissue = body.tissue.copy()
    _paint_bowel(tissue, canvas, placement, organs, masks)
    _paint_kidneys(tissue, organs, masks, within=(body.cavity_mm > 1.5) & ~body.bone)
    _paint_solid_organs(tissue, organs, masks)
    _paint_cysts(tissue, canvas, placement, organs=organs, masks=masks, population=population)
    lung = _paint_chest(tissue, placement, organs=organs, masks=masks, body=body, grid=grid)

    label = np.zeros(grid.shape, np.uint8)
    for organ in ABDOMEN.organs:
        label[masks[organ] & ~lung] = ABDOMEN.index(organ)
    return Subject(grid=grid, tissue=tissue, label=label, depth_mm=np.maximum(body.depth_mm, 0))


def _distances(organs: Organs) -> dict[str, Volume]:
    def distance(name: str) -> Volume:
        part: Volume | Kidney = getattr(organs, name)
        return part.whole if isinstance(part, Kidney) else part

    return {name: distance(name) for name in _HEAD_START_MM}


def _resolve_overlaps(organs: Organs, body: Body) -> dict[str, Mask]:
    """Give each voxel of the cavity to at most one organ."""
    distances = np.stack(list(_distances(organs).values()))
    head_start = np.array(list(_HEAD_START_MM.values()), np.float32)
    # An organ competes only where it is present: its head start must not lift it past its own border.
    contest = np.where(distances < 0, distances - head_start[:, None, None, None], np.float32(FAR_MM))
    winner = contest.argmin(axis=0)
    taken = (distances.min(axis=0) < 0) & (body.cavity_mm > 1.5) & ~body.bone
    return {name: taken & (winner == place) for place, name in enumerate(_HEAD_START_MM)}


def _paint_bowel(tissue: Codes, canvas: Canvas, placement: Placement, organs: Organs, masks: dict[str, Mask]) -> None:
    """Wall, content and gas of the hollow organs; gas rises to the front of a subject who lies on the back."""

    def fill(name: str, content: Tissue, *, gas_mm: float | None, wall_mm: float) -> None:
        lumen = masks[name] & (getattr(organs, name) < -wall_mm)
        tissue[masks[name]] = Tissue.GUT_WALL
        tissue[lumen] = content
        if gas_mm is not None:
            tissue[lumen & (canvas.y + 5 * canvas.roughness < gas_mm)] = Tissue.GUT_GAS

    def fluid_or_mixed(fluid_prob: float) -> Tissue:
        return Tissue.GUT_FLUID if placement.uniform(0, 1) < fluid_prob else Tissue.BOWEL_CONTENT

    fill("small_bowel", fluid_or_mixed(0.5), gas_mm=placement.uniform(-70, -25) - 12, wall_mm=2.6)
    fill("duodenum", fluid_or_mixed(0.5), gas_mm=None, wall_mm=2.6)
    fill("colon", Tissue.BOWEL_CONTENT, gas_mm=placement.uniform(-75, 10), wall_mm=2.6)
    fill("stomach", fluid_or_mixed(0.6), gas_mm=organs.gas_level_mm, wall_mm=4.0)


def _paint_kidneys(tissue: Codes, organs: Organs, masks: dict[str, Mask], *, within: Mask) -> None:
    """Cortex, medulla, the fat of the sinus and the urine of the pelvis; the sinus leaves the kidney's mask."""
    for name, kidney in (("kidney_right", organs.kidney_right), ("kidney_left", organs.kidney_left)):
        mask, sinus = masks[name], kidney.sinus < 0
        tissue[mask] = Tissue.KIDNEY_CORTEX
        tissue[mask & (kidney.medulla < 0)] = Tissue.KIDNEY_MEDULLA
        tissue[mask & sinus] = Tissue.VISCERAL_FAT
        tissue[(kidney.pelvis < 0) & (kidney.whole < 6) & within] = Tissue.URINE
        masks[name] = mask & ~sinus


def _paint_solid_organs(tissue: Codes, organs: Organs, masks: dict[str, Mask]) -> None:
    fillings = {
        "liver": Tissue.LIVER,
        "spleen": Tissue.SPLEEN,
        "pancreas": Tissue.PANCREAS,
        "gallbladder": Tissue.BILE,
        "aorta": Tissue.ARTERY,
        "vena_cava": Tissue.VEIN,
        "portal_vein": Tissue.VEIN,
    }
    for name, filling in fillings.items():
        tissue[masks[name]] = filling
    tissue[masks["liver"] & (organs.hepatic_veins < 0)] = Tissue.HEPATIC_VESSEL


def _paint_cysts(
    tissue: Codes,
    canvas: Canvas,
    placement: Placement,
    *,
    organs: Organs,
    masks: dict[str, Mask],
    population: PopulationConfig,
) -> None:
    rates = {
        "liver": population.liver_cyst_rate,
        "kidney_right": population.kidney_cyst_rate,
        "kidney_left": population.kidney_cyst_rate,
        "spleen": population.spleen_cyst_rate,
    }
    distances = _distances(organs)
    for name, rate in rates.items():
        for _ in range(int(placement.generator.poisson(rate))):
            candidates = np.argwhere(masks[name] & (distances[name] < -6))
            if len(candidates) == 0:
                continue
            z, y, x = (int(place) for place in candidates[placement.generator.integers(len(candidates))])
            cyst = canvas.ball(canvas.warped((z, y, x)), placement.uniform(5, 12))
            tissue[masks[name] & (cyst < 0)] = Tissue.CYST


def _paint_chest(
    tissue: Codes, placement: Placement, *, organs: Organs, masks: dict[str, Mask], body: Body, grid: Grid
) -> Mask:
    """Lung and heart above a smooth diaphragm that is draped over liver, spleen and stomach; returns where they are."""
    solid = masks["liver"] | masks["spleen"] | masks["stomach"]
    height = np.arange(grid.shape[0], dtype=np.float32)[:, None, None]
    top = np.where(solid.any(axis=0), grid.shape[0] - 1 - solid[::-1].argmax(axis=0), 0).astype(np.float32)
    lowest = placement.uniform(35, 60) / grid.spacing_mm[0] + grid.shape[0] / 2
    draped = np.maximum(ndimage.grey_dilation(top, size=(5, 5)), lowest)
    dome: NDArray[np.float32] = ndimage.gaussian_filter(draped, [14 / spacing for spacing in grid.spacing_mm[1:]])
    above_mm = (height - dome) * grid.spacing_mm[0] - 4

    chest = (body.cavity_mm > 0) & (above_mm > 0) & ~body.bone & ~solid & ~masks["aorta"] & ~masks["vena_cava"]
    tissue[chest] = Tissue.MUSCLE
    tissue[chest & (above_mm > 3)] = Tissue.LUNG
    tissue[chest & (organs.heart < 0)] = Tissue.MUSCLE
    tissue[chest & (organs.heart < -11)] = Tissue.ARTERY
    return np.asarray(chest)
