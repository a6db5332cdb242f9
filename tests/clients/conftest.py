"""Small cases that a network can learn in seconds: two bright boxes on noise."""

from pathlib import Path

import numpy as np
import pytest
import torch

from secfed.config import TrainingPlan
from secfed.data.cases import Modality
from secfed.data.preprocessing import PreparedCase


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def box_case(seed: int, *, shape=(8, 16, 16), modality=Modality.CT) -> PreparedCase:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.2, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    for organ in (1, 2):
        y, x = rng.integers(1, 8, size=2)
        label[1:-1, y : y + 6, x : x + 6] = organ
        image[label == organ] += organ
    image.flags.writeable = label.flags.writeable = False
    return PreparedCase(
        patient=f"patient-{seed}",
        modality=modality,
        image=image,
        label=label,
        spacing_mm=(5.0, 5.0, 5.0),
        source=Path(f"patient-{seed}.nii.gz"),
    )


@pytest.fixture
def cases():
    return tuple(box_case(seed) for seed in range(3))


@pytest.fixture
def make_case():
    return box_case


@pytest.fixture
def make_plan():
    def make(*, model=None, training=None, augmentation=None, rounds=4, seed=7) -> TrainingPlan:
        return TrainingPlan.model_validate(
            {
                "seed": seed,
                "model": {"channels": [4, 8], **(model or {})},
                "training": {"batch_size": 4, "patch_size": [16, 16], "steps_per_round": 3, **(training or {})},
                "augmentation": augmentation or {},
                "federation": {"rounds": rounds},
            }
        )

    return make
