"""The model that a run starts from: made from the seed, or read from the file that `start_from` names.

Runs on the experimenter's machine. The optimiser's shared moments start at zero either way.
"""

from secfed.config import RunConfig
from secfed.data.cases import LABEL_MAPS
from secfed.errors import ConfigError, RunFolderError
from secfed.model import initial_vector
from secfed.parameters import FloatVector, ParameterLayout, load_vector


def starting_vector(config: RunConfig) -> tuple[FloatVector, ParameterLayout]:
    """What round 1 starts from, shape (layout.size,).

    Raises:
        ConfigError: `start_from` is no model of this architecture.
    """
    vector, layout = initial_vector(config, num_classes=LABEL_MAPS[config.task].num_classes)
    if config.start_from is None:
        return vector, layout
    try:
        found, found_layout, _ = load_vector(config.start_from)
    except RunFolderError as error:
        raise ConfigError(f"start_from = '{config.start_from}': {error}") from error
    if found_layout.model_layout() != layout.model_layout():
        raise ConfigError(
            f"start_from = '{config.start_from}': the file holds another architecture than [model] describes "
            f"({found_layout.model_size} values, {layout.model_size} are needed, with the same names and shapes)"
        )
    vector[: layout.model_size] = found[: layout.model_size]
    return vector, layout
