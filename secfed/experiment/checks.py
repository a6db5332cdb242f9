"""What a configuration can get wrong that its tables alone cannot tell: names and sizes that belong to the task.

Run before a run folder is made, so that a slip costs seconds and not the time until it is met.
"""

from secfed.config import RunConfig, SiteConfig, TestSetConfig
from secfed.data.cases import LABEL_MAPS, Modality
from secfed.errors import ConfigError


def check_run(config: RunConfig) -> None:
    """Raises ConfigError, naming the key, for a run that would fail on its way."""
    require_known_phantoms(config)
    problem = class_weights_problem(config, LABEL_MAPS[config.task].num_classes)
    if problem is not None:
        raise ConfigError(problem)


def require_known_phantoms(config: RunConfig) -> None:
    """The names that only generating would look up; raises ConfigError."""
    from secfed.data.phantom.population import population_named
    from secfed.data.phantom.protocol import PROTOCOLS, protocol_named

    for source in (*config.sites, *config.test):
        if source.phantom is None:
            continue
        name = source.phantom.protocol
        if isinstance(source, TestSetConfig) and name not in PROTOCOLS:
            raise ConfigError(
                f"test set '{source.name}': protocol = {name!r}: known are {', '.join(sorted(PROTOCOLS))}"
            )
        if isinstance(source, SiteConfig):
            protocol_named(name, modality=Modality(source.modality))
        population_named(source.phantom.population)


def class_weights_problem(config: RunConfig, classes: int) -> str | None:
    """Why the loss does not fit the task, or None: it takes one weight per class, or none at all."""
    weights = config.training.class_weights
    if weights is None or len(weights) == classes:
        return None
    return f"training.class_weights has {len(weights)} numbers, but '{config.task}' has {classes} classes"
