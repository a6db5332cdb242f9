"""The grid as a TOML file: scales, site sets, methods, and experiments with their variants.

A variant that cannot be read is no reason to stop: it keeps its place with the reason, and the rest goes on. What is
wrong with the file as a whole (no TOML, an unknown key at the top, a scale that is not there) is a ConfigError.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from secfed.config import describe_validation_error
from secfed.config_table import PositiveInt, Table
from secfed.errors import ConfigError

Tree = dict[str, Any]
Training = Literal["federated", "centralised", "single_site"]


class ScaleTable(Table):
    """How large everything is: `cases` per site of share 1, `test_cases` per test set, and tables of the runs.

    `small` changes whatever a variant asks for, last: how a smoke run makes everything tiny.
    """

    seeds: tuple[int, ...]
    cases: PositiveInt
    validation_cases: int = 1
    test_cases: PositiveInt
    private_cases: PositiveInt
    run: Tree = Field(default_factory=dict)
    small: Tree = Field(default_factory=dict)


class SiteTable(Table):
    """One site or test set of a site set; `share` of the scale's cases, at least one.

    `private` sites hold the scale's private cases; `generated` ones stay phantoms where all others are real.
    """

    name: str
    modality: Literal["CT", "MR"]
    protocol: str
    population: str = "north"
    share: float = 1.0
    private: bool = False
    generated: bool = False


class VariantTable(Table):
    """One way of training. Tables in `set` change the run's; `start` names a variant whose model is started from.

    `profile`, `sites` and `method` take the place of the experiment's.
    """

    name: str
    note: str = ""
    sites: str | None = None
    method: str | None = None
    profile: str | None = None
    train: Training = "federated"
    start: str | None = None
    seeds: PositiveInt | None = None
    set: Tree = Field(default_factory=dict)


class ExperimentTable(Table):
    """One question; `sites`, `method` and `set` are what its variants have where they say nothing.

    `tests` names the test sets, by default those of the task. A `late` experiment gives way: its further seeds come
    after those of all others.
    """

    key: str
    title: str
    question: str
    kind: Literal["methods", "frontier", "cost", "table"]
    task: Literal["abdomen", "whole_heart"] = "abdomen"
    reference: str | None = None
    profile: str = "run"
    late: bool = False
    tests: str | None = None
    sites: str | None = None
    method: str = "none"
    set: Tree = Field(default_factory=dict)
    variants: tuple[Tree, ...]


class GridTable(Table):
    """The whole file. `profiles` are sets of run tables, of which "run" is the usual one.

    `pictured` names the variants whose segmentations the report shows, as "experiment/variant".
    """

    name: str
    scales: dict[str, ScaleTable]
    site_sets: dict[str, tuple[SiteTable, ...]]
    test_sets: dict[str, tuple[SiteTable, ...]]
    methods: dict[str, Tree]
    profiles: dict[str, Tree]
    tasks: dict[str, Tree] = Field(default_factory=dict)
    pictured: tuple[str, ...] = ()
    experiments: tuple[ExperimentTable, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid at one scale."""

    table: GridTable
    scale_name: str

    @property
    def scale(self) -> ScaleTable:
        """The sizes."""
        return self.table.scales[self.scale_name]


def load_grid(path: Path, *, scale: str) -> Grid:
    """Read the grid's file.

    Raises:
        ConfigError: the file is missing, is no grid, or has no such scale.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
        table = GridTable.model_validate(tree)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, GridTable, origin=str(path))) from None
    if scale not in table.scales:
        raise ConfigError(f"{path}: no scale '{scale}'; it has {', '.join(sorted(table.scales))}")
    keys = [experiment.key for experiment in table.experiments]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"{path}: the experiment '{twice[0]}' stands twice")
    return Grid(table=table, scale_name=scale)


def named(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """An entry by its name; raises ConfigError that names the nearest one."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"
    raise ConfigError(f"{kind} '{name}' is unknown: {hint}")


def merged(*trees: Mapping[str, Any]) -> Tree:
    """Tables over tables; a later value takes the place of an earlier one."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            inner = result.get(key)
            result[key] = merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return result
