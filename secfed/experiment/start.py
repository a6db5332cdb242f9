"""The model that a run starts from: made from the seed, or read from the file that `start_from` names.

Runs on the experimenter's machine. The optimiser's shared moments start at zero either way.
"""

from secfed.config import RunConfig
from secfed.data.cases import LABEL_MAPS
from secfed.errors import ConfigError, RunFolderError
from secfed.network import initial_vector
from secfed.parameters import FloatVector, ParameterLayout, load_vector


def starting_vector(config: RunConfig) -> tuple[FloatVector, ParameterLayout]:
    """What round 1 starts from, shape (layout.size,).

    Raises:
        ConfigError: `start_from` is no model of this architecture.
    """
    classes = LABEL_MAPS[config.task].num_classes
    if config.start_from is None:
        return initial_vector(config, num_classes=classes)
    try:
        found, layout, _ = load_vector(config.start_from)
        start = found[: layout.model_size], layout.model_layout()
        return initial_vector(config, num_classes=classes, start=start)
    except RunFolderError as error:
        raise ConfigError(f"start_from = '{config.start_from}': {error}") from error
    except ValueError as error:
        raise ConfigError(
            f"start_from = '{config.start_from}': the file holds another architecture than [model] describes: {error}"
        ) from error
