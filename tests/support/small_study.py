"""A study of invented numbers, with every kind of experiment, holes and pictures, to test the page and to look at it.

`python tests/support/small_study.py FOLDER` writes one to look at.
"""

import dataclasses
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from secfed.results import CurvePoint, JobRecord, PrivacyRecord, Provenance
from secfed.study.record import (
    CellRecord,
    Claim,
    Experiment,
    LeakageRow,
    ModalityScores,
    StudyRecord,
    Variant,
)

ORGANS = ("liver", "spleen", "kidney_right", "kidney_left", "pancreas", "gallbladder", "stomach", "aorta")
EASE = (0.95, 0.9, 0.89, 0.88, 0.6, 0.62, 0.74, 0.82)
HEART = ("myocardium", "left_ventricle", "right_ventricle", "left_atrium", "right_atrium")
HEART_EASE = (0.8, 0.9, 0.86, 0.85, 0.84)
PATIENTS = 12
ROUNDS = 40
# Relative quality on CT and MRI of models trained on CT only, by augmentation.
METHODS: dict[str, tuple[float, float, str]] = {
    "No augmentation": (0.95, 0.21, "none"),
    "Intensity (nnU-Net style)": (0.96, 0.43, "intensity"),
    "Bezier curves": (0.95, 0.62, "bezier"),
    "RandConv": (0.94, 0.66, "randconv"),
    "RandConv, consistency": (0.945, 0.7, "randconv-kl"),
    "FDA": (0.94, 0.33, "fda"),
    "Amplitude mix": (0.95, 0.38, "apr"),
    "SLAug": (0.96, 0.77, "slaug"),
    "GIN": (0.955, 0.74, "gin"),
    "GIN, per image": (0.96, 0.76, "gin-image"),
    "GIN + IPA": (0.96, 0.8, "gin-ipa"),
    "GIN + IPA, consistency": (0.965, 0.82, "gin-ipa-kl"),
}
EPSILONS = (1.0, 3.0, 8.0, 20.0)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def scores_of(
    quality: dict[str, float], *, seed: int, organs: tuple[str, ...], ease: tuple[float, ...], tag: str
) -> tuple[ModalityScores, ...]:
    """Patients differ alike for every model; seeds and models add their own."""
    found = []
    for modality, skill in quality.items():
        patient_part = np.random.default_rng(len(modality) + ord(modality[0])).normal(0, 0.035, (PATIENTS, len(organs)))
        own = np.random.default_rng(int(digest(f"{tag}{seed}{modality}")[:8], 16))
        seed_part = own.normal(0, 0.012)
        values = skill * np.array(ease) + patient_part + seed_part + own.normal(0, 0.015, patient_part.shape)
        values = np.clip(values, 0.0, 0.985)
        distances = 3 + 70 * (1 - values) ** 1.5
        patients = tuple(f"test-{modality.lower()}/p-{index:03d}" for index in range(PATIENTS))
        dice: dict[str, tuple[float | None, ...]] = {}
        hd95: dict[str, tuple[float | None, ...]] = {}
        for place, organ in enumerate(organs):
            absent = [organ == "gallbladder" and index == 3 for index in range(PATIENTS)]
            dice[organ] = tuple(
                None if gone else round(float(value), 6) for gone, value in zip(absent, values[:, place], strict=True)
            )
            hd95[organ] = tuple(
                None if gone else round(float(value), 4)
                for gone, value in zip(absent, distances[:, place], strict=True)
            )
        found.append(ModalityScores(modality=modality, patients=patients, dice=dice, hd95_mm=hd95))
    return tuple(found)


def job_of(
    *,
    training: str,
    augmentation: str,
    protection: str,
    sites: int,
    model_hash: str,
    privacy: PrivacyRecord | None = None,
    passes: float = 4.0,
) -> JobRecord:
    federated = training == "federated"
    parties = {f"site-{index}": 400 for index in range(sites)} if federated else {"all": 400 * sites}
    work = {"plain": 0.4, "masked": 9.1, "encrypted": 96.0}[protection]
    growth = {"plain": 1.0, "masked": 2.0, "encrypted": 11.0}[protection]
    return JobRecord(
        model=training,
        training=training,  # type: ignore[arg-type]
        augmentation=augmentation,
        protection=protection,
        rounds=ROUNDS,
        seconds=310.0 + work,
        training_seconds=290.0,
        protection_seconds=work if federated else 0.0,
        exchanges=ROUNDS * (2 if protection == "masked" else 1) if federated else 0,
        bytes_up=round(sites * ROUNDS * 1_015_808 * growth) if federated else 0,
        bytes_down=sites * ROUNDS * 1_015_808 if federated else 0,
        samples_seen=parties,
        passes=dict.fromkeys(parties, passes),
        model_hash=model_hash,
        survivors_min=sites if federated else None,
        privacy=privacy,
    )


