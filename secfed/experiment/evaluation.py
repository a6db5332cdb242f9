"""Test a job's final model on every test case: Dice and HD95 per organ, and the pictures that the report shows.

Where normalisation layers are not everybody's, a case passes those of its modality, and beside the model stands one
file per modality. The model is the last checkpoint, always; nothing here feeds back into training, so no choice looks
at test data.
"""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.device import device_description, torch_device
from clients.evaluation import predict, score_case
from clients.site import Site
from clients.training import TrainingSource, samples_for
from secfed.config import ModalityName, RunConfig, TrainingPlan
from secfed.data.cases import LABEL_MAPS, LabelMap
from secfed.data.preprocessing import PreparedCase
from secfed.engines.job import Job
from secfed.errors import RunFolderError
from secfed.experiment.data import test_cases
from secfed.experiment.final_model import final_state
from secfed.experiment.final_networks import final_networks
from secfed.experiment.job_process import MODEL, OVERLAYS, SAMPLES, TESTED
from secfed.experiment.plans import JobSpec
from secfed.experiment.run_folder import RunFolder
from secfed.modality_sets import file_for
from secfed.model import build_model, load_flat
from secfed.network import finished_model
from secfed.parameters import PLAN_KEY, FloatVector, ParameterLayout, model_digest, save_vector
from secfed.results import MEAN, ResultRow
from secfed.site_config import load_site_file


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One organ of one test patient; None where the metric is not defined."""

    test_set: str
    patient: str
    modality: str
    organ: str
    dice: float | None
    hd95_mm: float | None


def evaluate_job(job: Job, spec: JobSpec, config: RunConfig, *, run: RunFolder) -> list[CaseResult]:
    """Test the job's last model; writes model, pictures and sample counts into the job's folder.

    Raises:
        RunFolderError: the job has not reached its last round.
    """
    state, layout = final_state(job)
    if state.completed < spec.plan.federation.rounds:
        raise RunFolderError(f"{job.folder}: the job has not reached its last round")
    labels = LABEL_MAPS[config.task]
    device = torch_device("auto")
    model = build_model(spec.plan.model, num_classes=labels.num_classes).to(device)
    networks = final_networks(job, spec, state.result, layout)
    loaded: FloatVector | None = None
    tested = job.folder / TESTED
    tested.write_text("", encoding="utf-8")
    results: list[CaseResult] = []
    overlays: dict[str, dict[str, Any]] = {}
    for test_set, case in test_cases(config, run_folder=run.path):
        network = networks.for_scan(case.modality.value, config.evaluation)
        if network is not loaded:
            load_flat(model, *finished_model(network, layout, plan=spec.plan, num_classes=labels.num_classes))
            loaded = network
        prediction = predict(model, case, plan=spec.plan, device=device, batch_size=config.evaluation.batch_size)
        for score in score_case(case, prediction, label_map=labels):
            results.append(
                CaseResult(
                    test_set=test_set,
                    patient=case.patient,
                    modality=case.modality.value,
                    organ=score.organ,
                    dice=_finite(score.dice),
                    hd95_mm=_finite(score.hd95_mm),
                )
            )
        if case.modality.value not in overlays:
            overlays[case.modality.value] = overlay_of(
                case, prediction, model=job.model, test_set=test_set, labels=labels
            )
        with tested.open("a", encoding="utf-8") as file:
            file.write(f"{test_set}/{case.patient}\n")
    save_overlays(job.folder / OVERLAYS, list(overlays.values()))
    for modality, network in networks.of_modality.items():
        _save_model(job, network, layout, spec, modality=modality)
    digest = _save_model(job, networks.average, layout, spec)
    # All sites of a job were told the same; where attempts differed, this is the last one's.
    computing = load_site_file(job.site_folders[0]).computing
    _save_samples(job, spec, digest=digest, device=device_description(device, computing))
    return results


def _save_model(
    job: Job, network: FloatVector, layout: ParameterLayout, spec: JobSpec, *, modality: ModalityName | None = None
) -> str:
    """Write a network as users get it and return its hash; without a modality the one for any scan."""
    classes = LABEL_MAPS[spec.plan.task].num_classes
    vector, model_layout = finished_model(network, layout, plan=spec.plan, num_classes=classes)
    digest = model_digest(vector, model_layout).hex()
    metadata = {
        "model": job.model,
        "sha256": digest,
        PLAN_KEY: spec.plan.model_dump_json(),
        **({"modality": modality} if modality else {}),
    }
    save_vector(job.folder / file_for(MODEL, modality), vector, model_layout, metadata=metadata)
    return digest


def rows(spec: JobSpec, results: Iterable[CaseResult], *, seed: int, labels: LabelMap) -> list[ResultRow]:
    """Means over patients per organ and test modality, and the mean over organs of these means.

    Of a patient with several scans, the mean over those that have the organ counts once.
    The deviation that stands beside a mean over organs is that of the patients' own means over their organs.
    """
    found = list(results)
    made = []
    for modality in sorted({result.modality for result in found}):
        for metric, unit in (("dice", "1"), ("hd95", "mm")):
            of_modality = [
                (result.patient + result.test_set, result.organ, result.dice if metric == "dice" else result.hd95_mm)
                for result in found
                if result.modality == modality
            ]
            means = []
            for organ in labels.organs:
                scans: dict[str, list[float]] = {}
                for patient, name, value in of_modality:
                    if name == organ and value is not None:
                        scans.setdefault(patient, []).append(value)
                values = [statistics.fmean(own) for own in scans.values()]
                means.append(statistics.fmean(values) if values else None)
                made.append(_row(spec, modality, organ, metric, unit, means[-1], values, seed))
            defined = [value for value in means if value is not None]
            patients: dict[str, list[float]] = {}
            for patient, _, value in of_modality:
                if value is not None:
                    patients.setdefault(patient, []).append(value)
            overall = statistics.fmean(defined) if defined else None
            per_patient = [statistics.fmean(values) for values in patients.values()]
            made.append(_row(spec, modality, MEAN, metric, unit, overall, per_patient, seed))
    return made


def _row(
    spec: JobSpec,
    modality: str,
    organ: str,
    metric: Any,
    unit: Any,
    value: float | None,
    values: list[float],
    seed: int,
) -> ResultRow:
    return ResultRow(
        model=spec.model,
        training=spec.training,
        augmentation=spec.plan.augmentation.label(),
        protection=spec.plan.protection.mode,
        privacy="off",
        test_modality=modality,
        seen=modality in spec.modalities,
        organ=organ,
        metric=metric,
        value=value,
        unit=unit,
        n=len(values),
        seed=seed,
        patients_std=statistics.stdev(values) if len(values) > 1 else None,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def overlay_of(
    case: PreparedCase, prediction: npt.NDArray[np.uint8], *, model: str, test_set: str, labels: LabelMap
) -> dict[str, Any]:
    """The axial slice with most structures, and of those the one with most labelled voxels."""
    reference = np.asarray(case.label)
    index = max(range(len(reference)), key=lambda z: (len(np.unique(reference[z])), int((reference[z] > 0).sum())))
    return {
        "image": np.asarray(case.image[index], np.float32),
        "reference": reference[index].astype(np.uint8),
        "prediction": prediction[index].astype(np.uint8),
        "meta": {
            "model": model,
            "patient": case.patient,
            "modality": case.modality.value,
            "site_or_set": test_set,
            "slice_index": index,
            "spacing_mm": list(case.spacing_mm[1:]),
            "organs": list(labels.organs),
        },
    }


def save_overlays(path: Path, overlays: list[dict[str, Any]]) -> None:
    """Pictures as plain arrays, with their descriptions as JSON bytes."""
    arrays = {
        f"{index}_{kind}": overlay[kind]
        for index, overlay in enumerate(overlays)
        for kind in ("image", "reference", "prediction")
    }
    meta = json.dumps([overlay["meta"] for overlay in overlays]).encode()
    np.savez_compressed(path, meta=np.frombuffer(meta, np.uint8), **arrays)


def load_overlays(path: Path) -> list[dict[str, Any]]:
    """The inverse of `save_overlays`."""
    with np.load(path, allow_pickle=False) as arrays:
        meta = json.loads(arrays["meta"].tobytes())
        return [
            {kind: arrays[f"{index}_{kind}"] for kind in ("image", "reference", "prediction")} | {"meta": entry}
            for index, entry in enumerate(meta)
        ]


def _samples_per_round(source: TrainingSource, plan: TrainingPlan) -> int:
    """What a round draws from one data set; of patients who are sampled, what it draws on average."""
    privacy = plan.privacy
    if privacy.mode in ("off", "silo"):
        return samples_for(source, plan.training)
    steps = 1 if privacy.mode == "distributed" else plan.training.steps_per_round
    patients = len({case.patient for case in source.cases})
    return round(steps * privacy.sampling_prob * patients * privacy.patches * privacy.views)


def _save_samples(job: Job, spec: JobSpec, *, digest: str, device: str) -> None:
    """How often each data set was seen, so that a reader can check that jobs are compared at equal passes."""
    seen = {}
    for folder in job.site_folders:
        for source in Site(folder).cases(spec.plan).sources:
            samples = spec.plan.federation.rounds * _samples_per_round(source, spec.plan)
            slices = sum(case.image.shape[0] for case in source.cases)
            seen[source.site] = {"samples": samples, "passes": samples / slices}
    (job.folder / SAMPLES).write_text(
        json.dumps({"sources": seen, "model_hash": digest, "device": device}), encoding="utf-8"
    )
