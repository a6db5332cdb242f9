"""The simulated MRI scanner: tissue codes to magnitude images.

Signal equations of a spoiled gradient echo (Ernst; T1 weighting, in and opposed phase) and of a turbo spin echo at its
effective echo time (T2 weighting), for water and fat separately; then flow, partial volume, Gibbs ringing, a ghost of
breathing, the receive bias of the coils and Rician noise (Gudbjartsson and Patz, Magn Reson Med 1995;34:910-914).
Not simulated: k-space trajectories, susceptibility, B0 maps, parallel imaging.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from secfed.data.phantom.anatomy import Subject
from secfed.data.phantom.geometry import Volume, smooth_field
from secfed.data.phantom.population import PopulationConfig
from secfed.data.phantom.protocol import MrProtocol, Sequence
from secfed.data.phantom.tissues import PROPERTIES, Tissue, TissueProperties

Table = NDArray[np.float64]

# Portal-phase concentration of a gadolinium agent in mmol/l at a usual dose (assumption), and its relaxivity of about
# 4.5 l/(mmol s), here per millisecond.
_GADOLINIUM_MMOL_PER_L = {
    Tissue.LIVER: 0.45,
    Tissue.HEPATIC_VESSEL: 1.3,
    Tissue.SPLEEN: 0.9,
    Tissue.KIDNEY_CORTEX: 1.3,
    Tissue.KIDNEY_MEDULLA: 0.8,
    Tissue.PANCREAS: 0.6,
    Tissue.GUT_WALL: 0.5,
    Tissue.ARTERY: 1.4,
    Tissue.VEIN: 1.3,
    Tissue.MUSCLE: 0.12,
    Tissue.MARROW: 0.15,
    Tissue.SKIN: 0.3,
}
_RELAXIVITY_PER_MS = 4.5e-3

# Static dephasing adds to 1 / T2 in a gradient echo; milliseconds at 1.5 T and 3 T (assumption).
_T2_PRIME_MS = {1.5: 45.0, 3.0: 30.0}

# Echo times at which fat and water are in phase for the first time: their shift of 3.4 ppm is 217 Hz at 1.5 T.
_IN_PHASE_MS = {1.5: 4.6, 3.0: 2.3}


@dataclass(frozen=True, kw_only=True)
class Tissues:
    """Relaxation times in ms, proton density and fat fraction of every tissue code, shape (num_tissues,)."""

    t1_ms: Table
    t2_ms: Table
    density: Table
    fat_fraction: Table


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Repetition and echo time in ms and flip angle in radians (unused by the turbo spin echo)."""

    repetition_ms: float
    echo_ms: float
    flip_rad: float


def spoiled_gradient_echo(t1_ms: Table, t2_star_ms: Table, timing: Timing) -> Table:
    """Ernst's steady state: sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2*), with E1 = exp(-TR / T1)."""
    recovery = np.exp(-timing.repetition_ms / t1_ms)
    steady = np.sin(timing.flip_rad) * (1 - recovery) / (1 - np.cos(timing.flip_rad) * recovery)
    return np.asarray(steady * np.exp(-timing.echo_ms / t2_star_ms))


def turbo_spin_echo(t1_ms: Table, t2_ms: Table, timing: Timing) -> Table:
    """(1 - exp(-TR / T1)) exp(-TE / T2) at the effective echo time."""
    return np.asarray((1 - np.exp(-timing.repetition_ms / t1_ms)) * np.exp(-timing.echo_ms / t2_ms))


