"""How a site scans: contrast phases and noise of a CT, field strength and sequences of an MRI scanner.

A protocol belongs to one task: it scans the abdomen or the heart.

A site with one fixed protocol is what makes cross-modality training hard: with every contrast mixed at every site, MRI
alone already generalises to CT. The weights of a mixture need not sum to one.
"""

from dataclasses import dataclass
from enum import StrEnum

from secfed.data.cases import ABDOMEN, WHOLE_HEART, Modality
from secfed.errors import ConfigError


class Phase(StrEnum):
    """Time of a CT scan after injection of the contrast agent."""

    UNENHANCED = "unenhanced"
    ARTERIAL = "arterial"
    PORTAL = "portal"
    DELAYED = "delayed"


class Sequence(StrEnum):
    """MRI sequences: spoiled gradient echo (T1) and turbo spin echo (T2)."""

    T1_IN_PHASE = "t1-in-phase"
    T1_OPPOSED_PHASE = "t1-opposed-phase"
    T1_FAT_SUPPRESSED = "t1-fat-suppressed"
    T1_ENHANCED = "t1-enhanced"
    T2_TURBO_SPIN_ECHO = "t2-turbo-spin-echo"
    T2_FAT_SUPPRESSED = "t2-fat-suppressed"

    @property
    def is_gradient_echo(self) -> bool:
        """True for the T1-weighted family."""
        return self.value.startswith("t1")

    @property
    def suppresses_fat(self) -> bool:
        """The enhanced sequence is fat suppressed too, as it is in practice."""
        return self in (Sequence.T1_FAT_SUPPRESSED, Sequence.T1_ENHANCED, Sequence.T2_FAT_SUPPRESSED)


@dataclass(frozen=True, kw_only=True)
class CtProtocol:
    """`phases` holds (phase, weight); `noise_hu` is the range of the standard deviation of the noise."""

    name: str
    phases: tuple[tuple[Phase, float], ...]
    noise_hu: tuple[float, float]

    @property
    def modality(self) -> Modality:
        """Always CT."""
        return Modality.CT

    @property
    def task(self) -> str:
        """What is scanned: the abdomen."""
        return ABDOMEN.task


@dataclass(frozen=True, kw_only=True)
class MrProtocol:
    """`sequences` holds (sequence, weight); `field_tesla` is None where the population's scanners decide."""

    name: str
    sequences: tuple[tuple[Sequence, float], ...]
    field_tesla: float | None = None
    muscle_snr: tuple[float, float] = (10.0, 30.0)
    bias_amplitude: tuple[float, float] = (0.08, 0.22)

    @property
    def modality(self) -> Modality:
        """Always MR."""
        return Modality.MR

    @property
    def task(self) -> str:
        """What is scanned: the abdomen."""
        return ABDOMEN.task


@dataclass(frozen=True, kw_only=True)
class CtAngiographyProtocol:
    """An angiography of the heart: `dose` multiplies the usual opacification of the left heart at 120 kV.

    `right_share` is the opacification of the right heart over that of the left one: low when the bolus has passed and
    saline follows, high when contrast agent still flows. `kilovolts` are the settings that occur.
    """

    name: str
    kilovolts: tuple[int, ...]
    dose: tuple[float, float]
    right_share: tuple[float, float]
    noise_hu: tuple[float, float]

    @property
    def modality(self) -> Modality:
        """Always CT."""
        return Modality.CT

    @property
    def task(self) -> str:
        """What is scanned: the heart."""
        return WHOLE_HEART.task


@dataclass(frozen=True, kw_only=True)
class BssfpProtocol:
    """Balanced steady-state free precession of the heart; `field_tesla` is None where the scanners decide.

    `off_resonance_hz` is the range of the amplitude of the field's error, from which dark bands come; `surface_gain`
    that of how much more the coils on the chest see of what lies under the skin.
    """

    name: str
    field_tesla: float | None
    flip_deg: tuple[float, float]
    off_resonance_hz: tuple[float, float]
    surface_gain: tuple[float, float]
    bias_amplitude: tuple[float, float]
    muscle_snr: tuple[float, float] = (6.0, 14.0)

    @property
    def modality(self) -> Modality:
        """Always MR."""
        return Modality.MR

    @property
    def task(self) -> str:
        """What is scanned: the heart."""
        return WHOLE_HEART.task


Protocol = CtProtocol | MrProtocol | CtAngiographyProtocol | BssfpProtocol

