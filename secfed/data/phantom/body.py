"""The body around the organs: habitus, skin, fat, muscle, spine and ribs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secfed.data.phantom.geometry import Canvas, Point, Volume
from secfed.data.phantom.population import PopulationConfig
from secfed.data.phantom.tissues import Tissue

Codes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_SKIN_MM = 3.0


@dataclass(frozen=True, kw_only=True)
class Habitus:
    """Build of one subject, in mm; `roundness` is the exponent of the superellipse of the body outline."""

    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    wall_mm: float
    roundness: float

    @classmethod
    def draw(cls, generator: np.random.Generator, population: PopulationConfig) -> "Habitus":
        """Draw from the population's ranges."""
        return cls(
            half_width_mm=generator.uniform(*population.half_width_mm),
            half_depth_mm=generator.uniform(*population.half_depth_mm),
            fat_mm=generator.uniform(*population.subcutaneous_fat_mm),
            wall_mm=generator.uniform(*population.wall_mm),
            roundness=generator.uniform(2.0, 2.6),
        )

    @property
    def width_scale(self) -> float:
        """How far organs sit from the midline, relative to a usual cavity of 130 mm half width."""
        return float(np.clip((self.half_width_mm - self.fat_mm - self.wall_mm) / 130.0, 0.72, 1.15))

    @property
    def depth_scale(self) -> float:
        """How far organs sit from the centre front to back, relative to a usual 85 mm half depth."""
        return float(np.clip((self.half_depth_mm - self.fat_mm - self.wall_mm) / 85.0, 0.72, 1.2))

    @property
    def spine_mm(self) -> float:
        """Where the centre of the vertebral bodies lies, behind the centre of the body."""
        return self.half_depth_mm - 0.7 * self.fat_mm - 42.0


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Random positions and sizes of organs in a body of a given habitus."""

    generator: np.random.Generator
    habitus: Habitus

    def at(self, z: float, y: float, x: float, *, jitter_mm: float = 7.0) -> Point:
        """A point near (z, y, x) mm of a usual body, moved with the habitus and then by a normal jitter."""
        dz, dy, dx = self.generator.normal(0, jitter_mm, 3)
        return z + dz, y * self.habitus.depth_scale + dy, x * self.habitus.width_scale + dx

    def size(self, spread: float) -> float:
        """A log-normal factor around 1."""
        return float(np.exp(self.generator.normal(0, spread)))

    def normal(self, mean: float, deviation: float) -> float:
        """One normal draw."""
        return float(self.generator.normal(mean, deviation))

    def uniform(self, low: float, high: float) -> float:
        """One uniform draw."""
        return float(self.generator.uniform(low, high))


@dataclass(frozen=True, kw_only=True)
class Body:
    """Tissue codes of a body without organs, `depth_mm` below the skin and `cavity_mm` inside the abdominal cavity."""

    tissue: Codes
    depth_mm: Volume
    cavity_mm: Volume

    @property
    def bone(self) -> Mask:
        """Bone, marrow, discs and the spinal canal: no organ may grow into them."""
        return np.isin(self.tissue, (Tissue.CORTICAL_BONE, Tissue.MARROW, Tissue.DISC, Tissue.CSF))


def build_body(canvas: Canvas, placement: Placement) -> Body:
    """Paint the body wall and the skeleton; the cavity is left full of visceral fat."""
    habitus = placement.habitus
    level = np.abs(canvas.x / habitus.half_width_mm) ** habitus.roundness
    level += np.abs(canvas.y / habitus.half_depth_mm) ** habitus.roundness
    depth = (1 - level ** (1 / habitus.roundness)) * min(habitus.half_width_mm, habitus.half_depth_mm)
    # Subcutaneous fat is thinner over the belly than over the back.
    fat = habitus.fat_mm * (0.75 + 0.25 * np.clip(-canvas.y / habitus.half_depth_mm, -1, 1)) + 0.8 * canvas.roughness
    cavity = depth - fat - habitus.wall_mm

    tissue = np.where(depth > 0, np.uint8(Tissue.SUBCUTANEOUS_FAT), np.uint8(Tissue.AIR))
    tissue[(depth > 0) & (depth < _SKIN_MM)] = Tissue.SKIN
    tissue[depth > fat] = Tissue.MUSCLE
    tissue[cavity > 0] = Tissue.VISCERAL_FAT
    body = Body(
        tissue=tissue,
        depth_mm=np.asarray(depth, dtype=np.float32),
        cavity_mm=np.asarray(cavity, dtype=np.float32),
    )
    _paint_back_muscles(canvas, habitus, body)
    rhythm_mm, offset_mm = placement.uniform(34, 40), placement.uniform(0, 40)
    paint_spine(canvas, habitus, body, rhythm_mm=rhythm_mm, offset_mm=offset_mm)
    in_chest_wall = (body.depth_mm > fat + 1) & (body.cavity_mm < 0)
    _paint_ribs(canvas, placement, body, in_chest_wall=in_chest_wall, offset_mm=offset_mm)
    return body


def _paint_back_muscles(canvas: Canvas, habitus: Habitus, body: Body) -> None:
    back = canvas.y - np.float32(habitus.spine_mm)
    for side in (-1, 1):
        psoas = np.hypot(back - 4, canvas.x - side * 34) < np.clip(17 - 0.16 * canvas.z, 0, 26)
        body.tissue[psoas & (canvas.z < 30)] = Tissue.MUSCLE
        erector = ((back - 34) / 17) ** 2 + ((canvas.x - side * 30) / 27) ** 2 < 1
        body.tissue[erector & (body.depth_mm > 6)] = Tissue.MUSCLE


def paint_spine(canvas: Canvas, habitus: Habitus, body: Body, *, rhythm_mm: float, offset_mm: float) -> None:
    """Vertebrae and discs, one pair every `rhythm_mm`, with the spinal canal behind them."""
    back = canvas.y - np.float32(habitus.spine_mm)
    sideways = np.abs(canvas.x)
    under_skin = body.depth_mm > _SKIN_MM
    along = np.mod(canvas.z + offset_mm, rhythm_mm)
    spinous = (sideways < 5) & (back > 26) & (back < 52) & (along < 0.55 * rhythm_mm)
    transverse = (np.abs(back - 20) < 5) & (sideways < 42) & (along < 0.3 * rhythm_mm)
    body.tissue[(spinous | transverse) & under_skin] = Tissue.CORTICAL_BONE
    canal = ((back - 24) / 13) ** 2 + (canvas.x / 15) ** 2
    body.tissue[(canal < 1) & under_skin] = Tissue.CORTICAL_BONE
    body.tissue[(canal < 0.68**2) & under_skin] = Tissue.CSF
    vertebra = (back / 17) ** 2 + (canvas.x / 23) ** 2
    body.tissue[vertebra < 1] = Tissue.CORTICAL_BONE
    inside = vertebra < 0.88**2
    body.tissue[inside] = Tissue.MARROW
    body.tissue[inside & (along > rhythm_mm - 9)] = Tissue.DISC


def _paint_ribs(canvas: Canvas, placement: Placement, body: Body, *, in_chest_wall: Mask, offset_mm: float) -> None:
    rhythm_mm, lowest_mm = placement.uniform(24, 30), placement.uniform(-40, -5)
    band = np.mod(canvas.z + 0.55 * canvas.y + offset_mm, rhythm_mm) < 9
    rib = band & in_chest_wall & (canvas.z > lowest_mm)
    rib &= (canvas.y < placement.habitus.spine_mm + 35) & (np.abs(canvas.x) > 25)
    body.tissue[rib] = Tissue.CORTICAL_BONE
    core = (body.cavity_mm < -3) & (body.cavity_mm > 4 - placement.habitus.wall_mm)
    body.tissue[rib & core] = Tissue.MARROW