def scan_mr(
    subject: Subject, generator: np.random.Generator, *, protocol: MrProtocol, population: PopulationConfig
) -> Volume:
    """One magnitude volume in arbitrary units, about 1 for bright tissue, on the subject's grid."""
    sequences, weights = zip(*protocol.sequences, strict=True)
    sequence = sequences[int(generator.choice(len(sequences), p=np.array(weights) / sum(weights)))]
    field_tesla = protocol.field_tesla
    if field_tesla is None:
        field_tesla = 3.0 if generator.random() < population.three_tesla_prob else 1.5

    tissues = draw_tissues(generator, sequence, field_tesla=field_tesla, population=population)
    timing = draw_timing(generator, sequence, field_tesla=field_tesla)
    suppression = generator.uniform(0.04, 0.18) if sequence.suppresses_fat else 1.0
    signal = tissue_signal(tissues, sequence, timing, field_tesla=field_tesla, fat_left=suppression)

    image = np.asarray(signal[subject.tissue], dtype=np.float32)
    image /= np.float32(np.percentile(np.abs(image[subject.tissue != Tissue.AIR]), 95) + 1e-6)
    fine = 0.05 * smooth_field(generator, subject.grid, scale_mm=12.0)
    image *= 1 + fine + 0.04 * smooth_field(generator, subject.grid, scale_mm=35.0)
    # Inflow makes vessels bright in a gradient echo, flow voids make them dark in a spin echo.
    flow = generator.uniform(0.2, 1.6) if sequence.is_gradient_echo else generator.uniform(0.05, 0.6)
    image[(subject.tissue == Tissue.ARTERY) | (subject.tissue == Tissue.VEIN)] *= np.float32(flow)

    image = sample(image, generator, subject)
    amplitude = generator.uniform(*protocol.bias_amplitude) * population.mr_bias_scale
    amplitude *= 1.3 if field_tesla > 2 else 1.0
    image = np.abs(image) * receive_bias(generator, subject, amplitude=amplitude)
    snr = generator.uniform(*protocol.muscle_snr) * population.mr_snr_scale
    deviation = float(np.median(image[subject.tissue == Tissue.MUSCLE])) / snr
    return rician(image, generator, deviation=0.7 * deviation)


def draw_tissues(
    generator: np.random.Generator, sequence: Sequence, *, field_tesla: float, population: PopulationConfig
) -> Tissues:
    """The table's values at this field strength, with variation between subjects and any contrast agent."""
    tissues = vary_tissues(generator, PROPERTIES, field_tesla=field_tesla, population=population)
    if sequence is Sequence.T1_ENHANCED:
        relaxivity = _RELAXIVITY_PER_MS * np.exp(generator.normal(0, 0.25))
        for tissue, concentration in _GADOLINIUM_MMOL_PER_L.items():
            tissues.t1_ms[tissue] = 1 / (1 / tissues.t1_ms[tissue] + relaxivity * concentration)
    return tissues


def vary_tissues(
    generator: np.random.Generator,
    table: Mapping[Tissue, TissueProperties] | Mapping[int, TissueProperties],
    *,
    field_tesla: float,
    population: PopulationConfig,
) -> Tissues:
    """A table's values at this field strength in one subject, without contrast agent."""
    strong = field_tesla > 2
    rows = [properties.at_3_tesla if strong else properties.at_1_5_tesla for properties in table.values()]
    t1 = np.array([row.t1_ms for row in rows]) * np.exp(generator.normal(0, 0.07, len(rows)))
    t2 = np.array([row.t2_ms for row in rows]) * np.exp(generator.normal(0, 0.10, len(rows)))
    fat = np.array([properties.fat_fraction.value for properties in table.values()])
    fat[Tissue.LIVER] += abs(generator.normal(0, population.steatosis_fat_fraction))
    density = np.array([properties.proton_density.value for properties in table.values()])
    return Tissues(t1_ms=t1, t2_ms=t2, density=density, fat_fraction=fat)


