"""A small real run as its aggregator sees it: real site folders, the real site and aggregator programs, one process.

Whoever attacks is the aggregator. It chooses the plan, the model that the run starts from and that model's layout; it
keeps every upload as it arrived and reads its own checkpoint, which holds what the sum gave. The sites are honest: they
refuse what they refuse.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from privacy.fixed_point import VectorFormat, decode_sum
from secfed.audit.rows import Mode
from secfed.audit.slices import SPACING_MM, Slice, write_data_set
from secfed.config import TrainingPlan, parse_run_config
from secfed.data.cases import LABEL_MAPS
from secfed.data.preprocessing import PreparedCase
from secfed.errors import RoundAborted
from secfed.parameters import FloatVector, ParameterLayout, save_vector
from secfed.protected_vector import vector_format
from secfed.torch_threads import one_torch_thread

if TYPE_CHECKING:
    from torch import nn

# The weight and the metrics stand beside the model in an upload.
_OTHER_SLOTS = 64

ONE_STEP: Mapping[str, Any] = {
    "model": {"channels": [32, 32], "residual_units": 0},
    "augmentation": {"method": "none", "affine": {"probability": 0.0}},
    "training": {
        "batch_size": 1,
        "patch_size": [16, 16],
        "steps_per_round": 1,
        "optimizer_state": "average",
        "loss_over": "image",
    },
    "federation": {"rounds": 1, "weighting": "uniform", "min_cohort": 3},
}
"""The attacker's good case: one step on one slice, no augmentation, and moments that carry the gradient itself.

A plan comes from whoever runs the aggregator, and no site's policy forbids this one.
"""


class SitesRefused(Exception):  # noqa: N818 - a refusal is the field's word
    """The run ended because sites declined; `reasons` holds the last words of each site's own log."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{site}: {reason}" for site, reason in reasons.items()))
        self.reasons = reasons


