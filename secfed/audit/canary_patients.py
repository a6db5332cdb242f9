"""Canaries: made-up patients whose gradient is one large entry at a place of their own, and the sites that hold them.

Run by whoever audits this software, on sites that it plays itself. What a canary adds to a sum is known in advance:
its clipped gradient, C at its own coordinate, with a sign that changes over the rounds. So the sum at that coordinate
tells by its own law whether the canary took part, and how well it tells is what the account claims to know.

Software in use has no back door for this. `canaries_in_place` puts a subclass of the sites' PatientTraining in place
within the auditor's own process, and only the loss differs: the patient loop, the clip, sampling, noise, encoding,
ledger and protocol are those of every run. The loss is linear in the parameters, and its gradient is TOO_LONG times the
clip norm, so that forgetting to clip shows.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from secfed.data.cases import ABDOMEN

TOO_LONG = 10.0
"""Length of a canary's gradient before clipping, in clip norms."""

PATCH = (8, 8)
_SPACING_MM = 5.0
_NOBODY = 0
_FIRST_BYSTANDER = 90_000
_BYSTANDERS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """Who they are: canary i stands at site `site[i]` where `member[i]`, and adds to entry `entry[i]` of the sum.

    All have shape (canaries,), `signs` (canaries, rounds) with entries +-1. Entries are all different.
    """

    member: npt.NDArray[np.bool_]
    site: npt.NDArray[np.intp]
    entry: npt.NDArray[np.intp]
    signs: npt.NDArray[np.int64]

    @classmethod
    def drawn(cls, count: int, *, sites: int, entries: int, rounds: int, seed: int) -> "Canaries":
        """Coins, places and signs from a seed; no guarantee rests on them, only that the attacker's are honest coins.

        Signs are balanced where the number of rounds is even, so that noise which comes again cancels out.
        """
        generator = np.random.default_rng([seed, count, rounds])
        balanced = np.resize([1, -1], (count, rounds))
        return cls(
            member=generator.random(count) < 0.5,
            site=np.arange(count) % sites,
            entry=generator.choice(entries, size=count, replace=False),
            signs=generator.permuted(balanced, axis=1),
        )

    def __len__(self) -> int:
        return len(self.member)

    def at(self, site: int) -> list[int]:
        """The canaries that took part at a site."""
        return [int(number) for number in np.flatnonzero(self.member & (self.site == site))]


def write_sites(folder: Path, canaries: Canaries, *, names: list[str]) -> Mapping[str, int]:
    """A data set per site in `folder`, and how many patients each has; sites without canaries get two bystanders."""
    counts = {}
    for index, name in enumerate(names):
        numbers = [number + 1 for number in canaries.at(index)]
        numbers = numbers or [_FIRST_BYSTANDER + _BYSTANDERS * index + other for other in range(_BYSTANDERS)]
        if not (folder / name / "dataset.json").exists():
            _write(folder / name, numbers)
        counts[name] = len(numbers)
    return counts


def canary_of(key: str, canaries: Canaries) -> int | None:
    """Which canary a patient's name stands for; None for a bystander."""
    number = int(key.removeprefix("canary_"))
    return number - 1 if number <= len(canaries) else None


@contextmanager
def canaries_in_place(canaries: Canaries) -> Iterator[None]:
    """Within the block, sites of this process find canaries' gradients where patients' would be."""
    import torch
    from torch import Tensor

    import clients.patient_training as place
    from clients.patients import Patient

    honest = place.PatientTraining

    class CanaryTraining(place.PatientTraining):
        """The sites' own training with another loss; canary i's labels all hold i + 1."""

        # The patient loop takes views as they are or as something that makes them.
        def _views(self, patient: Patient, step: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            del step
            number = canary_of(patient.key, canaries)
            shape = (self.plan.privacy.patches * self.plan.privacy.views, *PATCH)
            labels = torch.full(shape, _NOBODY if number is None else number + 1)
            return torch.zeros(shape)[:, None], labels

        def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
            del logits
            number = int(labels[0, 0, 0])
            parameters = self.parameters()
            if number == _NOBODY:
                return torch.stack([parameter.sum() for parameter in parameters]).sum() * 0.0
            sign = int(canaries.signs[number - 1, self._server_round - 1])
            place_in_sum = int(canaries.entry[number - 1])
            for parameter in parameters:
                if place_in_sum < parameter.numel():
                    length = TOO_LONG * self.plan.privacy.clip_norm
                    return parameter.view(-1)[place_in_sum] * (sign * length)
                place_in_sum -= parameter.numel()
            raise IndexError(f"canary {number - 1} has no entry in the sum")

    _put(place, CanaryTraining)
    try:
        yield
    finally:
        _put(place, honest)


def _put(place: object, training: type) -> None:
    vars(place)["PatientTraining"] = training


def _write(folder: Path, numbers: list[int]) -> None:
    entries = []
    for number in numbers:
        entry = {"image": f"images/canary_{number:05d}.nii", "label": f"labels/canary_{number:05d}.nii"}
        # Different voxels, because the ledger knows patients by what their images hold.
        image = np.random.default_rng(number).normal(0, 50, (*PATCH, 1)).astype(np.float32)
        for kind, voxels in (("image", image), ("label", np.zeros((*PATCH, 1), np.uint8))):
            path = folder / entry[kind]
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, np.diag([_SPACING_MM] * 3 + [1.0])), path)
        entries.append(entry)
    labels = {"0": "background", **{str(index): organ for index, organ in enumerate(ABDOMEN.organs, start=1)}}
    (folder / "dataset.json").write_text(
        json.dumps({"name": folder.name, "labels": labels, "training": entries}), encoding="utf-8"
    )