_ALL = (
    CtProtocol(name="ct-portal", phases=((Phase.PORTAL, 1.0),), noise_hu=(7.0, 13.0)),
    CtProtocol(
        name="ct-mixed",
        phases=((Phase.UNENHANCED, 1.0), (Phase.ARTERIAL, 1.0), (Phase.DELAYED, 1.0)),
        noise_hu=(13.0, 24.0),
    ),
    CtProtocol(
        name="ct-any",
        phases=((Phase.UNENHANCED, 0.15), (Phase.ARTERIAL, 0.20), (Phase.PORTAL, 0.50), (Phase.DELAYED, 0.15)),
        noise_hu=(8.0, 22.0),
    ),
    MrProtocol(
        name="mr-t1-gre",
        sequences=((Sequence.T1_IN_PHASE, 1.0), (Sequence.T1_OPPOSED_PHASE, 1.0)),
        field_tesla=1.5,
    ),
    MrProtocol(
        name="mr-t2-tse",
        sequences=((Sequence.T2_TURBO_SPIN_ECHO, 1.0), (Sequence.T2_FAT_SUPPRESSED, 1.0)),
        field_tesla=3.0,
    ),
    MrProtocol(
        name="mr-any",
        sequences=(
            (Sequence.T1_IN_PHASE, 0.17),
            (Sequence.T1_OPPOSED_PHASE, 0.08),
            (Sequence.T1_FAT_SUPPRESSED, 0.20),
            (Sequence.T1_ENHANCED, 0.20),
            (Sequence.T2_TURBO_SPIN_ECHO, 0.17),
            (Sequence.T2_FAT_SUPPRESSED, 0.18),
        ),
    ),
    # A late scan: saline has washed the right heart.
    CtAngiographyProtocol(
        name="ct-angio-a", kilovolts=(120,), dose=(0.8, 1.15), right_share=(0.0, 0.35), noise_hu=(10.0, 17.0)
    ),
    # An earlier scan at low voltage: both sides are bright, and so is the noise.
    CtAngiographyProtocol(
        name="ct-angio-b", kilovolts=(80, 100), dose=(0.45, 0.85), right_share=(0.7, 1.5), noise_hu=(17.0, 30.0)
    ),
    CtAngiographyProtocol(
        name="ct-angio-any", kilovolts=(80, 100, 120), dose=(0.45, 1.15), right_share=(0.0, 1.2), noise_hu=(10.0, 28.0)
    ),
    BssfpProtocol(
        name="mr-bssfp-a",
        field_tesla=1.5,
        flip_deg=(50.0, 70.0),
        off_resonance_hz=(15.0, 40.0),
        surface_gain=(0.4, 1.1),
        bias_amplitude=(0.08, 0.22),
    ),
    # More power is deposited at 3 T, so the flip angle is smaller; fields and coils are less even.
    BssfpProtocol(
        name="mr-bssfp-b",
        field_tesla=3.0,
        flip_deg=(35.0, 50.0),
        off_resonance_hz=(50.0, 95.0),
        surface_gain=(0.9, 1.9),
        bias_amplitude=(0.22, 0.42),
    ),
    BssfpProtocol(
        name="mr-bssfp-any",
        field_tesla=None,
        flip_deg=(35.0, 70.0),
        off_resonance_hz=(15.0, 85.0),
        surface_gain=(0.4, 1.9),
        bias_amplitude=(0.08, 0.40),
    ),
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}

# The protocols that mix every contrast of a task.
ANY_CONTRAST = {
    ABDOMEN.task: {Modality.CT: "ct-any", Modality.MR: "mr-any"},
    WHOLE_HEART.task: {Modality.CT: "ct-angio-any", Modality.MR: "mr-bssfp-any"},
}


def protocols_for(task: str, *, modality: Modality | None = None) -> list[str]:
    """Names of the protocols that scan what a task segments, of one modality or of both."""
    return sorted(
        name for name, protocol in PROTOCOLS.items() if protocol.task == task and modality in (None, protocol.modality)
    )


def protocol_named(name: str, *, modality: Modality | None = None, task: str | None = None) -> Protocol:
    """The protocol of that name, which must make scans of `modality` and belong to `task`, where they are given.

    Raises:
        ConfigError: no protocol has that name, or the one that has it does not fit; the message lists those that do.
    """
    known = PROTOCOLS.get(name)
    wanted = task if task is not None else known.task if known is not None else None
    fitting = ", ".join(
        sorted(
            key
            for key, protocol in PROTOCOLS.items()
            if modality in (None, protocol.modality) and wanted in (None, protocol.task)
        )
    )
    scans = " ".join(["known", *(["for", modality] if modality else []), *(["of", f"task '{task}'"] if task else [])])
    if known is None:
        raise ConfigError(f"protocol = {name!r}: no such protocol; {scans}: {fitting}")
    if task is not None and known.task != task:
        raise ConfigError(f"protocol = {name!r} scans for task '{known.task}', not '{task}'; use {fitting}")
    if modality is not None and known.modality is not modality:
        raise ConfigError(f"protocol = {name!r} makes {known.modality} scans, not {modality}; use {fitting}")
    return known