@dataclass(frozen=True, kw_only=True)
class SmallRun:
    """What the aggregator holds after the last round, and, for scoring, what each site trained on.

    `start` is the model that the run began with, `state` the model after it, both in `layout`; `uploads` are those of
    the last round.
    """

    plan: TrainingPlan
    layout: ParameterLayout
    start: FloatVector
    state: FloatVector
    uploads: Mapping[str, npt.NDArray[np.uint32]]
    cases: Mapping[str, tuple[PreparedCase, ...]]

    @property
    def slots(self) -> VectorFormat:
        """Where things stand in an upload."""
        return vector_format(self.layout, self.plan, cohort_size=len(self.cases))

    def gradient_in(self, upload: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """The gradient that an upload holds after one step, up to the site's weight, (num_parameters,).

        AdamW's first moment after one step is (1 - beta) times the gradient; where moments are shared it is uploaded.
        """
        return self._scaled(decode_sum(upload, vector_format=self.slots)[self.slots.slice_of("moments")])

    def gradient_in_sum(self) -> npt.NDArray[np.float64]:
        """The mean of all sites' gradients after one step, (num_parameters,), from the aggregator's checkpoint."""
        return self._scaled(self.state[self.layout.model_size :].astype(np.float64))

    def step_in(self, upload: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """The step against which an upload moves the model, up to the site's weight, (num_parameters,).

        After one step without momentum, as under distributed noise, it is the gradient with that noise.
        """
        return -decode_sum(upload, vector_format=self.slots)[self.slots.slice_of("delta")]

    def step_in_sum(self) -> npt.NDArray[np.float64]:
        """The same of the sum, up to the server's step size, (num_parameters,), from start and checkpoint."""
        moved = self.start.astype(np.float64) - self.state
        return moved[: self.layout.num_parameters]

    def network(self, vector: FloatVector) -> "nn.Module":
        """The plan's network with the values of `vector`, `start` or `state`."""
        from secfed.model import build_model, load_flat

        model = build_model(self.plan.model, num_classes=LABEL_MAPS[self.plan.task].num_classes)
        load_flat(model, vector[: self.layout.model_size], self.layout.model_layout())
        return model

    def _scaled(self, moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        first = moments[: self.layout.num_parameters]
        return first / (1 - self.plan.training.adam_betas[0])


def run_small(
    patients: Sequence[Sequence[Slice]],
    *,
    mode: Mode,
    seed: int,
    tables: Mapping[str, Any],
    start: FloatVector | None = None,
    layout: ParameterLayout | None = None,
) -> SmallRun:
    """Train on one sequence of patients per site, under a plan with these tables.

    `start` and `layout` replace the model that the plan's architecture and seed give.

    Raises:
        SitesRefused: the run could not be completed.
    """
    # Flower takes seconds to load, so it is loaded when an attack starts and not when attacks are listed.
    from flwr.app import Context, Message, RecordDict

    import aggregator.app
    import clients.app
    from aggregator.folder import AggregatorFolder
    from secfed.aggregator_files import CHECKPOINTS, INITIAL
    from secfed.checkpoint import Checkpoints
    from secfed.engines.in_process import InProcessGrid
    from secfed.experiment.plans import job_specs
    from secfed.experiment.provision import provision_job
    from secfed.experiment.run_folder import RunFolder
    from secfed.messages import Reply, Stage, decode_reply

    with tempfile.TemporaryDirectory(prefix="secfed-attack-") as name, one_torch_thread():
        folder = Path(name)
        names = [f"site-{index:02d}" for index in range(len(patients))]
        for site, own in zip(names, patients, strict=True):
            write_data_set(folder / "data" / site, own)
        config = parse_run_config(
            {
                "name": "attack",
                "seed": seed,
                "preprocessing": {"spacing_mm": SPACING_MM},
                "protection": {"mode": mode},
                "sites": [{"name": site, "modality": "CT", "folder": folder / "data" / site} for site in names],
                **tables,
            }
        )
        spec = next(spec for spec in job_specs(config) if spec.model == "federated")
        job = provision_job(RunFolder(folder / "run"), config, spec)
        honest_start, honest_layout = AggregatorFolder(job.aggregator_folder).initial_model()
        start = honest_start if start is None else start
        layout = honest_layout if layout is None else layout
        save_vector(job.aggregator_folder / INITIAL, start, layout, metadata={})
        longest = layout.size + _OTHER_SLOTS
        uploads: dict[str, npt.NDArray[np.uint32]] = {}

        def keep(_: int, message: Message) -> Message:
            reply = decode_reply(message.content, max_vector_length=longest)
            if isinstance(reply, Reply) and reply.stage is Stage.TRAIN and reply.vector is not None:
                uploads[reply.site] = np.array(reply.vector)
            return message

        sites = dict(zip(job.site_names, job.site_folders, strict=True))
        with InProcessGrid(clients.app.app, job.site_folders, intercept_reply=keep) as grid:
            try:
                aggregator.app.app(grid, Context(7, 1, {}, RecordDict(), {"run-dir": str(job.aggregator_folder)}))
            except RoundAborted as aborted:
                raise SitesRefused({site: _last_words(place) for site, place in sorted(sites.items())}) from aborted
        state = Checkpoints(job.aggregator_folder / CHECKPOINTS).load(layout)
        if state is None:
            raise RuntimeError("the run ended without a checkpoint")
        return SmallRun(
            plan=spec.plan,
            layout=layout,
            start=start,
            state=state.model,
            uploads=dict(sorted(uploads.items())),
            cases={site: _cases(place, spec.plan) for site, place in sorted(sites.items())},
        )


def _cases(folder: Path, plan: TrainingPlan) -> tuple[PreparedCase, ...]:
    from clients.site import Site

    # Copies, because the cache goes with the temporary folder.
    return tuple(
        replace(case, image=np.array(case.image), label=np.array(case.label))
        for source in Site(folder).cases(plan).sources
        for case in source.cases
    )


def _last_words(folder: Path) -> str:
    log = folder / "books" / "site.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return str(json.loads(lines[-1]).get("error", "")) if lines else ""
