"""A federation that fits in a second: four sites of two tiny scans, a network of two levels, a few steps a round.

Everything is the real thing (readers, keys, apps, engine); only the sizes are small. Tests import it by name, because
`tests/support` is on pytest's path.
"""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

import aggregator.app
import clients.app
from aggregator.folder import AggregatorFolder
from secfed.config import RunConfig, parse_run_config
from secfed.data.cases import ABDOMEN
from secfed.engines.in_process import InProcessGrid, Intercept
from secfed.engines.job import Job
from secfed.experiment.final_model import final_state
from secfed.experiment.plans import job_specs
from secfed.experiment.provision import provision_job
from secfed.experiment.run_folder import RunFolder
from secfed.parameters import model_digest
from secfed.server_optimizer import ServerState

SHAPE = (16, 16, 8)
SITES = {"ct-a": "CT", "ct-b": "CT", "mr-a": "MR", "mr-b": "MR"}
NAMES = {1000 + index: name for index, name in enumerate(SITES)}


def write_volume(path: Path, values: npt.NDArray[Any]) -> None:
    """A NIfTI file on a grid of 5 mm; axes (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([5.0, 5.0, 5.0, 1.0])), path)


def write_data_set(
    folder: Path, *, modality: str, seed: int, training: int = 2, validation: int = 1, test: int = 0
) -> None:
    """A folder in AMOS22 layout with a bright blob per organ."""
    rng = np.random.default_rng(seed)
    first = 1 if modality == "CT" else 501
    entries: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for split, count in (("training", training), ("validation", validation), ("test", test)):
        for _ in range(count):
            number = first + sum(map(len, entries.values()))
            label = np.zeros(SHAPE, np.uint8)
            for value in range(1, len(ABDOMEN.organs) + 1):
                x, y, z = (int(rng.integers(0, size - 4)) for size in SHAPE)
                label[x : x + 4, y : y + 4, z : z + 4] = value
            image = np.asarray(20.0 * label + rng.normal(0, 8, SHAPE), np.float32)
            names = {"image": f"images/amos_{number:04d}.nii.gz", "label": f"labels/amos_{number:04d}.nii.gz"}
            write_volume(folder / names["image"], image)
            write_volume(folder / names["label"], label)
            entries[split].append(names)
    labels = {"0": "background", **{str(index + 1): organ for index, organ in enumerate(ABDOMEN.organs)}}
    (folder / "dataset.json").write_text(json.dumps({"name": folder.name, "labels": labels, **entries}))


def write_data_sets(folder: Path) -> Path:
    """One data set per site, of different sizes so that weights matter, and a test set of each modality."""
    for index, (name, modality) in enumerate(SITES.items()):
        write_data_set(folder / name, modality=modality, seed=index, training=1 + index % 3)
    for index, modality in enumerate(("CT", "MR")):
        write_data_set(
            folder / f"test-{modality.lower()}", modality=modality, seed=10 + index, training=0, validation=0, test=1
        )
    return folder


def tree(data: Path, **changes: Any) -> dict[str, Any]:
    """A run's configuration as a TOML tree; tables in `changes` are merged into the small defaults."""
    base: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "model": {"channels": [4, 8], "residual_units": 0},
        "training": {"batch_size": 2, "patch_size": [16, 16], "steps_per_round": 2},
        "federation": {"rounds": 2, "stage_timeout_seconds": 60.0, "example_cap": 2},
        "protection": {"mode": "masked"},
        "sites": [{"name": name, "modality": modality, "folder": str(data / name)} for name, modality in SITES.items()],
        "test": [{"name": f"test-{kind}", "folder": str(data / f"test-{kind}")} for kind in ("ct", "mr")],
    }
    for name, value in changes.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, dict) else value
    return base


def config(data: Path, **changes: Any) -> RunConfig:
    """The same tree, validated."""
    return parse_run_config(tree(data, **changes))