def curves_of(model: str, quality: dict[str, float], seen: tuple[str, ...], *, seed: int) -> tuple[CurvePoint, ...]:
    own = np.random.default_rng(seed + 91)
    points = []
    for number in range(4, ROUNDS + 1, 4):
        for modality in seen:
            rise = 1 - math.exp(-number / (6 + 8 * (1 - quality[modality])))
            value = 0.8 * quality[modality] * rise + own.normal(0, 0.012)
            points.append(
                CurvePoint(model=model, round=number, metric="validation_dice", modality=modality, value=float(value))
            )
    return tuple(points)


def cell(
    name: str,
    *,
    seed: int,
    quality: dict[str, float],
    seen: tuple[str, ...],
    training: str = "federated",
    augmentation: str = "gin",
    normalisation: str = "instance",
    federation: str = "fedavg",
    protection: str = "plain",
    sites: int = 4,
    privacy: PrivacyRecord | None = None,
    task: str = "abdomen",
    model_hash: str | None = None,
    passes: float = 4.0,
) -> CellRecord:
    organs, ease = (HEART, HEART_EASE) if task == "whole_heart" else (ORGANS, EASE)
    key = f"{name}-s{seed}"
    return CellRecord(
        key=key,
        task=task,
        seed=seed,
        model=training if training in ("federated", "centralised") else f"{training}:{name}",
        training=training,
        augmentation=augmentation,
        normalisation=normalisation,
        federation=federation,
        sites=sites,
        protection=protection,
        privacy="off" if privacy is None else privacy.text(),
        epsilon=None if privacy is None else privacy.epsilon,
        delta=None if privacy is None or privacy.epsilon is None else privacy.delta,
        seen=seen,
        config_digest=digest(key),
        code_digest="0f" * 32,
        status="complete",
        job=job_of(
            training=training,
            augmentation=augmentation,
            protection=protection,
            sites=sites,
            model_hash=model_hash or digest(f"model {key}"),
            privacy=privacy,
            passes=passes,
        ),
        seconds=330.0 + seed,
        peak_memory_bytes=1_600_000_000 + 90_000_000 * seed + (900_000_000 if protection == "encrypted" else 0),
        scores=scores_of(quality, seed=seed, organs=organs, ease=ease, tag=name),
        curves=curves_of(training, quality, seen, seed=seed),
    )


def without_model(found: CellRecord, *, status: str, reason: str) -> CellRecord:
    return dataclasses.replace(
        found,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        job=None,
        seconds=None,
        peak_memory_bytes=None,
        scores=(),
        curves=(),
    )


def paid(mode: str, epsilon: float | None) -> PrivacyRecord:
    return PrivacyRecord(
        mode=mode,
        epsilon=epsilon,
        delta=1e-5,
        unit="patient",
        relation="add or remove one",
        accountant="RDP, Poisson sampling",
        noise_multiplier=None if epsilon is None else 4.2 / epsilon,
        sampling_prob=0.1,
        clip_norm=0.5,
        simulated=True,
        tpr_cap=None if epsilon is None else min(1.0, 0.01 * math.exp(min(epsilon, 50.0))),
    )


class Builder:
    """Collects cells and experiments; a cell that two experiments share is made once."""

    def __init__(self, seeds: tuple[int, ...]) -> None:
        self.seeds = seeds
        self.cells: dict[str, CellRecord] = {}
        self.experiments: list[Experiment] = []

    def variant(self, name: str, key: str, *, note: str = "", **facts: Any) -> Variant:
        made = [cell(key, seed=seed, **facts) for seed in self.seeds]
        self.cells |= {one.key: one for one in made if one.key not in self.cells}
        return Variant(name=name, cells=tuple(one.key for one in made), note=note)

    def experiment(self, key: str, title: str, question: str, variants: list[Variant], **facts: Any) -> None:
        given = {"kind": "methods", "task": "abdomen", "reference": variants[0].name} | facts
        self.experiments.append(Experiment(key=key, title=title, question=question, variants=tuple(variants), **given))


