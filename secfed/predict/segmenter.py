"""A trained network on its device: from a scan as it was read to labels on the scan's own voxels.

Preparing, windows and precision are those of testing (clients.evaluation); the way back is secfed.predict.restore.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from clients.evaluation import class_scores
from secfed.data.cases import Modality
from secfed.data.preprocessing import normalise, resample_image
from secfed.data.volumes import NiftiVolume
from secfed.errors import ConfigError, RunFolderError
from secfed.model import build_model, load_flat
from secfed.predict.restore import labels_on_scan
from secfed.predict.scans import Scan
from secfed.predict.trained_model import Network, TrainedModel


class Segmenter:
    """A network on its device; weights are loaded where a scan passes others than the one before."""

    def __init__(self, trained: TrainedModel, *, device: torch.device, batch_size: int) -> None:
        self.trained = trained
        self.device = device
        self.batch_size = batch_size
        with torch.random.fork_rng(devices=[]):
            model = build_model(trained.plan.model, num_classes=trained.label_map.num_classes)
        self._model = model.to(device)
        self._loaded: Network | None = None
        self._load(trained.average)

    def labels(
        self, volume: NiftiVolume, scan: Scan, modality: Modality, *, on_share: Callable[[float], None]
    ) -> NDArray[np.uint8]:
        """Labels (z, y, x) on the voxels of the volume, prepared as the plan's evaluation prepares it."""
        plan = self.trained.plan
        self._load(self.trained.for_scan(modality))
        spacing_mm = plan.preprocessing.spacing_mm
        image = normalise(
            resample_image(volume, spacing_mm), modality=modality, config=plan.preprocessing, source=scan.image
        )
        with torch.inference_mode():
            logits = class_scores(
                self._model, image, plan=plan, device=self.device, batch_size=self.batch_size, on_share=on_share
            )
            return labels_on_scan(
                logits, spacing_mm=spacing_mm, scan_shape=volume.voxels.shape, scan_spacing_mm=volume.spacing_mm
            )

    def _load(self, network: Network) -> None:
        if network is self._loaded:
            return
        try:
            load_flat(self._model, network.vector, network.layout)
        except ValueError as error:
            raise RunFolderError(
                f"{self.trained.source}: the model is of another architecture than its plan says: {error}"
            ) from error
        self._loaded = network


def device_named(name: str) -> torch.device:
    """The device of an option: "auto" takes a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device = '{name}': auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device = 'cuda': torch finds no CUDA device; auto falls back to the CPU")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")
