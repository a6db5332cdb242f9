"""Noise that sites share under secure aggregation: how much each adds, and what step the sum then is to the accountant.

Run by every site, from public numbers only. Sites send, under masks, the integer sum of their patients' clipped
contributions plus integer noise; only the sum over sites is opened. Each adds so much that the honest survivors alone
make up the planned noise.

The integer noise is discrete Gaussian (Canonne, Kamath and Steinke 2020). Sums of it are not quite discrete Gaussian
(Kairouz, Liu and Steinke 2021, theorem 11), and neither is quite a rounded continuous one; both gaps follow from
Poisson's summation formula, theta(s) = 2 sum_j exp(-2 pi^2 s^2 j^2) being the most by which a Gaussian sum over
shifted integers differs from its integral. A continuous Gaussian of variance b^2 less, rounded to integers by a
discrete Gaussian of variance b^2 (Peikert 2010, theorem 3.1), equals the discrete Gaussian up to factors of
1 +- theta(b). So the release is, up to a factor e^(+-closeness), a function of a continuous Gaussian release with
b^2 less variance, and may be accounted as that. Both gaps are kept below `CLOSENESS` for a whole vector: less than
the accountant's own arithmetic resolves.

Not covered: more than one local step between two sums, patients who stand in two sites' data, sites beyond
`max_colluders` that leave their noise out, and noise from a generator that an attacker can predict.
"""

import math
from dataclasses import dataclass

from privacy.errors import MisuseError, RangeError
from privacy.segment import Segment, require_noise

CLOSENESS = 1e-14


@dataclass(frozen=True, kw_only=True)
class NoiseSplit:
    """How the noise of one sum is shared; all of it public and the same at every site.

    `noise_multiplier`: planned noise on the sum, in clip norms. `clip_norm`: L2 bound of one patient's contribution.
    `quantum`: the value of one integer step. `dimension`: entries of the vector that is summed. `invited`: sites;
    `max_dropouts` and `max_colluders` of them may vanish, and may tell others their noise.

    Raises:
        RangeError: a value is not a number or out of range, or no honest site is left for certain.
        MisuseError: the noise of one site is so few quanta that its sums are not Gaussian to `CLOSENESS`.
    """

    noise_multiplier: float
    clip_norm: float
    quantum: float
    dimension: int
    invited: int
    max_dropouts: int
    max_colluders: int

    def __post_init__(self) -> None:
        require_noise("noise_multiplier", self.noise_multiplier)
        for name, least in (("dimension", 1), ("invited", 1), ("max_dropouts", 0), ("max_colluders", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RangeError(f"{name} = {value} must be a whole number of at least {least}")
        for name in ("clip_norm", "quantum"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0.0 < value < math.inf):
                raise RangeError(f"{name} = {value} must be a positive finite number")
        if self.certain_honest < 1:
            raise RangeError(
                f"invited = {self.invited} sites less max_dropouts = {self.max_dropouts} and max_colluders = "
                f"{self.max_colluders} leave no honest site that is sure to add noise; at least 1 is needed"
            )
        if self.noise_multiplier > 0.0 and _gap_of_sum(self.site_noise / self.quantum, self) > CLOSENESS:
            raise MisuseError(
                f"the noise of one site is {self.site_noise / self.quantum:.3g} quanta, too few for sums of it to be "
                f"Gaussian; a quantum of at most {self.site_noise / _enough_quanta(self):.3g} would do"
            )

    @property
    def certain_honest(self) -> int:
        """H = invited - max_dropouts - max_colluders: sites whose noise is in every sum that is opened."""
        return self.invited - self.max_dropouts - self.max_colluders

    @property
    def site_noise(self) -> float:
        """What each site adds to every entry: the parameter s = noise_multiplier * clip_norm / sqrt(H), as a value."""
        return self.noise_multiplier * self.clip_norm / math.sqrt(self.certain_honest)

    @property
    def sensitivity(self) -> float:
        """How far one patient moves the rounded sum: clip_norm + quantum * sqrt(dimension), L2.

        Rounding with one dither moves two sums that differ by x in an entry to integers that differ by less than one
        quantum more, and by nothing where x is 0.
        """
        return self.clip_norm + self.quantum * math.sqrt(self.dimension)


def effective_noise(split: NoiseSplit, *, survivors: int | None = None) -> float:
    """The noise multiplier to account for a sum over `survivors` sites; without it, for the fewest allowed.

    Give the number of survivors only where it is authenticated and cannot depend on anybody's data.

    Raises:
        RangeError: survivors is not in [invited - max_dropouts, invited]; below that nothing may be opened.
    """
    fewest = split.invited - split.max_dropouts
    counted = fewest if survivors is None else survivors
    if isinstance(counted, bool) or not isinstance(counted, int) or not fewest <= counted <= split.invited:
        raise RangeError(f"survivors = {counted} must be a whole number in [{fewest}, {split.invited}]")
    if split.noise_multiplier == 0.0:
        return 0.0
    honest = counted - split.max_colluders
    variance = honest * split.site_noise**2 - _rounding_variance(split.dimension) * split.quantum**2
    return math.sqrt(variance) / split.sensitivity


def distributed_segment(
    split: NoiseSplit, *, sampling_prob: float, survivors: int | None = None, steps: int = 1
) -> Segment:
    """The segment to account for `steps` sums with this split: see effective_noise for `survivors`.

    **Guarantees** Against the aggregator, any reader of the sums and up to max_colluders sites, the sums tell no more
    about a patient of an honest site than this segment does (up to e^(+-CLOSENESS) per step, see above), if each sum
    holds one step's clipped contributions, sampled with `sampling_prob`.

    Raises:
        RangeError: as effective_noise and Segment.
    """
    return Segment(
        sampling_prob=sampling_prob, noise_multiplier=effective_noise(split, survivors=survivors), steps=steps
    )


def _theta(quanta: float) -> float:
    """Poisson's bound on how far sums over integers of a Gaussian with this parameter are from its integral."""
    return 2.1 * math.exp(-2.0 * (math.pi * quanta) ** 2)


def _gap_of_sum(quanta: float, split: NoiseSplit) -> float:
    """Log-ratio between the summed noise of all sites and one discrete Gaussian, over all entries.

    Adding one more to k of them convolves parameters sqrt(k) s and s: four sums over integers, none of a Gaussian
    with a parameter below s sqrt(k / (k + 1)).
    """
    gap = sum(_theta(quanta * math.sqrt(k / (k + 1))) for k in range(1, split.invited))
    return 4.0 * 1.01 * split.dimension * (gap + _theta(quanta))


def _rounding_variance(dimension: int) -> float:
    """b^2 in quanta: small, and large enough that rounding a continuous Gaussian by it is off by CLOSENESS at most."""
    return math.log(4.0 * 1.01 * 2.1 * dimension / CLOSENESS) / (2.0 * math.pi**2)


def _enough_quanta(split: NoiseSplit) -> float:
    """A noise in quanta at which the gap is small enough: the worst term, as if all were like it."""
    return math.sqrt(math.log(4.0 * 1.01 * 2.1 * split.dimension * split.invited / CLOSENESS)) / math.pi