def small_study(*, seeds: tuple[int, ...] = (0, 1, 2), with_holes: bool = True) -> StudyRecord:
    made = Builder(seeds)
    both = ("CT", "MR")

    def unseen(first: str) -> list[Variant]:
        other = "MR" if first == "CT" else "CT"
        methods = METHODS if first == "CT" else dict(list(METHODS.items())[::5])
        return [
            made.variant(
                name,
                f"{first.lower()}-{augmentation}",
                quality={first: seen, other: new},
                seen=(first,),
                augmentation=augmentation,
                note="as the paper" if name == "GIN" else "",
            )
            for name, (seen, new, augmentation) in methods.items()
        ]

    made.experiment(
        "unseen",
        "Augmentations on an unseen modality",
        "Trained on CT alone, which augmentation carries a model to MRI?",
        unseen("CT"),
    )
    made.experiment(
        "unseen-mr", "The reverse: MRI sites only", "Trained on MRI alone, which carries to CT?", unseen("MR")
    )
    trainings = [
        made.variant(
            "Centralised, GIN", "central-gin", quality={"CT": 0.97, "MR": 0.93}, seen=both, training="centralised"
        ),
        made.variant("Federated, GIN", "fed-gin", quality={"CT": 0.96, "MR": 0.915}, seen=both),
        made.variant(
            "Federated, no augmentation",
            "fed-none",
            quality={"CT": 0.955, "MR": 0.86},
            seen=both,
            augmentation="none",
        ),
        made.variant(
            "Centralised, no augmentation",
            "central-none",
            quality={"CT": 0.96, "MR": 0.9},
            seen=both,
            augmentation="none",
            training="centralised",
            passes=5.0,
        ),
        made.variant(
            "CT sites only",
            "ct-only",
            quality={"CT": 0.95, "MR": 0.7},
            seen=("CT",),
            training="single_modality",
            sites=2,
        ),
        made.variant(
            "MRI sites only",
            "mr-only",
            quality={"CT": 0.5, "MR": 0.88},
            seen=("MR",),
            training="single_modality",
            sites=2,
        ),
        made.variant(
            "Site ct-1 alone",
            "site-ct-1",
            quality={"CT": 0.9, "MR": 0.6},
            seen=("CT",),
            training="single_site",
            sites=1,
        ),
        made.variant(
            "Site mr-1 alone",
            "site-mr-1",
            quality={"CT": 0.3, "MR": 0.8},
            seen=("MR",),
            training="single_site",
            sites=1,
        ),
    ]
    made.experiment(
        "federated", "Federated against centralised", "What does leaving the data at the sites cost?", trainings
    )
    made.experiment(
        "limited-mri",
        "20 CT volumes against 5 MRI volumes",
        "Do many CT volumes help few MRI volumes?",
        [
            made.variant("MRI sites only", "few-mr", quality={"CT": 0.4, "MR": 0.7}, seen=("MR",), sites=2),
            made.variant("Federated, none", "few-none", quality={"CT": 0.95, "MR": 0.76}, seen=both),
            made.variant("Federated, GIN", "few-gin", quality={"CT": 0.955, "MR": 0.84}, seen=both),
        ],
    )
    made.experiment(
        "normalisation",
        "Which normalisation stays at the sites",
        "Does a norm of its own per site or modality help?",
        [
            made.variant(
                name, f"norm-{name.lower()}", quality={"CT": ct, "MR": mr}, seen=both, normalisation=name.lower()
            )
            for name, ct, mr in (("Instance", 0.96, 0.915), ("FedBN", 0.955, 0.9), ("SiloBN", 0.95, 0.89))
        ],
        kind="table",
    )
    made.experiment(
        "federation",
        "Server rules and numbers of sites",
        "Does the way of averaging, or the number of sites, matter?",
        [
            made.variant("FedAvg, 4 sites", "fed-gin", quality={"CT": 0.96, "MR": 0.915}, seen=both),
            made.variant("FedProx", "fedprox", quality={"CT": 0.958, "MR": 0.917}, seen=both, federation="fedprox"),
            made.variant("FedAdam", "fedadam", quality={"CT": 0.95, "MR": 0.9}, seen=both, federation="fedadam"),
            made.variant("FedAvg, 2 sites", "sites-2", quality={"CT": 0.965, "MR": 0.92}, seen=both, sites=2),
            made.variant("FedAvg, 8 sites", "sites-8", quality={"CT": 0.95, "MR": 0.9}, seen=both, sites=8),
        ],
        kind="table",
    )
    protected = []
    for mode in ("plain", "masked", "encrypted"):
        cells = [
            cell(
                "protection",
                seed=seed,
                quality={"CT": 0.96, "MR": 0.915},
                seen=both,
                protection=mode,
                model_hash=digest(f"protected {seed}"),
            )
            for seed in seeds
        ]
        cells = [dataclasses.replace(one, key=f"{mode}-s{one.seed}") for one in cells]
        made.cells |= {one.key: one for one in cells}
        protected.append(Variant(name=mode.capitalize(), cells=tuple(one.key for one in cells)))
    made.experiment(
        "protection", "What protection costs", "What do masks and ciphertexts cost, and do they change the model?",
        protected, kind="cost",
    )  # fmt: skip
    private = [
        made.variant("Federated, no DP", "fed-gin", quality={"CT": 0.96, "MR": 0.915}, seen=both),
        made.variant(
            "Clipped, no noise",
            "clip-only",
            quality={"CT": 0.94, "MR": 0.9},
            seen=both,
            privacy=paid("clip_only", None),
        ),
        trainings[0],
        made.variant("Pretrained on phantoms only", "pretrained", quality={"CT": 0.6, "MR": 0.55}, seen=()),
    ]
    for mode, loss in (("distributed", 0.09), ("local", 0.24)):
        for epsilon in EPSILONS:
            lost = loss * 2.2 / (1 + epsilon) ** 0.7
            private.append(
                made.variant(
                    f"{mode.capitalize()}, epsilon {epsilon:g}",
                    f"{mode}-{epsilon:g}",
                    quality={"CT": 0.94 - lost, "MR": 0.9 - 1.2 * lost},
                    seen=both,
                    privacy=paid(mode, epsilon - 0.02),
                    protection="masked",
                )
            )
    made.experiment(
        "privacy",
        "Dice against epsilon",
        "What does differential privacy cost in Dice?",
        private,
        kind="frontier",
    )
    made.experiment(
        "whole-heart",
        "Whole heart: a second organ system",
        "Does the order of methods hold for the heart?",
        [
            made.variant(
                name,
                f"heart-{key}",
                quality={"CT": ct, "MR": mr},
                seen=("CT",),
                augmentation=key,
                task="whole_heart",
            )
            for name, key, ct, mr in (
                ("No augmentation", "none", 0.95, 0.2),
                ("GIN", "gin", 0.955, 0.78),
                ("GIN + IPA", "gin-ipa", 0.96, 0.8),
            )
        ],
        task="whole_heart",
    )
    if with_holes:
        last = seeds[-1]
        made.cells[f"ct-fda-s{last}"] = without_model(
            made.cells[f"ct-fda-s{last}"], status="failed", reason="training diverged: loss is not finite in round 17"
        )
        for seed in seeds:
            key = f"sites-8-s{seed}"
            made.cells[key] = without_model(made.cells[key], status="missing", reason="not run: time ran out")
    return StudyRecord(
        name="utility",
        scale="standard",
        command="python -m benchmarks.utility --scale standard --out runs/utility",
        generated=True,
        provenance=Provenance(
            config_digest=digest("study"),
            code_digest="0f" * 32,
            seed=seeds[0],
            versions={"torch": "2.13.0", "monai": "1.6.1", "flwr": "1.41.0", "numpy": "2.4.6"},
            device="CPU, 2 cores",
            python="3.11.9",
            started="2026-01-02T03:04:05+00:00",
            seconds_total=41_812.0,
        ),
        experiments=tuple(made.experiments),
        cells=tuple(made.cells.values()),
        leakage=leakage_rows(),
        claims=(
            Claim(
                claim="GIN raises Dice on the unseen MRI against no augmentation",
                aim="at least +0.20 mean Dice, p below 0.05",
                value="+0.42 (95 % interval 0.39 to 0.45)",
                met=True,
            ),
            Claim(
                claim="Federated training reaches centralised training at equal passes",
                aim="at least 95 % of its mean Dice",
                value="98.7 %",
                met=True,
                note="4.00 passes on both sides",
            ),
            Claim(
                claim="Distributed noise keeps the Dice at epsilon 8",
                aim="at least 95 % of the Dice without DP",
                value="94.1 %",
                met=False,
                note="epsilon 7.98 at delta 1e-05 per patient, add or remove one, RDP; simulated noise: not a DP "
                "guarantee",
            ),
            Claim(claim="Eight sites lose less than 0.02 Dice", aim="at most 0.02", value="not run", met=None),
        ),
    )


