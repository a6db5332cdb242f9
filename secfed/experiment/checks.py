"""What a configuration can get wrong that its tables alone cannot tell: names and sizes that belong to the task.

Run before a run folder is made, so that a slip costs seconds and not the time until it is met.
"""

from collections.abc import Iterable

from secfed.config import DataSource, RunConfig
from secfed.data.cases import LABEL_MAPS, Modality
from secfed.errors import ConfigError, PolicyRefusal
from secfed.experiment.plans import JobSpec
from secfed.site_config import ONE_DEVICE, Computing


def check_run(config: RunConfig) -> None:
    """Raises ConfigError, naming the key, for a run that would fail on its way."""
    require_known_phantoms(config)
    problem = class_weights_problem(config, LABEL_MAPS[config.task].num_classes)
    if problem is not None:
        raise ConfigError(problem)


def check_computing(computing: Computing, specs: Iterable[JobSpec]) -> None:
    """Raises ConfigError where this machine or a job cannot be trained on as was asked; one device is always there."""
    if computing == ONE_DEVICE:
        return
    from clients.compilation import require_compiler
    from clients.device import compute_with

    for spec in specs:
        try:
            computing.check_plan(spec.plan)
        except PolicyRefusal as error:
            raise ConfigError(f"job '{spec.model}': {error}") from None
    compute = compute_with("auto", computing)
    if compute.compiled:
        require_compiler(compute.device)


def require_known_phantoms(config: RunConfig) -> None:
    """The names that only generating would look up, and that they belong to the task; raises ConfigError."""
    for site in config.sites:
        _require_known(site, f"site '{site.name}'", modality=Modality(site.modality), task=config.task)
    for test in config.test:
        modality = None if test.modality is None else Modality(test.modality)
        _require_known(test, f"test set '{test.name}'", modality=modality, task=config.task)


def _require_known(source: DataSource, whose: str, *, modality: Modality | None, task: str) -> None:
    from secfed.data.phantom.population import population_named
    from secfed.data.phantom.protocol import protocol_named

    if source.phantom is None:
        return
    try:
        protocol_named(source.phantom.protocol, modality=modality, task=task)
        population_named(source.phantom.population)
    except ConfigError as error:
        raise ConfigError(f"{whose}: {error}") from None


def class_weights_problem(config: RunConfig, classes: int) -> str | None:
    """Why the loss does not fit the task, or None: it takes one weight per class, or none at all."""
    weights = config.training.class_weights
    if weights is None or len(weights) == classes:
        return None
    return f"training.class_weights has {len(weights)} numbers, but '{config.task}' has {classes} classes"
