"""What stands beside a label volume: which value is which organ, in which colour, how large, and by which model.

Numbers and names alone; nothing of the scan but its file's name.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.evaluation import CaseScore
from secfed.data.cases import LabelMap, Modality
from secfed.predict.scans import SEGMENTATION_SUFFIX, Scan
from secfed.predict.trained_model import Network, TrainedModel
from secfed.provenance import versions
from secfed.report.overlays import organ_colour

BACKGROUND_COLOUR = "#000000"


def volumes_ml(labels: NDArray[np.uint8], affine: NDArray[np.float64], label_map: LabelMap) -> dict[str, float]:
    """Millilitres of each organ; the affine is that of the voxels, in mm."""
    counts = np.bincount(labels.ravel(), minlength=label_map.num_classes)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return {organ: float(counts[label_map.index(organ)]) * voxel_ml for organ in label_map.organs}


def sidecar(
    trained: TrainedModel,
    *,
    scan: Scan,
    modality: Modality,
    network: Network,
    volumes: Mapping[str, float],
    scores: Sequence[CaseScore],
) -> dict[str, Any]:
    """The content of the JSON file."""
    organs = trained.label_map.organs
    labels: list[dict[str, Any]] = [{"value": 0, "name": "background", "colour": BACKGROUND_COLOUR}]
    labels += [
        {
            "value": value,
            "name": organ,
            "colour": organ_colour(organ, organs),
            "volume_ml": round(volumes[organ], 3),
        }
        for value, organ in enumerate(organs, start=1)
    ]
    return {
        "segmentation": f"{scan.name}{SEGMENTATION_SUFFIX}.nii.gz",
        "image": scan.image.name,
        "modality": modality.value,
        "task": trained.label_map.task,
        "labels": labels,
        "scores": scores_as_dicts(scores),
        "model": {
            "name": trained.name,
            "sha256": network.sha256,
            "plan": trained.plan.digest().hex(),
            "normalisation_layers": network.layers,
        },
        "program": f"secfed {versions()['secfed']}",
    }


def scores_as_dicts(scores: Sequence[CaseScore]) -> list[dict[str, Any]]:
    """For JSON, which has no NaN: None where neither labels nor prediction have the organ."""
    return [{"organ": score.organ, "dice": _finite(score.dice), "hd95_mm": _finite(score.hd95_mm)} for score in scores]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