def leakage_rows() -> tuple[LeakageRow, ...]:
    rows = []
    for protection, cohort, psnr, control in (
        ("plain", 1, 27.1, 9.8),
        ("masked", 4, 11.0, 9.8),
        ("masked", 8, 10.1, 9.8),
    ):
        rows.append(
            LeakageRow(
                attack="inversion",
                target="one site's update" if protection == "plain" else f"the sum of {cohort} sites",
                protection=protection,
                cohort=cohort,
                metric="PSNR",
                unit="dB",
                value=psnr,
                low=psnr - 1.4,
                high=psnr + 1.4,
                control=control,
                repetitions=10,
                note="image from a gradient of one slice",
            )
        )
    for protection, tpr in (("no DP", 0.083), ("distributed, epsilon 7.98", 0.014)):
        rows.append(
            LeakageRow(
                attack="membership",
                target="the final model",
                protection=protection,
                cohort=4,
                metric="TPR at 1 % FPR",
                unit="1",
                value=tpr,
                low=max(0.0, tpr - 0.02),
                high=tpr + 0.025,
                control=0.01,
                repetitions=64,
                note="" if protection == "no DP" else "at delta 1e-05 per patient; simulated noise: not a DP guarantee",
            )
        )
    return tuple(rows)


def ellipse(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> Any:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def write_overlays(folder: Path, *, patient: str = "p-003") -> None:
    arrays: dict[str, Any] = {}
    meta = []
    shape = (64, 80)
    parts = {
        1: ((36, 56), (14, 15)),
        2: ((26, 18), (9, 7)),
        3: ((20, 55), (6, 4)),
        4: ((20, 25), (6, 4)),
        8: ((22, 40), (3, 3)),
    }
    for method, bad in (("No augmentation", 1.6), ("GIN + IPA, consistency", 0.5)):
        for modality in ("CT", "MR"):
            for rank, case, dice in ((1, "best", 0.91), (2, "median", 0.83), (4, "worst", 0.55)):
                noise = np.random.default_rng(rank)
                body = ellipse(shape, (32, 40), (26, 36))
                reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
                image = np.where(body, 0.45, 0.0)
                for label, (centre, radii) in parts.items():
                    reference[ellipse(shape, centre, radii)] = label
                    moved = (centre[0] + rank * bad, centre[1] - 0.6 * rank * bad)
                    prediction[ellipse(shape, moved, (radii[0] - 0.6, radii[1]))] = label
                    image[ellipse(shape, centre, radii)] = (
                        0.55 + 0.05 * label if modality == "CT" else 0.8 - 0.06 * label
                    )
                image = image + noise.normal(0, 0.03 if modality == "CT" else 0.06, shape) * body
                index = len(meta)
                arrays |= {
                    f"{index}_image": image.astype(np.float32),
                    f"{index}_reference": reference,
                    f"{index}_prediction": prediction,
                }
                meta.append(
                    {
                        "model": f"{method}, {case} case, Dice {dice - 0.1 * bad:.2f}",
                        "patient": patient,
                        "modality": modality,
                        "site_or_set": f"test-{modality.lower()}",
                        "slice_index": 21,
                        "spacing_mm": [5.0, 5.0],
                        "organs": list(ORGANS),
                    }
                )
    np.savez_compressed(folder / "overlays.npz", meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)


def write_study(folder: Path, record: StudyRecord) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder)
    write_overlays(folder)
    return folder


if __name__ == "__main__":
    from secfed.report import build_report

    place = write_study(Path(sys.argv[1]), small_study())
    sys.stdout.write(f"{build_report([place], out=place / 'report.html')}\n")