def draw_timing(generator: np.random.Generator, sequence: Sequence, *, field_tesla: float) -> Timing:
    """Usual timings: a third of the gradient echoes are 2D with a long repetition time, the rest 3D."""
    if not sequence.is_gradient_echo:
        return Timing(
            repetition_ms=generator.uniform(1500, 5000), echo_ms=generator.uniform(70, 110), flip_rad=np.pi / 2
        )
    if generator.random() < 0.35:
        repetition, flip = generator.uniform(110, 200), generator.uniform(65, 80)
    else:
        repetition, flip = generator.uniform(3.6, 7), generator.uniform(9, 15)
    in_phase = _IN_PHASE_MS[3.0 if field_tesla > 2 else 1.5]
    echo = generator.uniform(1.2, 2.2)
    if sequence is Sequence.T1_IN_PHASE:
        echo = in_phase
    elif sequence is Sequence.T1_OPPOSED_PHASE:
        echo = in_phase / 2
    return Timing(repetition_ms=repetition, echo_ms=echo, flip_rad=float(np.deg2rad(flip)))


def tissue_signal(
    tissues: Tissues, sequence: Sequence, timing: Timing, *, field_tesla: float, fat_left: float
) -> Table:
    """Signed signal per tissue code: water, plus fat (minus fat in opposed phase); `fat_left` is unsuppressed fat.

    The sum stays signed until after blurring, so that voxels of mixed fat and water cancel in opposed phase.
    """
    fat = Tissue.SUBCUTANEOUS_FAT
    fat_t1, fat_t2 = tissues.t1_ms[fat : fat + 1], tissues.t2_ms[fat : fat + 1]
    if sequence.is_gradient_echo:
        t2_prime = _T2_PRIME_MS[3.0 if field_tesla > 2 else 1.5]
        t2_star = 1 / (1 / tissues.t2_ms + 1 / t2_prime)
        water = spoiled_gradient_echo(tissues.t1_ms, t2_star, timing)
        fatty = spoiled_gradient_echo(fat_t1, t2_star[fat : fat + 1], timing)
    else:
        water = turbo_spin_echo(tissues.t1_ms, tissues.t2_ms, timing)
        # The fast train of refocusing pulses suppresses J coupling, which makes fat brighter than its T2 says.
        fatty = turbo_spin_echo(fat_t1, 1.5 * fat_t2, timing)
    sign = -1.0 if sequence is Sequence.T1_OPPOSED_PHASE else 1.0
    water_signal = tissues.density * (1 - tissues.fat_fraction) * water
    return np.asarray(water_signal + sign * fat_left * tissues.density * tissues.fat_fraction * fatty)


def sample(
    image: Volume, generator: np.random.Generator, subject: Subject, *, slice_mm: tuple[float, float] = (4.0, 8.0)
) -> Volume:
    """Thick slices, in-plane blur, a band-limited phase-encoding direction (y) and its respiratory ghost."""
    spacing = subject.grid.spacing_mm
    image = ndimage.gaussian_filter1d(image, 0.42 * generator.uniform(*slice_mm) / spacing[0], axis=0, truncate=2.5)
    image = ndimage.gaussian_filter1d(image, 4 * generator.uniform(0.25, 0.5) / spacing[2], axis=2, truncate=2.5)
    spectrum = np.fft.rfft(image, axis=1)
    lines = spectrum.shape[1]
    limit = generator.uniform(0.75, 1.1) * lines
    spectrum *= (1 / (1 + np.exp((np.arange(lines) - limit) / 2.0)))[None, :, None]
    image = np.asarray(np.fft.irfft(spectrum, image.shape[1], axis=1), dtype=np.float32)
    ghost = np.float32(generator.uniform(0, 0.06))
    return image + ghost * np.roll(image, int(generator.integers(8, 30)), axis=1)


def receive_bias(generator: np.random.Generator, subject: Subject, *, amplitude: float) -> Volume:
    """Smooth gain of the receive coils, which also see the surface better than the middle."""
    falloff = generator.uniform(0, 0.5) * subject.depth_mm / (float(subject.depth_mm.max()) + 1)
    return np.asarray(np.exp(amplitude * smooth_field(generator, subject.grid, scale_mm=190.0) - falloff))


def rician(image: Volume, generator: np.random.Generator, *, deviation: float) -> Volume:
    """Magnitude of the image with complex noise of this deviation in either part."""
    real, imaginary = generator.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(deviation)
    return np.asarray(np.hypot(image + real, imaginary), dtype=np.float32)
