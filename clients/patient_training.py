"""The network of a round, trained patient by patient: lots, gradients, and where the trained parameters stand.

Runs at a site. Every patient has generators of its own, seeded by the round and the patient's key: what one patient's
images and views are does not depend on who else is in the lot. Their seeds are public, which costs nothing: the
guarantee holds whatever the views are. Who is in a lot, and the noise, come from privacy's keyed streams.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clients.local_steps import precision_of
from clients.loss import segmentation_loss
from clients.marginal_loss import marginal_segmentation_loss
from clients.patients import Patient, patient_views
from clients.training import flushed_denormals, network_for
from privacy.clipped_sum import ClippedSum
from privacy.patientwise import PatientLoop, trainable_parameters
from secfed.config import TrainingPlan
from secfed.model import load_flat
from secfed.parameters import FloatVector, ParameterLayout


class PatientTraining:
    """One round's network and its patients; build it with `opened`."""

    def __init__(
        self,
        network: nn.Module,
        *,
        plan: TrainingPlan,
        layout: ParameterLayout,
        patients: tuple[Patient, ...],
        server_round: int,
        device: torch.device,
    ) -> None:
        self.network = network
        self.plan = plan
        self.patients = patients
        self.positions = trained_positions(network, layout)
        self.mean_losses: list[Tensor] = []
        self._server_round = server_round
        self._device = device
        weights = plan.training.class_weights
        self._class_weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
        self._loop = PatientLoop(
            network,
            loss=self._loss,
            clip_norm=plan.privacy.clip_norm,
            example=_blank_views(plan, device),
            precision=precision_of(plan.training),
        )
        self.mean_losses.clear()

    @classmethod
    @contextmanager
    def opened(
        cls,
        *,
        plan: TrainingPlan,
        layout: ParameterLayout,
        patients: tuple[Patient, ...],
        start: FloatVector,
        server_round: int,
        device: torch.device,
    ) -> Iterator[Self]:
        """The network at `start` (layout.size,); torch's global state is as before afterwards.

        Raises:
            MisuseError: the network or the loss couples patients.
        """
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), flushed_denormals():
            network = network_for(plan, device).train()
            load_flat(network, start[: layout.model_size], layout.model_layout())
            yield cls(network, plan=plan, layout=layout, patients=patients, server_round=server_round, device=device)

    def clipped_sum(self, lot: tuple[int, ...], *, step: int = 0) -> ClippedSum:
        """The sum of the clipped gradients of these patients; of nobody, zero."""
        return self._loop.sum([self._views(self.patients[index], step) for index in lot])

    def set_gradients(self, vector: npt.NDArray[np.float64]) -> None:
        """What the optimiser is to see, shape (trained values,)."""
        flat = torch.from_numpy(vector).to(self._device, torch.float32)
        start = 0
        for parameter in self.parameters():
            part = flat[start : start + parameter.numel()]
            parameter.grad = part.view_as(parameter).clone()
            start += parameter.numel()

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in the order of the sum's vector."""
        return trainable_parameters(self.network)

    def _views(self, patient: Patient, step: int) -> "_Views":
        return _Views(self.plan, patient, self._server_round, step, self._device)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        training = self.plan.training
        # Asked of this patient's labels alone: what others have drawn must not change this patient's rounding.
        supervised_loss = marginal_segmentation_loss if bool((labels < 0).any()) else segmentation_loss
        loss = supervised_loss(
            logits,
            labels,
            dice_weight=training.dice_weight,
            cross_entropy_weight=training.cross_entropy_weight,
            class_weights=self._class_weights,
            over=training.loss_over,
        )
        self.mean_losses.append(loss.detach())
        return loss


class _Views:
    """Makes one patient's views when they are needed, so that a lot is never in memory at once."""

    def __init__(
        self, plan: TrainingPlan, patient: Patient, server_round: int, step: int, device: torch.device
    ) -> None:
        self._plan, self._patient, self._device = plan, patient, device
        text = json.dumps(["secfed/views/v1", plan.seed, patient.key, server_round, step])
        self._seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")

    def __call__(self) -> tuple[Tensor, Tensor]:
        drawing, views, dropout = np.random.SeedSequence(self._seed).spawn(3)
        torch.default_generator.manual_seed(int(dropout.generate_state(1, np.uint64)[0]))
        return patient_views(
            self._patient,
            self._plan,
            drawing=np.random.default_rng(drawing),
            augmentation=torch.Generator(self._device).manual_seed(int(views.generate_state(1, np.uint64)[0])),
            device=self._device,
        )


def trained_positions(network: nn.Module, layout: ParameterLayout) -> npt.NDArray[np.intp]:
    """Where the trained parameters stand in the flat vector, in their order; shape (trained values,)."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    places = [
        np.arange(place.start, place.stop, dtype=np.intp)
        for spec, place in layout.slices()
        if spec.kind == "parameter" and spec.name in trained
    ]
    return np.concatenate(places) if places else np.zeros(0, np.intp)


def _blank_views(plan: TrainingPlan, device: torch.device) -> tuple[Tensor, Tensor]:
    """A patient's shapes and nobody's images."""
    count, patch = plan.privacy.patches * plan.privacy.views, plan.training.patch_size
    images = torch.zeros(count, plan.model.in_channels, *patch, device=device)
    return images, torch.zeros(count, *patch, dtype=torch.int64, device=device)
