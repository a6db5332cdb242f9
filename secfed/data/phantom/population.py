"""Who is scanned: body habitus, organ sizes, findings and the scanners that a region owns.

Two populations that differ visibly let a study ask whether a model survives a change of people, not only of scanner.
All ranges are choices for plausible images (assumptions), not epidemiology.
"""

from dataclasses import dataclass

from secfed.errors import ConfigError

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """Ranges are uniform draws, scales multiply the organ's usual size, rates are expected cysts per organ.

    `steatosis_hu` and `steatosis_fat_fraction` are half-normal spreads: a fatty liver is darker on CT and loses signal
    on opposed-phase MRI. `three_tesla_prob` counts only where the protocol leaves the field strength open.
    """

    name: str
    half_width_mm: Range = (146.0, 180.0)
    half_depth_mm: Range = (96.0, 124.0)
    subcutaneous_fat_mm: Range = (8.0, 34.0)
    wall_mm: Range = (9.0, 15.0)
    liver_scale: float = 1.0
    spleen_scale: float = 1.0
    kidney_scale: float = 1.0
    pancreas_scale: float = 1.0
    stomach_scale: float = 1.0
    liver_cyst_rate: float = 0.35
    kidney_cyst_rate: float = 0.25
    spleen_cyst_rate: float = 0.08
    steatosis_hu: float = 9.0
    steatosis_fat_fraction: float = 0.05
    oral_contrast_prob: float = 0.2
    ct_noise_scale: float = 1.0
    three_tesla_prob: float = 0.5
    mr_snr_scale: float = 1.0
    mr_bias_scale: float = 1.0


NORTH = PopulationConfig(name="north")

SOUTH = PopulationConfig(
    name="south",
    half_width_mm=(126.0, 156.0),
    half_depth_mm=(86.0, 108.0),
    subcutaneous_fat_mm=(3.0, 15.0),
    wall_mm=(8.0, 13.0),
    liver_scale=0.92,
    spleen_scale=1.25,
    kidney_scale=0.92,
    pancreas_scale=0.95,
    stomach_scale=0.9,
    liver_cyst_rate=0.8,
    kidney_cyst_rate=0.5,
    spleen_cyst_rate=0.25,
    steatosis_hu=4.0,
    steatosis_fat_fraction=0.02,
    oral_contrast_prob=0.5,
    ct_noise_scale=1.25,
    three_tesla_prob=0.2,
    mr_snr_scale=0.75,
    mr_bias_scale=1.3,
)


@dataclass(frozen=True, kw_only=True)
class HeartPopulation:
    """The hearts of the population of the same name; its habitus and scanners stand in PopulationConfig.

    `wall_mm` is the mean thickness of the left ventricle's wall when it is full, `emptied` the range of the share of
    its blood that has left it at the moment of the scan. Scales multiply usual sizes.
    """

    name: str
    heart_scale: float = 1.0
    ventricle_scale: float = 1.0
    atrium_scale: float = 1.0
    wall_mm: float = 8.2
    emptied: Range = (0.0, 0.25)


HEARTS = {
    NORTH.name: HeartPopulation(name=NORTH.name),
    # Smaller people with thicker walls and wider atria, as after years of high blood pressure.
    SOUTH.name: HeartPopulation(
        name=SOUTH.name, heart_scale=0.95, ventricle_scale=1.06, atrium_scale=1.12, wall_mm=10.0
    ),
}

POPULATIONS = {population.name: population for population in (NORTH, SOUTH)}


def population_named(name: str) -> PopulationConfig:
    """The population of that name.

    Raises:
        ConfigError: no population has that name; the message lists those that exist.
    """
    if name not in POPULATIONS:
        raise ConfigError(f"population = {name!r}: no such population; known: {', '.join(sorted(POPULATIONS))}")
    return POPULATIONS[name]
