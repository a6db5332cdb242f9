"""Everything that can be said about a run before it starts, and whether it would be refused.

Run by whoever plans a run, or by a site that was asked to take part. It reads a configuration and, where asked, one
`site.toml`; it reads no scan and no key. That a run is ready here does not say that its data are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfed.config import RunConfig
from secfed.data.cases import LABEL_MAPS
from secfed.errors import ConfigError, PolicyRefusal
from secfed.experiment.checks import class_weights_problem, require_known_phantoms
from secfed.network import initial_vector
from secfed.preflight.encryption import Encryption, EncryptionTime, encryption_of, time_encryption
from secfed.preflight.members import RunToLookAt
from secfed.preflight.privacy import PrivacyPrice, price_of, statement
from secfed.preflight.quorum import Quorum, quorum_of
from secfed.preflight.timing import MaskingTime, TrainingTime, time_masking, time_training
from secfed.preflight.traffic import Traffic
from secfed.preflight.value_range import ValueRange, value_range
from secfed.preflight.verdict import (
    Finding,
    SiteVerdict,
    plan_refusals,
    site_verdict,
)
from secfed.protected_vector import vector_format
from secfed.report.trust import TRUST
from secfed.site_config import SiteFile, load_site_file

COARSE = 0.01
"""From this share of the clip norm on, rounding is worth a warning."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The findings. `traffic` is None where a rehearsal makes no sense any more, the times where they were skipped."""

    config: RunConfig
    num_parameters: int
    value_range: ValueRange
    value_range_asked: ValueRange | None
    quorum: Quorum
    traffic: Traffic | None
    masking: MaskingTime | None
    encryption: Encryption | None
    encrypting: EncryptionTime | None
    training: TrainingTime | None
    price: PrivacyPrice | None
    site: SiteVerdict | None
    warnings: tuple[str, ...]
    refusals: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 where the run is ready, else that of the first refusal."""
        return self.refusals[0].exit_code if self.refusals else 0

    def as_dict(self) -> dict[str, Any]:
        """For --json."""

        def optional(
            part: ValueRange | Traffic | MaskingTime | Encryption | EncryptionTime | TrainingTime | SiteVerdict | None,
        ) -> Any:
            return None if part is None else part.as_dict()

        return {
            "name": self.config.name,
            "ready": not self.refusals,
            "exit_code": self.exit_code,
            "refusals": [finding.reason for finding in self.refusals],
            "warnings": list(self.warnings),
            "protection": self.config.protection.mode,
            "sites": len(self.config.sites),
            "rounds": self.config.federation.rounds,
            "network": self.config.model.label(),
            "parameters": self.num_parameters,
            "range": self.value_range.as_dict(),
            "range_asked": optional(self.value_range_asked),
            "bytes": optional(self.traffic),
            "quorum": self.quorum.as_dict(),
            "masking": optional(self.masking),
            "encryption": optional(self.encryption),
            "encrypting": optional(self.encrypting),
            "training": optional(self.training),
            "privacy": statement(self.config, self.price),
            "trust": TRUST[self.config.protection.mode],
            "site": optional(self.site),
        }


REFERENCES_ALONE = (
    "federated = false: the run trains its references alone, in one place. What is said here is what a federation of "
    "these sites would need."
)


def check(
    run: RunToLookAt, *, clients: int | None, noise_tail: int, site_folder: Path | None, measure: bool
) -> Preflight:
    """Look at a run from all sides; `clients` asks for a second range analysis, `measure` for times.

    Raises:
        ConfigError: the network cannot be built, range or noise are impossible, or the site's file cannot be used.
    """
    config = run.config
    require_known_phantoms(config)
    references_alone = () if config.federated else (REFERENCES_ALONE,)
    config = config.model_copy(update={"federated": True})
    classes = LABEL_MAPS[config.task].num_classes
    # The site's file is read first: a wrong folder should not cost the time of everything else.
    site_file = None if site_folder is None else load_site_file(site_folder)
    layout = initial_vector(config, num_classes=classes)[1]
    config, price = price_of(config, layout)
    planned = value_range(layout, config, max_clients=len(config.sites), noise_tail=noise_tail)
    asked = None if clients is None else value_range(layout, config, max_clients=clients, noise_tail=noise_tail)
    quorum = quorum_of(config)
    site = None if site_file is None else site_verdict(site_file, config, layout, quorum, price)
    refusals = plan_refusals(config, layout, quorum, classes=classes, of_every_site=site is None and not run.deployed)
    encryption = None
    if config.protection.mode == "encrypted":
        try:
            encryption = encryption_of(layout, config, sites=quorum.sites)
        except ConfigError as error:
            refusals.append(Finding(reason=str(error), exit_code=error.exit_code))
    traffic = None
    if not refusals:
        from secfed.preflight.rehearsal import RehearsalFailed, rehearse

        try:
            traffic = rehearse(config, layout)
        except RehearsalFailed as error:
            refusals.append(Finding(reason=f"the run in miniature failed: {error}", exit_code=error.exit_code))
    if site is not None:
        refusals += [
            Finding(reason=f"site '{site.name}': {reason}", exit_code=PolicyRefusal.exit_code)
            for reason in site.refusals
        ]
    masked = config.protection.mode == "masked"
    entries = vector_format(layout, config, cohort_size=quorum.sites).length
    return Preflight(
        config=config,
        num_parameters=layout.num_parameters,
        value_range=planned,
        value_range_asked=asked,
        quorum=quorum,
        traffic=traffic,
        masking=time_masking(entries=entries, sites=quorum.sites) if measure and masked else None,
        encryption=encryption,
        encrypting=time_encryption(encryption) if measure and encryption is not None else None,
        training=time_training(config) if measure and class_weights_problem(config, classes) is None else None,
        price=price,
        site=site,
        warnings=(
            *references_alone,
            *quorum.warnings(),
            *_range_warnings(planned),
            *_range_warnings(asked),
            *_site_warnings(site),
            *_machine_warnings(site_file, compiling=measure),
        ),
        refusals=tuple(refusals),
    )


def _site_warnings(site: SiteVerdict | None) -> list[str]:
    if site is None or site.in_run:
        return []
    return [f"The site '{site.name}' is not one of this run's [[sites]]; only its policy was compared."]


def _machine_warnings(file: SiteFile | None, *, compiling: bool) -> list[str]:
    """What the site's settings lack on this machine, which need not be the site's; compiling takes a while."""
    if file is None:
        return []
    from clients.compilation import require_compiler
    from clients.device import compute_of

    try:
        compute = compute_of(file)
        if compute.compiled and compiling:
            require_compiler(compute.device)
    except ConfigError as error:
        return [f"On this machine, the site '{file.name}' could not train as its site.toml says: {error}."]
    return []


def _range_warnings(found: ValueRange | None) -> list[str]:
    if found is None or found.update_error < COARSE:
        return []
    sites, tail = found.analysis.max_clients, found.analysis.noise_tail
    share = f"{100 * found.update_error:.3g} % of the clip norm"
    return [f"With up to {sites} sites and a noise tail of {tail}, rounding may move an update by {share}."]
