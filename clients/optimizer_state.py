"""AdamW's moments between rounds: on the site's disk, or in the vector that sites share.

Runs at sites. One file per round, named by the round whose training it ends (clients.round_files). The files are local:
moments say as much about the data as updates do and are never sent. They are safetensors, which holds no code.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clients.round_files import RoundFiles
from secfed.errors import RunFolderError
from secfed.parameters import FloatVector, ParameterLayout, TensorSpec, load_vector, save_vector

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class OptimizerStates:
    """The states in one folder; `owner` says whose they are (run and sites) and is checked on restoring.

    `durable` states survive a power cut too.
    """

    folder: Path
    owner: str = field(kw_only=True)
    durable: bool = field(default=True, kw_only=True)

    def save(self, model: nn.Module, optimizer: torch.optim.AdamW, *, server_round: int) -> None:
        """Write the state that `server_round` ends with; keep the last three rounds and no later ones."""
        states = [optimizer.state[parameter] for parameter in model.parameters()]
        # With float16 every step of a short round may have been skipped for overflow; then there is no state yet.
        if all(states):
            moments = [state[moment].detach().reshape(-1).float() for moment in _MOMENTS for state in states]
            # AdamW counts steps per parameter, and all parameters take every step.
            metadata = {"steps": str(int(states[0]["step"])), "owner": self.owner}
            path = self._files.path(server_round)
            save_vector(path, torch.cat(moments).cpu().numpy(), _moment_layout(model), metadata, durable=self.durable)
        self._files.prune(server_round)

    def restore(self, model: nn.Module, optimizer: torch.optim.AdamW, *, before: int) -> bool:
        """Load the newest state of a round below `before` into a fresh optimiser; False where there is none.

        Raises:
            RunFolderError: the file is damaged, or belongs to another run, other sites or another model.
        """
        path = self._files.newest(before=before)
        if path is None:
            return False
        vector, layout, metadata = load_vector(path)
        if metadata.get("owner") != self.owner or layout != _moment_layout(model):
            raise RunFolderError(
                f"{path}: belongs to another run, other sites or another model; use another state folder"
            )
        values = torch.from_numpy(vector)
        views = iter([values[place].view(spec.shape) for spec, place in layout.slices()])
        moments = {moment: [next(views) for _ in model.parameters()] for moment in _MOMENTS}
        steps = torch.tensor(float(metadata["steps"]))
        state = {
            index: {"step": steps.clone(), **{moment: moments[moment][index] for moment in _MOMENTS}}
            for index in range(len(list(model.parameters())))
        }
        # AdamW moves the moments to each parameter's device.
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return True

    @property
    def _files(self) -> RoundFiles:
        return RoundFiles(self.folder, "optimizer-round")


def load_shared(model: nn.Module, optimizer: torch.optim.AdamW, moments: FloatVector, *, steps_taken: int) -> None:
    """Give a fresh optimiser the averaged moments (2 * num_parameters,): first moments, then roots of second moments.

    By the Cauchy-Schwarz inequality the first moment is at most a constant times the root of the second. Where
    fixed-point rounding broke that, the root is raised: a second moment rounded to nothing would turn a rounding error
    into a large step.
    """
    if not steps_taken:
        return
    parameters = list(model.parameters())
    first, root = (torch.from_numpy(half.copy()) for half in np.split(moments, 2))
    second = torch.maximum(root, first.abs() / _largest_ratio(*optimizer.defaults["betas"])).square()
    sizes = [parameter.numel() for parameter in parameters]
    state = {
        index: {
            "step": torch.tensor(float(steps_taken)),
            "exp_avg": exp_avg.view_as(parameter),
            "exp_avg_sq": exp_avg_sq.view_as(parameter),
        }
        for index, (parameter, exp_avg, exp_avg_sq) in enumerate(
            zip(parameters, torch.split(first, sizes), torch.split(second, sizes), strict=True)
        )
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _largest_ratio(beta1: float, beta2: float) -> float:
    """Bound of |first moment| / root of the second, over all sequences of gradients; needs beta1^2 < beta2."""
    return (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))


def shared_moments(model: nn.Module, optimizer: torch.optim.AdamW) -> FloatVector:
    """The moments to be averaged, (2 * num_parameters,); zeros where every step was skipped for overflow."""
    states = [optimizer.state.get(parameter) or {} for parameter in model.parameters()]

    def flat(moment: str) -> torch.Tensor:
        parts = [
            state[moment].detach().float().reshape(-1) if state else torch.zeros(parameter.numel())
            for parameter, state in zip(model.parameters(), states, strict=True)
        ]
        return torch.cat([part.cpu() for part in parts])

    moments: FloatVector = torch.cat([flat("exp_avg"), flat("exp_avg_sq").sqrt()]).numpy()
    return moments


def _moment_layout(model: nn.Module) -> ParameterLayout:
    return ParameterLayout(
        tuple(
            TensorSpec(f"{moment}/{name}", tuple(parameter.shape), "buffer")
            for moment in _MOMENTS
            for name, parameter in model.named_parameters()
        )
    )
