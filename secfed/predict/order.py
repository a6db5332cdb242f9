"""What `secfed predict` is asked to do, which files that makes, and what came of it."""

import os
from dataclasses import dataclass
from pathlib import Path

from clients.evaluation import CaseScore
from secfed.data.cases import Modality
from secfed.data.problems import CaseProblem
from secfed.predict.scans import SEGMENTATION_SUFFIX, Scan
from secfed.predict.trained_model import FEDERATED, TrainedModel


@dataclass(frozen=True, kw_only=True)
class PredictionOrder:
    """What to segment with what; secfed.predict.scans and secfed.predict.trained_model say what the paths may be."""

    model_path: Path
    images: tuple[Path, ...]
    out: Path
    model: str = FEDERATED
    plan_file: Path | None = None
    site: Path | None = None
    modality: Modality | None = None
    labels: Path | None = None
    label_values: str | None = None
    device: str = "auto"
    batch_size: int = 16
    preview: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class OutputFiles:
    """What is written for one scan; the page only where a preview is asked for."""

    segmentation: Path
    sidecar: Path
    page: Path

    @classmethod
    def of(cls, scan: Scan, order: PredictionOrder) -> "OutputFiles":
        """In the order's folder, under the scan's name."""
        stem = f"{scan.name}{SEGMENTATION_SUFFIX}"
        return cls(
            segmentation=order.out / f"{stem}.nii.gz",
            sidecar=order.out / f"{stem}.json",
            page=order.out / f"{stem}.html",
        )

    def existing(self) -> list[Path]:
        """Those that are there; a link counts, wherever it leads."""
        return [path for path in (self.segmentation, self.sidecar, self.page) if os.path.lexists(path)]


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """One scan that was segmented. `scores` are of the organs that its labels have, empty without labels."""

    scan: Scan
    modality: Modality
    segmentation: Path
    sidecar: Path
    page: Path | None
    layers: str
    volumes_ml: dict[str, float]
    scores: tuple[CaseScore, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What came of an order."""

    trained: TrainedModel
    out: Path
    device: str
    segmented: tuple[Segmented, ...]
    problems: tuple[CaseProblem, ...]
