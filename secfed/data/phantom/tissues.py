"""The 26 tissues of the phantom, with what CT and MRI see of them, each value beside its source.

Shared by both scanners; no party runs it on patients. A source that starts with "assumption" was not looked up for that
value: it is of the order of the named work, or a choice that makes images look plausible. Contrast between tissues is
what matters here; no value is meant for dosimetry or quantitative imaging.
"""

from dataclasses import dataclass
from enum import IntEnum

DE_BAZELAIRE_3T = "de Bazelaire et al., Radiology 2004;230:652-659, in vivo at 3.0 T"
LIVER_HU = "Int J Leg Med 2019;133:1861, unenhanced liver 58 +- 9 HU"
SPLEEN_HU = "Park et al., Radiology 2011: unenhanced liver is 1-18 HU above spleen"
FAT_HU = "Pop et al., Diagnostics 2023: fat -123 to -89 HU"
PANCREAS_HU = "bolus-tracking trial, Korean J Radiol: pancreatic phase 112-128 HU; other phases: assumption"
AIR_HU = "definition of the Hounsfield scale: air is -1000 HU"

ASSUMED_1_5T = "assumption (order of de Bazelaire 2004 at 1.5 T)"
ASSUMED_BLOOD = "assumption (order of Stanisz et al., Magn Reson Med 2005;54:507-512, blood)"
ASSUMED_FLUID = "assumption (long T1 and T2 of watery fluids)"
ASSUMED_SOLID = "assumption (short T2 of tissue with little mobile water)"
ASSUMED_SOFT = "assumption (order of soft tissue)"
ASSUMED_HU = "assumption (order of Buzug, Computed Tomography, 2008)"
ASSUMED_ENHANCED_HU = "assumption (usual enhancement at the usual delays)"
ASSUMED_NO_UPTAKE = "assumption (takes up no contrast agent, or very little)"
ASSUMED_DENSITY = "assumption (relative to water, order of the values used with XCAT MR phantoms)"
ASSUMED_FAT = "assumption (usual fat content)"
NO_SIGNAL = "assumption (gas and couch hold no visible protons; times are placeholders)"


class Tissue(IntEnum):
    """Code of a tissue in a tissue volume."""

    AIR = 0
    SUBCUTANEOUS_FAT = 1
    VISCERAL_FAT = 2
    MUSCLE = 3
    CORTICAL_BONE = 4
    MARROW = 5
    DISC = 6
    CSF = 7
    LUNG = 8
    LIVER = 9
    HEPATIC_VESSEL = 10
    SPLEEN = 11
    KIDNEY_CORTEX = 12
    KIDNEY_MEDULLA = 13
    URINE = 14
    PANCREAS = 15
    GUT_WALL = 16
    GUT_FLUID = 17
    GUT_GAS = 18
    BILE = 19
    ARTERY = 20
    VEIN = 21
    BOWEL_CONTENT = 22
    SKIN = 23
    CYST = 24
    COUCH = 25


@dataclass(frozen=True)
class Hounsfield:
    """CT numbers in HU without contrast agent and in three phases; `spread` is the deviation between subjects."""

    unenhanced: float
    arterial: float
    portal: float
    delayed: float
    spread: float
    source: str
    enhanced_source: str
    spread_source: str = "assumption (variation between subjects; for liver as in its source)"


@dataclass(frozen=True)
class Relaxation:
    """T1 and T2 in milliseconds at one field strength."""

    t1_ms: float
    t2_ms: float
    source: str


