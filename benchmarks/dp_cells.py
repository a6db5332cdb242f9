"""What `benchmarks.dp_utility` compares: the data of everybody, and one run's configuration per cell.

Three groups of phantoms that share no person and no scanner protocol with one another, where it matters:

    pretraining    population "north" on CT, the stand-in for public or generated data: it costs no privacy
    tuning         population "north" on MRI, where step sizes were chosen; no figure of the benchmark comes from it
    target, test   population "south" on MRI: the patients to protect, and others scanned like them

What is protected is generated too, so every epsilon here is the price of a plan and no promise to anybody.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secfed.config import RunConfig, parse_run_config
from secfed.experiment.plans import CENTRALISED_CLIP_NORM

PUBLIC = "public"
PRETRAINING_ROUNDS = 4
PATIENTS_PER_SITE = 50
MRI_PROTOCOLS = ("mr-t1-gre", "mr-t2-tse")
NO_NOISE = 0.01
"""A noise multiplier that changes nothing: the same code without protection, labelled "no DP"."""

# Chosen on the tuning group at the noise of epsilon 8 with 400 patients, in steps of a factor of about two.
STEP_SIZES: Mapping[str, float] = {"all": 0.1, "decoder": 0.1, "lora": 0.2, "norm+head": 0.4}

# Frequency^-0.5 on phantoms that belong to nobody, as in secfed/configs/demo.toml: public constants.
_CLASS_WEIGHTS = [0.06, 0.30, 0.99, 0.92, 0.94, 1.53, 2.57, 0.52, 1.17]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is; `divisor` makes all data sets smaller."""

    rounds: int
    pretraining_steps: int
    pretraining_cases: int
    test_cases: int
    channels: tuple[int, ...]
    patches: int
    divisor: int = 1


