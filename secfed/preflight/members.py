"""A plan for a deployed run as the preflight looks at it: with the roster's members for its sites.

Such a plan names no sites, because they are the roster's. Their data and modalities are their own and not known here,
so what depends on them is counted as for CT of one batch a step.
"""

from dataclasses import dataclass
from pathlib import Path

from secfed.config import RunConfig, SiteConfig, TrainingPlan, load_run_config, toml_tree
from secfed.errors import ConfigError
from secfed.plan_file import load_plan
from secfed.provisioning.roster_file import load_roster

_THEIR_OWN = Path("at the site")


@dataclass(frozen=True, kw_only=True)
class RunToLookAt:
    """A run's configuration. Sites of a `deployed` run have policies of their own, others those of `secfed run`."""

    config: RunConfig
    deployed: bool = False


def run_to_look_at(path: Path, *, site: Path | None, roster: Path | None) -> RunToLookAt:
    """The run that a file describes: a deployed one of the members in the folder of `roster`, if that is given.

    A file that names no sites is a deployed run's too; its members are then in the folder of `site`.

    Raises:
        ConfigError: the file cannot be used, or nothing says who the sites are.
    """
    names_sites = "sites" in toml_tree(path)
    folder = roster if roster is not None or names_sites else site
    if folder is not None:
        return RunToLookAt(config=config_for_members(path, folder), deployed=True)
    if not names_sites:
        raise ConfigError(
            f"{path}: names no [[sites]]. A run on this machine needs them; those of a deployed run are the members of "
            "a roster: --roster FOLDER, or --site FOLDER"
        )
    return RunToLookAt(config=load_run_config(path))


def config_for_members(path: Path, folder: Path) -> RunConfig:
    """The plan in `path` for the members of the roster in `folder`, a site's or the aggregator's.

    Raises:
        ConfigError: the plan or the roster cannot be used, or these members cannot train the plan.
    """
    roster = load_roster(folder)
    deployed = load_plan(path, sites=len(roster.names))
    shared = {name: getattr(deployed.plan, name) for name in TrainingPlan.model_fields}
    sites = tuple(SiteConfig(name=name, modality="CT", folder=_THEIR_OWN) for name in roster.names)
    return RunConfig(**shared, sites=sites, start_from=deployed.start_from)