@dataclass(frozen=True)
class Fraction:
    """A share between 0 and 1."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class TissueProperties:
    """Everything that the two scanners need to know of one tissue.

    `proton_density` is relative to water; `fat_fraction` is the share of the protons that sit in fat.
    """

    hounsfield: Hounsfield
    at_1_5_tesla: Relaxation
    at_3_tesla: Relaxation
    proton_density: Fraction
    fat_fraction: Fraction


def _properties(
    hounsfield: Hounsfield,
    at_1_5_tesla: Relaxation,
    at_3_tesla: Relaxation,
    *,
    density: float,
    fat: float = 0.0,
    density_source: str = ASSUMED_DENSITY,
    fat_source: str = ASSUMED_FAT,
) -> TissueProperties:
    return TissueProperties(
        hounsfield=hounsfield,
        at_1_5_tesla=at_1_5_tesla,
        at_3_tesla=at_3_tesla,
        proton_density=Fraction(density, density_source),
        fat_fraction=Fraction(fat, fat_source),
    )


_SILENT = Relaxation(10000, 1, NO_SIGNAL)

PROPERTIES: dict[Tissue, TissueProperties] = {
    Tissue.AIR: _properties(
        Hounsfield(-1000, -1000, -1000, -1000, 0, AIR_HU, AIR_HU), _SILENT, _SILENT, density=0, density_source=NO_SIGNAL
    ),
    Tissue.SUBCUTANEOUS_FAT: _properties(
        Hounsfield(-106, -106, -105, -105, 5, FAT_HU, ASSUMED_NO_UPTAKE),
        Relaxation(343, 58, ASSUMED_1_5T),
        Relaxation(382, 68, DE_BAZELAIRE_3T),
        density=0.95,
        fat=0.95,
    ),
    Tissue.VISCERAL_FAT: _properties(
        Hounsfield(-102, -101, -99, -99, 6, FAT_HU, ASSUMED_NO_UPTAKE),
        Relaxation(343, 58, ASSUMED_1_5T),
        Relaxation(382, 68, "assumption (as subcutaneous fat)"),
        density=0.90,
        fat=0.90,
    ),
    Tissue.MUSCLE: _properties(
        Hounsfield(54, 60, 65, 65, 6, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(856, 27, ASSUMED_1_5T),
        Relaxation(898, 29, DE_BAZELAIRE_3T),
        density=0.80,
        fat=0.03,
    ),
    Tissue.CORTICAL_BONE: _properties(
        Hounsfield(700, 700, 710, 710, 90, ASSUMED_HU, ASSUMED_NO_UPTAKE),
        Relaxation(800, 4, ASSUMED_SOLID),
        Relaxation(900, 4, ASSUMED_SOLID),
        density=0.06,
    ),
    Tissue.MARROW: _properties(
        Hounsfield(160, 170, 180, 175, 40, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(549, 49, ASSUMED_1_5T),
        Relaxation(586, 49, DE_BAZELAIRE_3T),
        density=0.75,
        fat=0.40,
    ),
    Tissue.DISC: _properties(
        Hounsfield(80, 80, 85, 85, 10, ASSUMED_HU, ASSUMED_NO_UPTAKE),
        Relaxation(900, 70, ASSUMED_SOFT),
        Relaxation(1050, 65, ASSUMED_SOFT),
        density=0.70,
    ),
    Tissue.CSF: _properties(
        Hounsfield(10, 10, 10, 10, 4, ASSUMED_HU, ASSUMED_NO_UPTAKE),
        Relaxation(4000, 1500, ASSUMED_FLUID),
        Relaxation(4000, 1500, ASSUMED_FLUID),
        density=1.00,
    ),
    Tissue.LUNG: _properties(
        Hounsfield(-850, -840, -840, -840, 25, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(1200, 15, ASSUMED_SOLID),
        Relaxation(1300, 12, ASSUMED_SOLID),
        density=0.15,
    ),
    Tissue.LIVER: _properties(
        Hounsfield(58, 72, 112, 95, 9, LIVER_HU, ASSUMED_ENHANCED_HU),
        Relaxation(586, 46, ASSUMED_1_5T),
        Relaxation(809, 34, DE_BAZELAIRE_3T),
        density=0.78,
        fat=0.04,
    ),
    Tissue.HEPATIC_VESSEL: _properties(
        Hounsfield(42, 75, 150, 110, 12, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(1441, 220, ASSUMED_BLOOD),
        Relaxation(1932, 200, ASSUMED_BLOOD),
        density=0.85,
    ),
    Tissue.SPLEEN: _properties(
        Hounsfield(48, 125, 122, 95, 9, SPLEEN_HU, ASSUMED_ENHANCED_HU),
        Relaxation(1057, 79, ASSUMED_1_5T),
        Relaxation(1328, 61, DE_BAZELAIRE_3T),
        density=0.85,
    ),
    Tissue.KIDNEY_CORTEX: _properties(
        Hounsfield(32, 175, 190, 150, 18, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(966, 87, ASSUMED_1_5T),
        Relaxation(1142, 76, DE_BAZELAIRE_3T),
        density=0.85,
    ),
    Tissue.KIDNEY_MEDULLA: _properties(
        Hounsfield(31, 75, 165, 160, 18, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(1412, 85, ASSUMED_1_5T),
        Relaxation(1545, 81, DE_BAZELAIRE_3T),
        density=0.90,
    ),
    Tissue.URINE: _properties(
        Hounsfield(5, 5, 8, 150, 8, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(3500, 900, ASSUMED_FLUID),
        Relaxation(3500, 800, ASSUMED_FLUID),
        density=1.00,
    ),
    Tissue.PANCREAS: _properties(
        Hounsfield(42, 115, 98, 78, 12, ASSUMED_HU, PANCREAS_HU),
        Relaxation(584, 46, ASSUMED_1_5T),
        Relaxation(725, 43, DE_BAZELAIRE_3T),
        density=0.80,
        fat=0.06,
    ),
    Tissue.GUT_WALL: _properties(
        Hounsfield(38, 85, 80, 70, 10, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(900, 60, ASSUMED_SOFT),
        Relaxation(1050, 55, ASSUMED_SOFT),
        density=0.80,
    ),
    Tissue.GUT_FLUID: _properties(
        Hounsfield(15, 15, 15, 15, 12, ASSUMED_HU, ASSUMED_NO_UPTAKE),
        Relaxation(2500, 400, ASSUMED_FLUID),
        Relaxation(2600, 350, ASSUMED_FLUID),
        density=0.98,
    ),
    Tissue.GUT_GAS: _properties(
        Hounsfield(-950, -950, -950, -950, 20, "assumption (gas with partial volume)", ASSUMED_NO_UPTAKE),
        _SILENT,
        _SILENT,
        density=0,
        density_source=NO_SIGNAL,
    ),
    Tissue.BILE: _properties(
        Hounsfield(8, 8, 9, 9, 5, ASSUMED_HU, ASSUMED_NO_UPTAKE),
        Relaxation(1800, 350, ASSUMED_FLUID),
        Relaxation(2000, 300, ASSUMED_FLUID),
        density=0.98,
    ),
    Tissue.ARTERY: _properties(
        Hounsfield(44, 310, 160, 120, 22, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(1441, 290, ASSUMED_BLOOD),
        Relaxation(1932, 275, ASSUMED_BLOOD),
        density=0.88,
    ),
    Tissue.VEIN: _properties(
        Hounsfield(44, 85, 160, 120, 20, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(1441, 180, ASSUMED_BLOOD),
        Relaxation(1932, 150, ASSUMED_BLOOD),
        density=0.88,
    ),
    Tissue.BOWEL_CONTENT: _properties(
        Hounsfield(30, 30, 30, 30, 30, "assumption (very variable)", ASSUMED_NO_UPTAKE),
        Relaxation(700, 110, "assumption (very variable)"),
        Relaxation(800, 100, "assumption (very variable)"),
        density=0.80,
        fat=0.08,
    ),
    Tissue.SKIN: _properties(
        Hounsfield(40, 45, 50, 50, 8, ASSUMED_HU, ASSUMED_ENHANCED_HU),
        Relaxation(300, 41, ASSUMED_SOFT),
        Relaxation(320, 40, ASSUMED_SOFT),
        density=0.60,
        fat=0.20,
    ),
    Tissue.CYST: _properties(
        Hounsfield(8, 8, 8, 8, 6, ASSUMED_HU, ASSUMED_NO_UPTAKE),
        Relaxation(2800, 900, ASSUMED_FLUID),
        Relaxation(2900, 800, ASSUMED_FLUID),
        density=1.00,
    ),
    Tissue.COUCH: _properties(
        Hounsfield(-150, -150, -150, -150, 60, "assumption (foam core in a carbon shell)", ASSUMED_NO_UPTAKE),
        _SILENT,
        _SILENT,
        density=0,
        density_source=NO_SIGNAL,
    ),
}
