"""A site's patients: all cases of one person together, because that is whom differential privacy protects.

Runs at a site. A patient is known by name, which must be the person's in all data sets of the site, such as the
hospital's number. That no person stands at two sites is for the consortium to see to, and SECURITY.md says so.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clients.training import TrainingSource
from privacy.dataset_fingerprint import dataset_fingerprint
from secfed.augmentation.appearance import appearance
from secfed.augmentation.spatial import random_affine
from secfed.config import TrainingPlan
from secfed.data.preprocessing import PreparedCase
from secfed.data.sampling import PatchSampler


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """One person's cases; `digest` is the SHA-256 of what training reads of them."""

    key: str
    sampler: PatchSampler
    digest: bytes


def patients_of(sources: Sequence[TrainingSource], plan: TrainingPlan) -> tuple[Patient, ...]:
    """The patients of all data sets of a site, in the order of their keys."""
    training = plan.training
    return _patients(tuple(sources), training.patch_size, training.foreground_prob, plan.model.context_slices)


def fingerprint_of(patients: Sequence[Patient]) -> bytes:
    """The data set's 32-byte name in the site's ledger: the same for the same patients' images, in whatever order."""
    return dataset_fingerprint(patient.digest for patient in patients)


def patient_views(
    patient: Patient,
    plan: TrainingPlan,
    *,
    drawing: np.random.Generator,
    augmentation: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """`patches` patches of one patient with `views` views each: images (P * K, C, *patch), labels (P * K, *patch).

    Every view has its own pose and its own appearance; nothing of another patient goes into them, because a plan with
    patients to keep apart admits no method that does so (`TrainingPlan`).
    """
    drawn = [patient.sampler.draw(drawing) for _ in range(plan.privacy.patches)]
    views = plan.privacy.views
    labels = torch.from_numpy(np.stack([label for _, label in drawn])).to(device)
    images = torch.from_numpy(np.stack([image for image, _ in drawn])).to(device)
    images = images.reshape(len(drawn), plan.model.in_channels, *labels.shape[1:])
    images, labels = images.repeat_interleave(views, dim=0), labels.repeat_interleave(views, dim=0)
    images, labels = random_affine(images, labels.long(), config=plan.augmentation.affine, generator=augmentation)
    return appearance(images, labels, config=plan.augmentation, generator=augmentation), labels


@functools.lru_cache(maxsize=4)
def _patients(
    sources: tuple[TrainingSource, ...], patch_size: tuple[int, ...], foreground_prob: float, context_slices: int
) -> tuple[Patient, ...]:
    cases: dict[str, list[PreparedCase]] = {}
    for source in sources:
        for case in source.cases:
            cases.setdefault(case.patient, []).append(case)
    return tuple(
        Patient(
            key=key,
            sampler=PatchSampler(
                found, patch_size=patch_size, foreground_prob=foreground_prob, context_slices=context_slices
            ),
            digest=_digest(found),
        )
        for key, found in sorted(cases.items())
    )


def _digest(cases: Sequence[PreparedCase]) -> bytes:
    digests = []
    for case in cases:
        whole = hashlib.sha256(np.ascontiguousarray(case.image).data)
        whole.update(b"" if case.label is None else np.ascontiguousarray(case.label).data)
        digests.append(whole.digest())
    return hashlib.sha256(b"".join(sorted(digests))).digest()
