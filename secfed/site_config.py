"""A site's own file, `site.toml`: its name, its data and what it allows. No run configuration can change it.

Runs at the site only. The stricter of policy and plan wins; what the policy does not allow is refused.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError

from secfed.config import (
    EncryptionScheme,
    LayoutName,
    ModalityName,
    ModelConfig,
    ProtectionMode,
    SiteName,
    TrainingPlan,
    describe_validation_error,
)
from secfed.config_table import Positive, PositiveInt, Table
from secfed.errors import ConfigError, PolicyRefusal
from secfed.privacy_config import PrivacyMode
from secfed.whole_file import write_whole

SITE_FILE = "site.toml"
DeviceName = Literal["auto", "cpu", "cuda"]
Architecture = Literal["unet", "basic_unet"]
MetricName = Literal["train_loss", "validation"]
Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")]


def _known_devices(given: object) -> object:
    numbers = given if isinstance(given, list | tuple) else [given]
    lowest = 0 if numbers is given else 1
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number >= lowest for number in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise ValueError("give how many devices, at least 1, or a list of different numbers of CUDA devices, from 0")
    return tuple(numbers) if numbers is given else given


Devices = Annotated[int | tuple[int, ...], BeforeValidator(_known_devices)]
PublicKeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Computing(Table):
    """How whoever owns the machine has it train; as the device, no run's plan can say it.

    `devices` is how many train one batch together (clients.replicas), or which CUDA devices; on a CPU it is processes.
    `compile` has torch.compile make the network (clients.compilation).
    """

    devices: Devices = 1
    compile: bool = False

    @property
    def replicas(self) -> int:
        """How many devices train together."""
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    def check_plan(self, plan: TrainingPlan) -> None:
        """Raise PolicyRefusal, naming the setting, for a plan that cannot be trained in this way."""
        mode, training = plan.privacy.mode, plan.training
        if mode != "off" and self.replicas > 1:
            raise PolicyRefusal(
                f"devices = {self.shown_devices}: privacy.mode = '{mode}' is trained on one device, where every "
                "patient is clipped alone; set devices to one device for this run"
            )
        if mode != "off" and self.compile:
            raise PolicyRefusal(
                f"compile = true: privacy.mode = '{mode}' trains the network that was asked whether it keeps patients "
                "apart, and not one that a compiler made of it; set compile to false for this run"
            )
        if training.batch_cases is None:
            self.check_step(training.batch_size)

    def check_step(self, images: int) -> None:
        """Raise PolicyRefusal where a step has fewer images than there are devices: one would have nothing to do."""
        if images < self.replicas:
            raise PolicyRefusal(
                f"devices = {self.shown_devices}: a step of this plan has {images} images here, and every device "
                f"needs one; set devices to at most {images}"
            )

    @property
    def shown_devices(self) -> str:
        """As it stands in site.toml."""
        return str(self.devices if isinstance(self.devices, int) else list(self.devices))


ONE_DEVICE = Computing()
"""What is always there: one device, and the network as it is."""


class SitePolicy(Table):
    """What this site accepts. The defaults are for a masked run of several hospitals.

    `second_sum` and `min_cohort_change` bound what the difference of two sums may say (privacy.secagg.differencing).
    `min_samples_per_round` is for the site's own slices or patches: an update over few of them shows them. `privacy`
    lists the modes of differential privacy that a run may have; `max_epsilon` at `max_delta` is what all runs together
    may spend on one data set of this site. `architectures` lists the models that may be trained, and `metrics` what may
    travel beside the update, inside the protected vector: the mean training loss, and validation Dice with its counts.
    `log_fields`, where given, are the only details that the site's audit log holds (secfed.audit_log.FIELDS).
    """

    protection: tuple[ProtectionMode, ...] = ("masked",)
    encryption_schemes: tuple[EncryptionScheme, ...] = ("bfv",)
    privacy: tuple[PrivacyMode, ...] = ("off", "clip_only", "local", "distributed", "silo")
    max_epsilon: Positive = 8.0
    max_delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-4
    min_cohort: PositiveInt = 3
    min_threshold: PositiveInt | None = None
    min_cohort_change: PositiveInt = 1
    second_sum: Literal["same survivors", "any"] = "same survivors"
    architectures: tuple[Architecture, ...] = ("unet", "basic_unet")
    metrics: tuple[MetricName, ...] = ("train_loss", "validation")
    max_parameters: PositiveInt = 200_000_000
    max_rounds: PositiveInt = 10_000
    min_samples_per_round: PositiveInt = 1
    log_fields: tuple[str, ...] | None = None

    def check_plan(self, plan: TrainingPlan, *, num_parameters: int) -> None:
        """Raise PolicyRefusal, naming the rule, for a plan that this site does not take part in."""
        if plan.protection.mode not in self.protection:
            raise PolicyRefusal(
                f"the run asks for protection = '{plan.protection.mode}', "
                f"but this site's policy allows only {list(self.protection)}"
            )
        if plan.protection.mode == "encrypted" and plan.protection.scheme not in self.encryption_schemes:
            raise PolicyRefusal(
                f"the run asks for protection.scheme = '{plan.protection.scheme}', "
                f"but this site's policy allows only {list(self.encryption_schemes)}"
            )
        if plan.privacy.mode not in self.privacy:
            raise PolicyRefusal(
                f"the run asks for privacy.mode = '{plan.privacy.mode}', "
                f"but this site's policy allows only {list(self.privacy)}"
            )
        if plan.privacy.resolved_delta > self.max_delta:
            raise PolicyRefusal(
                f"the run's delta is {plan.privacy.resolved_delta:g}, but this site's policy allows {self.max_delta:g}"
            )
        self._check_model(plan.model)
        self._check_metrics(plan)
        if num_parameters > self.max_parameters:
            raise PolicyRefusal(
                f"the model has {num_parameters} parameters, but this site's policy allows {self.max_parameters}"
            )
        if plan.federation.rounds > self.max_rounds:
            raise PolicyRefusal(
                f"the run asks for {plan.federation.rounds} rounds, but this site's policy allows {self.max_rounds}"
            )

    def _check_model(self, model: ModelConfig) -> None:
        if model.architecture not in self.architectures:
            raise PolicyRefusal(
                f"the run trains model.architecture = '{model.architecture}', "
                f"but this site's policy allows only {list(self.architectures)}"
            )

    def _check_metrics(self, plan: TrainingPlan) -> None:
        # Under differential privacy no metric of private cases travels at all (secfed.protected_vector).
        if plan.privacy.guarantees:
            return
        if "train_loss" not in self.metrics:
            raise PolicyRefusal(
                "the run's updates carry the mean training loss, which this site's policy does not let out "
                f"(metrics = {list(self.metrics)})"
            )
        if plan.federation.validate_every and "validation" not in self.metrics:
            raise PolicyRefusal(
                f"the run validates every {plan.federation.validate_every} rounds, and this site's policy does not let "
                f"validation scores out (metrics = {list(self.metrics)})"
            )

    def check_samples(self, samples: int) -> None:
        """Raise PolicyRefusal for a round that would draw fewer slices or patches than this site accepts."""
        if samples < self.min_samples_per_round:
            raise PolicyRefusal(
                f"a round of this plan draws {samples} slices or patches here, below this site's "
                f"min_samples_per_round = {self.min_samples_per_round}"
            )

    def check_cohort(self, size: int) -> None:
        """Raise PolicyRefusal for a cohort smaller than this site accepts."""
        if size < self.min_cohort:
            raise PolicyRefusal(f"a cohort of {size} sites is below this site's min_cohort = {self.min_cohort}")


class SiteData(Table):
    """One data set at the site: a folder, or the CSV file of a table, and the cache for its preprocessed volumes.

    `layout` is for a folder that could be of two (secfed.data.readers); `organs`, where given, are the only ones that
    count as drawn; `channel` is the one to read of scans with several.
    """

    name: SiteName
    folder: Path
    cache: Path
    modality: ModalityName | None = None
    layout: LayoutName | None = None
    organs: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    channel: Annotated[int, Field(ge=0)] | None = None


class SiteFile(Table):
    """The whole of `site.toml`. Several data sets are for the centralised reference.

    `durable_state` forces every change of the protocol state to the disk, whole, before its message leaves, so that
    neither a kill nor a power cut can bring back a state whose upload was already sent. Only a simulation turns it off:
    there all parties stop together, and what goes on afterwards is a new session with new keys.

    `consortium` and `superlink`, as "fl.example.org:443", say whom a deployed site belongs to and calls; `reviewer` is
    the public key of who approves the code that this site runs (secfed.provisioning.approvals). `device`, `devices` and
    `compile` are what it trains on (Computing).
    """

    name: SiteName
    consortium: SiteName | None = None
    superlink: Address | None = None
    reviewer: PublicKeyHex | None = None
    durable_state: bool = True
    device: DeviceName = "auto"
    devices: Devices = 1
    compile: bool = False
    data: Annotated[tuple[SiteData, ...], Field(min_length=1)]
    policy: SitePolicy = SitePolicy()

    @property
    def computing(self) -> Computing:
        """How the site trains."""
        return Computing(devices=self.devices, compile=self.compile)


def load_site_file(folder: Path) -> SiteFile:
    """Read `site.toml` of a site folder, relative paths from there; raises ConfigError that names file and key."""
    path = folder / SITE_FILE
    try:
        site = SiteFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file: a site folder holds a {SITE_FILE}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, SiteFile, origin=str(path))) from None
    data = tuple(
        one.model_copy(update={"folder": folder / one.folder.expanduser(), "cache": folder / one.cache.expanduser()})
        for one in site.data
    )
    return site.model_copy(update={"data": data})


def save_site_file(folder: Path, site: SiteFile) -> None:
    """Write `site.toml` atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    text = tomli_w.dumps(site.model_dump(mode="json", exclude_none=True))
    write_whole(folder / SITE_FILE, text.encode(), durable=True)
