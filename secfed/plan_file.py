"""What a deployed run trains: the plan in a TOML file, for the sites that the roster names.

Read at the aggregator, and by whoever looks at a run before it starts. The same file that `secfed run` takes will do:
its sites, test sets and references are of one machine, and are left out; a deployed run has the roster's sites, each
with its own data.
"""

from dataclasses import dataclass
from pathlib import Path

from secfed.config import RunConfig, TrainingPlan, check_cohort, load_training_plan, toml_tree
from secfed.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DeployedPlan:
    """The plan, its starting model's file if it has one, and what of the file has no meaning in a deployed run."""

    plan: TrainingPlan
    start_from: Path | None
    left_out: tuple[str, ...]


def load_plan(path: Path, *, sites: int) -> DeployedPlan:
    """Read a plan for so many sites.

    Raises:
        ConfigError: no such file, a key or value that is not accepted, or a plan that these sites cannot train.
    """
    tree = toml_tree(path)
    plan, start = load_training_plan(path), tree.get("start_from")
    start_from = None if start is None else (path.parent / Path(str(start)).expanduser()).resolve()
    if plan.federation.normalisation == "fednorm":
        raise ConfigError(
            f"{path}: federation.normalisation = 'fednorm': whether two sites hold each modality cannot be known "
            "before a deployed run, and the sum over one alone would be its update: use 'shared', 'fedbn' or 'silobn'"
        )
    try:
        check_cohort(plan, sites=sites)
    except ValueError as error:
        raise ConfigError(f"{path}, for the {sites} sites of the roster: {error}") from error
    only_here = set(RunConfig.model_fields) - set(TrainingPlan.model_fields) - {"start_from"}
    return DeployedPlan(plan=plan, start_from=start_from, left_out=tuple(sorted(only_here & set(tree))))
