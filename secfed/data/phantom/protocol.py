"""How a site scans: contrast phases and noise of a CT, field strength and sequences of an MRI scanner.

A site with one fixed protocol is what makes cross-modality training hard: with every contrast mixed at every site, MRI
alone already generalises to CT. The weights of a mixture need not sum to one.
"""

from dataclasses import dataclass
from enum import StrEnum

from secfed.data.cases import Modality
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


Protocol = CtProtocol | MrProtocol

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
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def protocol_named(name: str, *, modality: Modality) -> Protocol:
    """The protocol of that name, which must make scans of `modality`.

    Raises:
        ConfigError: no protocol of that modality has that name; the message lists those that exist.
    """
    known = sorted(key for key, protocol in PROTOCOLS.items() if protocol.modality is modality)
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol = {name!r}: no such protocol; known for {modality}: {', '.join(known)}")
    protocol = PROTOCOLS[name]
    if protocol.modality is not modality:
        raise ConfigError(
            f"protocol = {name!r} makes {protocol.modality} scans, not {modality}; use {', '.join(known)}"
        )
    return protocol