def provision(folder: Path, run_config: RunConfig, *, model: str = "federated") -> Job:
    """A job's folder inside the run folder `folder`."""
    spec = next(spec for spec in job_specs(run_config) if spec.model == model)
    return provision_job(RunFolder(folder), run_config, spec)


def server_context(job: Job) -> Context:
    """What the ServerApp is started with."""
    return Context(7, 1, {}, RecordDict(), {"run-dir": str(job.aggregator_folder)})


def train(job: Job, *, intercept: Intercept | None = None, intercept_reply: Intercept | None = None) -> ServerState:
    """Run the real apps to the last round and return the last model."""
    with InProcessGrid(clients.app.app, job.site_folders, intercept=intercept, intercept_reply=intercept_reply) as grid:
        aggregator.app.app(grid, server_context(job))
    return last_state(job)


def last_state(job: Job) -> ServerState:
    """The newest model of a job, wherever it lives."""
    return final_state(job)[0]


def digest(job: Job) -> str:
    """Hash of the newest checkpoint's model."""
    _, layout = AggregatorFolder(job.aggregator_folder).initial_model()
    return model_digest(last_state(job).model, layout).hex()


def journal(job: Job) -> list[dict[str, Any]]:
    """The rounds that the aggregator noted."""
    return AggregatorFolder(job.aggregator_folder).journal()


def site_log(job: Job, site: str) -> str:
    """What the site noted for itself."""
    path = job.site_folders[job.site_names.index(site)] / "books" / "site.log"
    return path.read_text() if path.exists() else ""


class Faults:
    """An intercept that spoils the exchanges of some sites: `plan` maps (site, message type) to a kind of fault.

    A request can meet "error" or "silence" before the site sees it; a reply can become "lost", "garbage" (no message of
    ours), "forged" (a payload or vector with a flipped bit) after the site has done its work. `times` bounds how often
    each fault strikes; `seen` lists every request that reached the grid.
    """

    def __init__(self, plan: dict[tuple[str, str], str], *, times: int = 1, skip: int = 0) -> None:
        self.plan = plan
        self.times = times
        self.skip = skip
        self.seen: list[tuple[str, str]] = []
        self._struck: dict[tuple[str, str], int] = {}

    def _strikes(self, node: int, message_type: str, kinds: set[str]) -> str | None:
        key = (NAMES[node], message_type)
        kind = self.plan.get(key)
        if kind not in kinds:
            return None
        count = self._struck[key] = self._struck.get(key, 0) + 1
        return kind if self.skip < count <= self.skip + self.times else None

    def request(self, node: int, message: Message) -> Message | Error | None:
        """For `InProcessGrid(intercept=...)`."""
        self.seen.append((NAMES[node], message.metadata.message_type))
        match self._strikes(node, message.metadata.message_type, {"error", "silence"}):
            case "error":
                return Error(2, "the site's program failed")
            case "silence":
                return None
        return message

    def reply(self, node: int, message: Message) -> Message | Error | None:
        """For `InProcessGrid(intercept_reply=...)`."""
        match self._strikes(node, message.metadata.message_type, {"lost", "garbage", "forged"}):
            case "lost":
                return None
            case "garbage":
                message.content = RecordDict({"secfed": ConfigRecord({"header": b"no message of ours"})})
            case "forged":
                message.content = flip_bit(message.content)
        return message


def flip_bit(records: RecordDict) -> RecordDict:
    """The same reply with one bit of its vector changed, or of its payload where it carries no vector."""
    if "vector" in records:
        array = records["vector"]["vector"]  # type: ignore[index]
        array.data = bytes([array.data[0] ^ 1]) + array.data[1:]
    else:
        payload = records["secfed"]["payloads"][0]  # type: ignore[index]
        records["secfed"]["payloads"] = [payload[:-1] + bytes([payload[-1] ^ 1])]  # type: ignore[index]
    return records
