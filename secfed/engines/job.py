"""One training job: a plan, the sites that take part and the aggregator's folder. Engines run jobs and nothing else."""

from dataclasses import dataclass
from pathlib import Path

from secfed.config import TrainingPlan

AGGREGATOR_FOLDER = "aggregator"
SITES_FOLDER = "sites"


@dataclass(frozen=True, kw_only=True)
class Job:
    """`folder` holds `aggregator/` and `sites/NAME/`; `model` is the name that its results carry."""

    model: str
    folder: Path
    plan: TrainingPlan
    site_names: tuple[str, ...]

    @property
    def aggregator_folder(self) -> Path:
        """Plan, roster, initial model, checkpoints and journal."""
        return self.folder / AGGREGATOR_FOLDER

    @property
    def site_folders(self) -> tuple[Path, ...]:
        """One folder per site, in the order of `site_names`."""
        return tuple(self.folder / SITES_FOLDER / name for name in self.site_names)
