"""From a grid to its cells: one run configuration per variant and seed, named by its hash.

Equal configurations of two experiments are one cell, trained once. A cell's paths are relative to the study's folder,
so that its hash says the same on every machine.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from benchmarks.utility.grid_file import ExperimentTable, Grid, SiteTable, Tree, VariantTable, merged, named
from benchmarks.utility.real_data import RealData
from secfed.config import RunConfig, describe_validation_error, parse_run_config
from secfed.errors import ConfigError
from secfed.experiment.job_process import MODEL

RUNS = "cells"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model at one seed: the model `model` of the run that `config` describes; or why there is none.

    `needs` is the key of the run whose model it starts from.
    """

    experiment: str
    variant: str
    note: str
    seed: int
    task: str
    config: RunConfig | None
    model: str = "federated"
    needs: str | None = None
    problem: str | None = None

    @property
    def run_key(self) -> str:
        """Name of the run's folder."""
        if self.config is None:
            text = json.dumps([self.experiment, self.variant, self.seed])
            return f"bad-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return self.config.run_digest()[:16]

    @property
    def key(self) -> str:
        """Unique in the study."""
        return f"{self.run_key}-{self.model.replace(':', '-').lower()}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the scans of a study's cells come from.

    `real` has site folders made from real scans, which take the place of phantoms; `tuning` says that models are tested
    on patients who are no test patients, so that whoever chooses settings by them has looked at none.
    """

    real: RealData | None = None
    tuning: bool = False


def cells_of(
    grid: Grid,
    *,
    real: RealData | None = None,
    only: tuple[str, ...] = (),
    seeds: int | None = None,
    tuning: bool = False,
) -> list[Cell]:
    """Every cell of the grid, the first seed of all experiments first, so that a stopped study is a balanced one.

    On real scans, every experiment is about the task that they are labelled for; those about another one are left out.

    Raises:
        ConfigError: `only` names an experiment that is not there, or tuning patients are asked for among real ones.
    """
    if real is not None and tuning:
        raise ConfigError("tuning patients are phantoms: choose settings on them, or on validation data of your own")
    source = Source(real=real, tuning=tuning)
    for key in only:
        named("experiment", key, {experiment.key: experiment for experiment in grid.table.experiments})
    chosen = [experiment for experiment in grid.table.experiments if not only or experiment.key in only]
    if real is not None:
        usual = ExperimentTable.model_fields["task"].default
        chosen = [one.model_copy(update={"task": real.task, "tests": None}) for one in chosen if one.task == usual]
    turns = [
        (place > 0 and experiment.late, place, seed, experiment)
        for place, seed in enumerate(grid.scale.seeds[:seeds])
        for experiment in chosen
    ]
    turns.sort(key=lambda turn: turn[:2])
    found: list[Cell] = []
    for _, place, seed, experiment in turns:
        found += _cells(grid, experiment, seed=seed, place=place, source=source)
    return found


def _cells(grid: Grid, experiment: ExperimentTable, *, seed: int, place: int, source: Source) -> Iterator[Cell]:
    for tree in experiment.variants:
        name = str(tree.get("name", "without a name"))
        try:
            variant = VariantTable.model_validate(tree)
            if variant.seeds is not None and place >= variant.seeds:
                continue
            yield from _cell(grid, experiment, variant, seed=seed, source=source)
        except ValidationError as error:
            problem = describe_validation_error(error, VariantTable, origin=f"{experiment.key}/{name}")
            yield _bad(experiment, name, seed, problem)
        except ConfigError as error:
            yield _bad(experiment, name, seed, f"{experiment.key}/{name}: {error}")


def _bad(experiment: ExperimentTable, name: str, seed: int, problem: str) -> Cell:
    return Cell(
        experiment=experiment.key,
        variant=name,
        note="",
        seed=seed,
        task=experiment.task,
        config=None,
        problem=problem,
    )


def _cell(
    grid: Grid, experiment: ExperimentTable, variant: VariantTable, *, seed: int, source: Source
) -> Iterator[Cell]:
    tree = _tree(grid, experiment, variant, seed=seed, source=source)
    needs = None
    if variant.start is not None:
        needs = _needed(grid, experiment, variant.start, seed=seed, source=source).run_key
        tree["start_from"] = f"{RUNS}/{needs}/{MODEL}"
    config = parse_run_config(tree, origin=f"{experiment.key}/{variant.name}")
    models = _models(config)
    for model in models:
        name = variant.name if len(models) == 1 else f"{variant.name}: {model.partition(':')[2]}"
        yield Cell(
            experiment=experiment.key,
            variant=name,
            note=variant.note,
            seed=seed,
            task=experiment.task,
            config=config,
            model=model,
            needs=needs,
        )


def _models(config: RunConfig) -> list[str]:
    """Names alone, as `job_specs` gives them: a plan may need a model that is not trained yet."""
    if config.federated:
        return ["federated"]
    if config.references == ("single_site",):
        return [f"site:{site.name}" for site in config.sites]
    return list(config.references)


def _needed(grid: Grid, experiment: ExperimentTable, name: str, *, seed: int, source: Source) -> Cell:
    """The cell of the same experiment and seed whose model is started from."""
    trees = {str(tree.get("name")): tree for tree in experiment.variants}
    variant = VariantTable.model_validate(named("variant", name, trees))
    if variant.start is not None:
        raise ConfigError(f"start = '{name}': that variant starts from another one itself")
    [cell] = _cell(grid, experiment, variant, seed=seed, source=source)
    return cell


def _tree(grid: Grid, experiment: ExperimentTable, variant: VariantTable, *, seed: int, source: Source) -> Tree:
    table, scale = grid.table, grid.scale
    sites_name = variant.sites or experiment.sites
    if sites_name is None:
        raise ConfigError("neither the experiment nor the variant says which sites: sites = 'NAME'")
    sites: tuple[SiteTable, ...] = named("site set", sites_name, table.site_sets)
    tests: tuple[SiteTable, ...] = named("test set", experiment.tests or experiment.task, table.test_sets)
    method: Tree = named("method", variant.method or experiment.method, table.methods)
    profile_name = variant.profile or experiment.profile
    profile: Tree = named("profile", profile_name, table.profiles)
    tree = merged(
        named("profile", "run", table.profiles),
        scale.run,
        profile if profile_name != "run" else {},
        table.tasks.get(experiment.task, {}),
        {"augmentation": method},
        experiment.set,
        variant.set,
        _trained(variant.train, len(sites)),
        scale.small,
    )
    tree |= {
        "name": grid.table.name,
        "seed": seed,
        "task": experiment.task,
        "sites": [_site(site, sites_name, grid, source=source) for site in sites],
        "test": [_test(test, grid, source=source) for test in tests if _has_tests(test, source)],
    }
    return tree


def _trained(train: str, sites: int) -> Tree:
    # A single site has nobody to agree with; whoever trains alone runs in plain.
    alone = {"federation": {"min_cohort": 1}, "protection": {"mode": "plain"}} if sites == 1 else {}
    if train == "federated":
        return alone
    return {"federated": False, "references": [train], "protection": {"mode": "plain"}, **alone}


def _site(site: SiteTable, sites_name: str, grid: Grid, *, source: Source) -> Tree:
    entry: Tree = {"name": site.name, "modality": site.modality}
    scale = grid.scale
    if source.real is not None and not site.generated:
        folders = source.real.sites.get(sites_name)
        if folders is None:
            raise ConfigError(f"site set '{sites_name}' needs a modality of which the data have no labelled scan")
        return {**entry, "folder": folders[site.name]}
    cases = scale.private_cases if site.private else scale.cases
    phantom: Tree = {"population": site.population, "protocol": site.protocol}
    phantom["train"] = max(1, round(site.share * cases))
    if scale.validation_cases and not site.private:
        phantom["validation"] = scale.validation_cases
    return {**entry, "phantom": phantom}


def _test(test: SiteTable, grid: Grid, *, source: Source) -> Tree:
    if source.real is not None:
        return {"name": test.name, "folder": source.real.tests[test.modality]}
    # The same test patients at every seed, so that methods are compared over patients.
    seed = _fixed_seed(test.name, tuning=source.tuning)
    phantom = {"population": test.population, "protocol": test.protocol, "test": grid.scale.test_cases, "seed": seed}
    return {"name": test.name, "phantom": phantom}


def _has_tests(test: SiteTable, source: Source) -> bool:
    return source.real is None or test.modality in source.real.tests


def _fixed_seed(name: str, *, tuning: bool) -> int:
    # Settings were chosen on the patients of "tuning patients" and of "test patients", which nobody is tested on now.
    purpose = "tuning patients" if tuning else "held-out patients"
    return int.from_bytes(hashlib.sha256(f"secfed utility/{purpose}/{name}".encode()).digest()[:6], "big")
