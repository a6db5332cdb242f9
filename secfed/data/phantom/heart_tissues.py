"""What the chest adds to the tissues of the abdomen: heart muscle and blood by the side of the heart it runs through.

Shared by both scanners. Codes go on where `Tissue` ends, and each value stands beside its source by the rules of
`secfed.data.phantom.tissues`. The arterial column of a Hounsfield row is what an angiography at 120 kV shows at a usual
dose; `secfed.data.phantom.ct_angiography` scales it.
"""

from collections.abc import Mapping
from enum import IntEnum

from secfed.data.phantom.tissues import (
    ASSUMED_BLOOD,
    ASSUMED_DENSITY,
    ASSUMED_ENHANCED_HU,
    ASSUMED_FAT,
    ASSUMED_HU,
    PROPERTIES,
    Fraction,
    Hounsfield,
    Relaxation,
    TissueProperties,
)

GRANITZ = "Granitz et al., Wien Klin Wochenschr 2019, native mapping of healthy volunteers at 1.5 T and 3 T"
ASSUMED_ANGIOGRAPHY_HU = "assumption (usual opacification of coronary CT angiography at 120 kV)"


class HeartTissue(IntEnum):
    """Code of a tissue that only the chest has; left blood is bright on an angiography, right blood by its timing."""

    MYOCARDIUM = 26
    LEFT_BLOOD = 27
    RIGHT_BLOOD = 28
    CAVAL_BLOOD = 29


def _blood(hounsfield: Hounsfield, *, t2_at_1_5: float, t2_at_3: float) -> TissueProperties:
    """T1 is that of all blood; the less oxygen, the shorter T2."""
    return TissueProperties(
        hounsfield=hounsfield,
        at_1_5_tesla=Relaxation(1441, t2_at_1_5, ASSUMED_BLOOD),
        at_3_tesla=Relaxation(1932, t2_at_3, ASSUMED_BLOOD),
        proton_density=Fraction(0.88, ASSUMED_DENSITY),
        fat_fraction=Fraction(0.0, ASSUMED_FAT),
    )


HEART_PROPERTIES: Mapping[int, TissueProperties] = {
    **{int(tissue): properties for tissue, properties in PROPERTIES.items()},
    HeartTissue.MYOCARDIUM: TissueProperties(
        hounsfield=Hounsfield(46, 105, 95, 88, 8, ASSUMED_HU, ASSUMED_ANGIOGRAPHY_HU),
        at_1_5_tesla=Relaxation(995.8, 55.8, GRANITZ),
        at_3_tesla=Relaxation(1183.8, 51.6, GRANITZ),
        proton_density=Fraction(0.80, ASSUMED_DENSITY),
        fat_fraction=Fraction(0.01, ASSUMED_FAT),
    ),
    HeartTissue.LEFT_BLOOD: _blood(
        Hounsfield(44, 400, 160, 120, 10, ASSUMED_HU, ASSUMED_ANGIOGRAPHY_HU), t2_at_1_5=290, t2_at_3=275
    ),
    HeartTissue.RIGHT_BLOOD: _blood(
        Hounsfield(44, 400, 160, 120, 10, ASSUMED_HU, ASSUMED_ANGIOGRAPHY_HU), t2_at_1_5=180, t2_at_3=150
    ),
    HeartTissue.CAVAL_BLOOD: _blood(
        Hounsfield(44, 70, 150, 120, 12, ASSUMED_HU, ASSUMED_ENHANCED_HU), t2_at_1_5=180, t2_at_3=150
    ),
}
