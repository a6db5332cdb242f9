"""One case of a phantom: what decides it, and the scan that is drawn from that.

Every case is drawn from its own stream, bound to seed, population, protocol, split and index: it stays the same when
more cases are drawn, and splits, protocols and populations never share a subject. The task follows from the protocol.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secfed.data.cases import ABDOMEN, WHOLE_HEART, Modality
from secfed.data.phantom.anatomy import Subject, draw_subject
from secfed.data.phantom.bssfp import scan_bssfp
from secfed.data.phantom.chest_anatomy import draw_chest
from secfed.data.phantom.ct import scan_ct
from secfed.data.phantom.ct_angiography import scan_ct_angiography
from secfed.data.phantom.geometry import HEART_GRID, STANDARD_GRID, Grid, Volume
from secfed.data.phantom.mri import scan_mr
from secfed.data.phantom.population import PopulationConfig
from secfed.data.phantom.protocol import BssfpProtocol, CtAngiographyProtocol, CtProtocol, Protocol

# Count every change that alters a voxel: a phantom of another version is another phantom.
PHANTOM_VERSION = 1
HEART_VERSION = 1

VERSIONS = {ABDOMEN.task: PHANTOM_VERSION, WHOLE_HEART.task: HEART_VERSION}
GRIDS = {ABDOMEN.task: STANDARD_GRID, WHOLE_HEART.task: HEART_GRID}

# Magnitude images are about 1 where tissue is bright; this uses the int16 range without clipping its noise.
_MR_SCALE = 1000.0


@dataclass(frozen=True, kw_only=True)
class CaseKey:
    """What decides every voxel of a case. Without a `grid` it is the usual one of the protocol's task."""

    seed: int
    population: PopulationConfig
    protocol: Protocol
    split: str
    index: int
    grid: Grid | None = None

    @property
    def voxels(self) -> Grid:
        """The grid that the case is drawn on."""
        return self.grid or GRIDS[self.protocol.task]

    def generator(self) -> np.random.Generator:
        """The stream of this case alone."""
        bound = (
            VERSIONS[self.protocol.task],
            self.seed,
            self.population.name,
            self.protocol.name,
            self.split,
            self.index,
        )
        digest = hashlib.sha256(json.dumps(["secfed phantom", *bound]).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One case before it is written: image (HU or magnitude) and class indices of its task.

    Both have shape (z, y, x): inferior to superior, anterior to posterior, patient right to patient left.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    modality: Modality


def draw_scan(key: CaseKey) -> Scan:
    """Draw the subject of a case and scan it."""
    generator = key.generator()
    draw = draw_subject if key.protocol.task == ABDOMEN.task else draw_chest
    subject = draw(generator, key.population, key.voxels)
    volume = _scan(subject, generator, key)
    if key.protocol.modality is Modality.MR:
        volume = volume * np.float32(_MR_SCALE)
    limits = np.iinfo(np.int16)
    return Scan(
        image=np.clip(np.rint(volume), limits.min, limits.max).astype(np.int16),
        label=subject.label,
        spacing_mm=key.voxels.spacing_mm,
        modality=key.protocol.modality,
    )


def _scan(subject: Subject, generator: np.random.Generator, key: CaseKey) -> Volume:
    protocol, people = key.protocol, key.population
    if isinstance(protocol, CtProtocol):
        return scan_ct(subject, generator, protocol=protocol, population=people)
    if isinstance(protocol, CtAngiographyProtocol):
        return scan_ct_angiography(subject, generator, protocol=protocol, population=people)
    if isinstance(protocol, BssfpProtocol):
        return scan_bssfp(subject, generator, protocol=protocol, population=people)
    return scan_mr(subject, generator, protocol=protocol, population=people)