STANDARD = Scale(
    rounds=30, pretraining_steps=1600, pretraining_cases=80, test_cases=12, channels=(16, 32, 64, 128), patches=2
)
SMOKE = Scale(
    rounds=2,
    pretraining_steps=4,
    pretraining_cases=1,
    test_cases=1,
    channels=(4, 8),
    patches=1,
    divisor=PATIENTS_PER_SITE,
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run. `epsilon` None means no noise to speak of.

    `alone` is the same training where nobody trusts a sum: uploads travel in plain, and every site's own noise must be
    enough ("local noise"). `ordinary` is federated training as it is without privacy: AdamW, many steps a round.
    """

    name: str
    group: str
    epsilon: float | None = 8.0
    sites: int = 8
    patients_per_site: int = PATIENTS_PER_SITE
    trainable: str = "all"
    gin: bool = False
    alone: bool = False
    pretrained: bool = True
    patches: int | None = None
    views: int = 1
    momentum: float = 0.9
    ordinary: bool = False

    @property
    def patients(self) -> int:
        """Of all sites together."""
        return self.sites * self.patients_per_site

    @property
    def step_size(self) -> float:
        """Shorter by the square root where the noise on the mean is stronger than where step sizes were chosen."""
        stronger = 1.0
        if self.epsilon is not None:
            stronger = (8 / self.epsilon) * (8 * PATIENTS_PER_SITE / self.patients)
            stronger *= math.sqrt(self.sites) if self.alone else 1.0
        return STEP_SIZES[self.trainable] / math.sqrt(max(1.0, stronger))


def data_config(scale: Scale) -> RunConfig:
    """Every data set once, as sites and test sets of one run that is never trained."""
    sites = [_phantom(PUBLIC, "CT", population="north", protocol="ct-any", train=scale.pretraining_cases)]
    for cases, count in ((PATIENTS_PER_SITE, 8), (PATIENTS_PER_SITE // 2, 4)):
        sites += [
            _phantom(
                target(index, cases),
                "MR",
                population="south",
                protocol=MRI_PROTOCOLS[index % 2],
                train=_shrunk(cases, scale),
            )
            for index in range(count)
        ]
    tests = [
        {"name": f"test-{index}", "phantom": {"population": "south", "protocol": protocol, "test": scale.test_cases}}
        for index, protocol in enumerate(MRI_PROTOCOLS)
    ]
    return parse_run_config({"name": "dp-utility-data", "sites": sites, "test": tests})


def target(index: int, cases: int) -> str:
    """The name of a target site's data set."""
    return f"target-{cases}-{index}"


def pretraining_config(scale: Scale, *, data: Path) -> RunConfig:
    """Ordinary training on the public CT phantoms, in one place."""
    steps = scale.pretraining_steps // PRETRAINING_ROUNDS
    return parse_run_config(
        {
            **_common(scale, gin_prob=1.0),
            "name": "pretraining",
            "training": {**_training(), "loss_over": "batch", "steps_per_round": steps},
            "federation": {"rounds": PRETRAINING_ROUNDS, "min_cohort": 1, "clip_norm": CENTRALISED_CLIP_NORM},
            "protection": {"mode": "plain"},
            "sites": [{"name": PUBLIC, "modality": "CT", "folder": str(data / PUBLIC)}],
            "test": _tests(data),
        }
    )


def cell_config(cell: Cell, scale: Scale, *, data: Path, start_from: Path) -> RunConfig:
    """The run of one cell."""
    patients = _shrunk(cell.patients_per_site, scale)
    tree: dict[str, Any] = {
        **_common(scale, gin_prob=0.5 if cell.gin else 0.0),
        "name": "dp-utility",
        "training": {**_training(), "loss_over": "image", "optimizer_state": "reset"},
        "federation": {
            "rounds": scale.rounds,
            "example_cap": patients,
            "server_optimizer": "fedavgm",
            "server_momentum": cell.momentum,
            # A velocity adds up to 1 / (1 - momentum) steps: without it, steps are as much longer.
            "server_learning_rate": cell.step_size * (1 - cell.momentum) / (1 - 0.9),
            "ema_decay": 0.9,
            "min_cohort": cell.sites,
        },
        "protection": {"mode": "plain" if cell.alone else "masked"},
        "privacy": {
            "mode": "distributed",
            "trainable": cell.trainable,
            "patients": cell.sites * patients,
            "sampling_prob": 1.0,
            "patches": cell.patches or scale.patches,
            "views": cell.views,
            **({"noise_multiplier": NO_NOISE} if cell.epsilon is None else {"epsilon": cell.epsilon}),
        },
        "sites": [
            {"name": f"mr-{index}", "modality": "MR", "folder": str(data / target(index, cell.patients_per_site))}
            for index in range(cell.sites)
        ],
        "test": _tests(data),
    }
    if cell.pretrained:
        tree["start_from"] = str(start_from)
    if cell.ordinary:
        tree["privacy"] = {"mode": "off"}
        tree["training"] = {**_training(), "loss_over": "batch", "optimizer_state": "keep", "steps_per_round": 10}
        tree["federation"] = {"rounds": scale.rounds, "example_cap": patients, "min_cohort": cell.sites}
    return parse_run_config(tree)


def standard_cells() -> list[Cell]:
    """The grid: the main line first, then one change at a time."""
    main = [Cell(name="no DP", group="distributed", epsilon=None)]
    main += [Cell(name=f"epsilon {epsilon:g}", group="distributed", epsilon=epsilon) for epsilon in (8.0, 3.0, 1.0)]
    local = [
        Cell(name=f"epsilon {epsilon:g}", group="local", epsilon=epsilon, alone=True) for epsilon in (8.0, 3.0, 1.0)
    ]
    fewer = [
        Cell(name="200 patients, 4 sites", group="patients", sites=4),
        Cell(name="100 patients, 4 sites", group="patients", sites=4, patients_per_site=PATIENTS_PER_SITE // 2),
    ]
    changed = [
        Cell(name="norm+head learns", group="200 patients", sites=4, trainable="norm+head"),
        Cell(name="lora learns", group="200 patients", sites=4, trainable="lora"),
        Cell(name="from scratch", group="200 patients", sites=4, pretrained=False),
        Cell(name="server momentum 0", group="200 patients", sites=4, momentum=0.0),
        Cell(name="1 patch, 1 GIN view", group="200 patients", sites=4, gin=True, patches=1),
        Cell(name="1 patch, 4 GIN views", group="200 patients", sites=4, gin=True, patches=1, views=4),
        Cell(name="no DP", group="200 patients", sites=4, epsilon=None),
        Cell(name="norm+head learns, no DP", group="200 patients", sites=4, trainable="norm+head", epsilon=None),
    ]
    ordinary = [Cell(name="ordinary training, no DP", group="ordinary", epsilon=None, ordinary=True)]
    return main + local + fewer + ordinary + changed


def smoke_cells() -> list[Cell]:
    """One cell of every kind of run."""
    return [
        Cell(name="no DP", group="distributed", epsilon=None, sites=4),
        Cell(name="epsilon 8", group="distributed", sites=4),
        Cell(name="epsilon 8", group="local", alone=True, sites=4),
    ]


def _phantom(name: str, modality: str, **source: Any) -> dict[str, Any]:
    return {"name": name, "modality": modality, "phantom": source}


def _shrunk(cases: int, scale: Scale) -> int:
    return max(1, cases // scale.divisor)


def _common(scale: Scale, *, gin_prob: float) -> dict[str, Any]:
    return {
        "model": {"channels": list(scale.channels), "residual_units": 0},
        "augmentation": {
            "method": "gin" if gin_prob else "none",
            "gin": {"width": 8, "probability": gin_prob},
            "affine": {"shift": 0.05},
        },
    }


def _training() -> dict[str, Any]:
    return {"patch_size": [64, 80], "foreground_prob": 0.9, "class_weights": _CLASS_WEIGHTS}


def _tests(data: Path) -> list[dict[str, str]]:
    return [{"name": f"test-{index}", "folder": str(data / f"test-{index}")} for index in range(len(MRI_PROTOCOLS))]
