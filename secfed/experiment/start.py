"""The model that a run starts from: made from the seed, or read from the file that `start_from` names.

Runs on the experimenter's machine. The optimiser's shared moments start at zero either way.
"""

from pathlib import Path

from secfed.config import RunConfig, TrainingPlan
from secfed.data.cases import LABEL_MAPS
from secfed.errors import ConfigError, RunFolderError
from secfed.network import initial_vector
from secfed.parameters import FloatVector, ParameterLayout, load_vector


def starting_vector(config: RunConfig) -> tuple[FloatVector, ParameterLayout]:
    """What round 1 of a run starts from, shape (layout.size,).

    Raises:
        ConfigError: `start_from` is no model of this architecture.
    """
    return starting_vector_of(config, start_from=config.start_from)


def starting_vector_of(plan: TrainingPlan, *, start_from: Path | None) -> tuple[FloatVector, ParameterLayout]:
    """What round 1 of a plan starts from, shape (layout.size,).

    Raises:
        ConfigError: `start_from` is no model of this architecture.
    """
    classes = LABEL_MAPS[plan.task].num_classes
    if start_from is None:
        return initial_vector(plan, num_classes=classes)
    try:
        found, layout, _ = load_vector(start_from)
        start = found[: layout.model_size], layout.model_layout()
        return initial_vector(plan, num_classes=classes, start=start)
    except RunFolderError as error:
        raise ConfigError(f"start_from = '{start_from}': {error}") from error
    except ValueError as error:
        raise ConfigError(
            f"start_from = '{start_from}': the file holds another architecture than [model] describes: {error}"
        ) from error
