"""The chest around the heart: body wall with ribs and sternum, and what stands in front of the spine.

Lengths in mm are chosen by eye from anatomy (assumptions). The abdomen has its own wall in `secfed.data.phantom.body`;
spine and habitus are shared. No breasts, arms or shoulder blades.
"""

from dataclasses import dataclass, replace

import numpy as np

from secfed.data.phantom.body import Body, Habitus, Placement, paint_spine
from secfed.data.phantom.geometry import Canvas, Volume
from secfed.data.phantom.tissues import Tissue

_SKIN_MM = 3.0

# From sternum to spine; a deep heart takes about as much.
_LEAST_ROOM_MM = 108.0


def chest_habitus(habitus: Habitus) -> Habitus:
    """The same person at the height of the heart, where there is less fat and, in everybody, room for a heart."""
    fat_mm = 0.6 * habitus.fat_mm
    # Twice the half depth, less both walls, the spine and its muscles, is what is left before the spine.
    least_mm = (_LEAST_ROOM_MM + 59.0 + 1.7 * fat_mm + habitus.wall_mm) / 2
    return replace(habitus, fat_mm=fat_mm, half_depth_mm=max(habitus.half_depth_mm, least_mm))


@dataclass(frozen=True, kw_only=True)
class Chest:
    """The body wall, and where the front of the vertebral bodies lies (y, in mm)."""

    body: Body
    spine_front_mm: float
    sternum_back_mm: float


def build_chest(canvas: Canvas, placement: Placement) -> Chest:
    """Paint wall and skeleton; the cavity is left full of visceral fat."""
    habitus = placement.habitus
    level = np.abs(canvas.x / habitus.half_width_mm) ** habitus.roundness
    level += np.abs(canvas.y / habitus.half_depth_mm) ** habitus.roundness
    depth = (1 - level ** (1 / habitus.roundness)) * min(habitus.half_width_mm, habitus.half_depth_mm)
    fat = np.float32(habitus.fat_mm) + 0.8 * canvas.roughness
    cavity = depth - fat - habitus.wall_mm
    tissue = np.where(depth > 0, np.uint8(Tissue.SUBCUTANEOUS_FAT), np.uint8(Tissue.AIR))
    tissue[(depth > 0) & (depth < _SKIN_MM)] = Tissue.SKIN
    tissue[depth > fat] = Tissue.MUSCLE
    tissue[cavity > 0] = Tissue.VISCERAL_FAT
    body = Body(
        tissue=tissue, depth_mm=np.asarray(depth, dtype=np.float32), cavity_mm=np.asarray(cavity, dtype=np.float32)
    )
    _paint_erectors(canvas, habitus, body)
    paint_spine(canvas, habitus, body, rhythm_mm=placement.uniform(26, 31), offset_mm=placement.uniform(0, 31))
    _paint_ribs(canvas, placement, body, fat=np.asarray(fat, dtype=np.float32))
    sternum_back = -habitus.half_depth_mm + habitus.fat_mm + habitus.wall_mm
    return Chest(body=body, spine_front_mm=habitus.spine_mm - 17, sternum_back_mm=sternum_back)


def _paint_erectors(canvas: Canvas, habitus: Habitus, body: Body) -> None:
    back = canvas.y - np.float32(habitus.spine_mm)
    for side in (-1, 1):
        erector = ((back - 32) / 17) ** 2 + ((canvas.x - side * 27) / 25) ** 2 < 1
        body.tissue[erector & (body.depth_mm > 6)] = Tissue.MUSCLE


def _paint_ribs(canvas: Canvas, placement: Placement, body: Body, *, fat: Volume) -> None:
    """Ribs fall towards the front; the sternum closes the cage there."""
    rhythm_mm, slope = placement.uniform(26, 31), placement.uniform(0.35, 0.55)
    band = np.mod(canvas.z - slope * canvas.y + placement.uniform(0, 30), rhythm_mm) < 10
    wall = (body.depth_mm > fat + 1) & (body.cavity_mm < 0)
    rib = band & wall & (body.cavity_mm > -8) & (canvas.y < placement.habitus.spine_mm + 30)
    rib &= np.abs(canvas.x) > 30
    body.tissue[rib] = Tissue.CORTICAL_BONE
    body.tissue[rib & (body.cavity_mm < -2.5) & (body.cavity_mm > -6)] = Tissue.MARROW
    sternum = (np.abs(canvas.x) < 18) & (canvas.y < 0) & (body.cavity_mm < 0) & (body.cavity_mm > -11)
    sternum &= (body.depth_mm > _SKIN_MM) & (canvas.z > -45)
    body.tissue[sternum] = Tissue.CORTICAL_BONE
    inner = (np.abs(canvas.x) < 15) & (body.cavity_mm < -2.5) & (body.cavity_mm > -8.5)
    body.tissue[sternum & inner] = Tissue.MARROW
