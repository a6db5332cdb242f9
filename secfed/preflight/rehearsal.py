"""A run in miniature, to learn what it will send: the same sites, keys, protection and apps, with a tiny network.

Run by whoever plans a run, in one process and a temporary folder. Every message goes through the real apps and the real
engine, so that exchanges and bytes are counted and not computed from a description of the protocol. What depends on the
size of the network (vectors, the plan and its layout) is then exchanged for the size of the real one. Message contents
are counted as a run counts them, without the transport around them.

It does not rehearse the data: the scans are invented and hold no organ.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict

from secfed.augmentation_config import AugmentationConfig
from secfed.config import (
    ModelConfig,
    PreprocessingConfig,
    RunConfig,
    SiteConfig,
    TrainingConfig,
    TrainingPlan,
)
from secfed.data.cases import LABEL_MAPS
from secfed.errors import RoundAborted, SecfedError
from secfed.parameters import ParameterLayout
from secfed.preflight.traffic import StageTraffic, Traffic
from secfed.protected_vector import upload_bytes
from secfed.torch_threads import one_torch_thread

MOST_SITES = 8
"""Larger cohorts are extrapolated: one message grows with the number of sites at most, all of them with its square."""

_EXTRAPOLATED_FROM = (4, 6, 8)
_ROUNDS = 3  # the first brings the confirmations, the last may have no next round to prepare; one stands for the others
_SHAPE = (8, 8, 2)
_SEALED_KEY = (("offer", "up"), ("take", "down"))
"""Here one sealed key goes up, or one comes down to each other site: the sum over all sites is a polynomial of their
number, and the mean is not."""
_Counts = dict[tuple[int, str, str], float]


class RehearsalFailed(RoundAborted):
    """The run in miniature did not come to its end; a site's own words are in the message."""


def rehearse(config: RunConfig, layout: ParameterLayout) -> Traffic:
    """What `config` with a network of `layout` will send.

    Raises:
        RehearsalFailed: a site refused, or a round could not be completed.
    """
    sites = len(config.sites)
    sizes = (sites,) if sites <= MOST_SITES else _EXTRAPOLATED_FROM
    measured = {size: _mean_bytes_per_site(config, layout, size) for size in sizes}
    last = measured[sizes[-1]]
    counts = {
        key: _extrapolate({size: found[key] for size, found in measured.items()}, sites, totals=key[1:] in _SEALED_KEY)
        for key in last
    }
    # Keys stand in the order of the exchanges; a stage has both directions.
    stages = list(dict.fromkeys((number, stage) for number, stage, _ in counts))
    rounds = min(_ROUNDS, config.federation.rounds)

    def of(number: int) -> tuple[StageTraffic, ...]:
        return tuple(
            StageTraffic(stage=stage, up_bytes=counts[number, stage, "up"], down_bytes=counts[number, stage, "down"])
            for found, stage in stages
            if found == number
        )

    encrypted = config.protection.mode == "encrypted"
    return Traffic(
        sites=sites,
        rounds=config.federation.rounds,
        measured_with=sizes,
        vector_bytes=upload_bytes(layout, config, cohort_size=sites),
        model_bytes=0 if encrypted else 4 * layout.size,
        setup=of(0),
        rehearsed=tuple(of(number) for number in range(1, rounds + 1)),
        ending=of(rounds + 1),
        sum_bytes=upload_bytes(layout, config, cohort_size=sites) if encrypted else 0,
    )


def _extrapolate(points: Mapping[int, float], sites: int, *, totals: bool) -> float:
    """The polynomial through the points, or their totals, at `sites` (Lagrange); one point stands for itself."""
    return sum(
        value
        * (size / sites if totals else 1)
        * float(np.prod([(sites - other) / (size - other) for other in points if other != size]))
        for size, value in points.items()
    )


@dataclass
class _Counter:
    """Bytes by round, stage and direction; a tap on an engine's requests and replies."""

    sites: int
    counts: _Counts = field(default_factory=dict)

    def request(self, _: int, message: Message) -> Message:
        return self._count(message, "down")

    def reply(self, _: int, message: Message) -> Message:
        return self._count(message, "up")

    def _count(self, message: Message, direction: str) -> Message:
        stage = message.metadata.message_type.removeprefix("query.")
        key = (int(message.metadata.group_id), stage, direction)
        size = sum(record.count_bytes() for record in message.content.values())
        self.counts[key] = self.counts.get(key, 0.0) + size / self.sites
        return message


def _mean_bytes_per_site(config: RunConfig, layout: ParameterLayout, sites: int) -> _Counts:
    import aggregator.app
    import clients.app
    from aggregator.folder import AggregatorFolder
    from secfed.engines.in_process import RUN_ID, SUPERLINK_NODE, InProcessGrid
    from secfed.experiment.plans import job_specs
    from secfed.experiment.provision import provision_job
    from secfed.experiment.run_folder import RunFolder

    with tempfile.TemporaryDirectory(prefix="secfed-preflight-") as name, one_torch_thread():
        folder = Path(name)
        small = _in_miniature(config, data=_invent_scans(folder / "scans", task=config.task), sites=sites)
        job = provision_job(RunFolder(folder / "run"), small, job_specs(small)[0])
        counter = _Counter(sites)
        with InProcessGrid(
            clients.app.app, job.site_folders, intercept=counter.request, intercept_reply=counter.reply
        ) as grid:
            context = Context(RUN_ID, SUPERLINK_NODE, {}, RecordDict(), {"run-dir": str(job.aggregator_folder)})
            try:
                aggregator.app.app(grid, context)
            except SecfedError as error:
                raise RehearsalFailed(f"{error}{_words_of_a_site(job.site_folders)}") from error
        _, small_layout = AggregatorFolder(job.aggregator_folder).initial_model()
    return _at_real_size(counter.counts, config, layout, small=small.plan(), small_layout=small_layout)


def _at_real_size(
    counts: _Counts, config: RunConfig, layout: ParameterLayout, *, small: TrainingPlan, small_layout: ParameterLayout
) -> _Counts:
    """Exchange what depends on the network: vectors and sums, and the plan and layout that sites agree to."""
    clients = len(config.sites)
    uploaded = upload_bytes(layout, config, cohort_size=clients)
    uploaded -= upload_bytes(small_layout, small, cohort_size=clients)
    offered = len(config.plan().model_dump_json()) + len(layout.to_json())
    offered -= len(small.model_dump_json()) + len(small_layout.to_json())
    more = {("train", "up"): uploaded, ("join", "down"): offered}
    if config.protection.mode == "encrypted":
        more |= {("train", "down"): uploaded, ("end", "down"): uploaded}
    else:
        more[("train", "down")] = 4 * (layout.size - small_layout.size)

    def real(number: int, stage: str, way: str) -> float:
        # What comes down in an encrypted run is the sum of the round before, and before the first there is none.
        nothing_yet = config.protection.mode == "encrypted" and (number, stage, way) == (1, "train", "down")
        return 0 if nothing_yet else more.get((stage, way), 0)

    return {key: value + real(*key) for key, value in counts.items()}


def _in_miniature(config: RunConfig, *, data: Path, sites: int) -> RunConfig:
    """The run with its first sites, invented scans and a network of a few weights; the protection's mode stays."""
    federation = config.federation
    return config.model_copy(
        update={
            "sites": tuple(
                SiteConfig(name=site.name, modality=site.modality, folder=data) for site in config.sites[:sites]
            ),
            "test": (),
            "references": (),
            # A given model is of the real architecture.
            "start_from": None,
            "preprocessing": PreprocessingConfig(),
            "model": ModelConfig(channels=(2, 2), residual_units=0, normalisation=config.model.normalisation),
            "augmentation": AugmentationConfig(method="none"),
            "training": TrainingConfig(batch_size=1, patch_size=(8, 8), steps_per_round=1, optimizer_state="reset"),
            "federation": federation.model_copy(
                update={
                    "rounds": min(_ROUNDS, federation.rounds),
                    "validate_every": 0,
                    "min_cohort": min(sites, federation.min_cohort),
                }
            ),
            # Who may be missing changes no byte either, and a smaller cohort could not spare as many.
            "privacy": config.privacy.model_copy(update={"max_dropouts": 0, "max_colluders": 0}),
            # A threshold changes no byte, and the default is what the sites made here accept.
            "protection": config.protection.model_copy(update={"threshold": None}),
        }
    )


def _invent_scans(folder: Path, *, task: str) -> Path:
    """One training case in AMOS22 layout; every site reads the same one."""
    import nibabel

    spacing = PreprocessingConfig().spacing_mm
    affine = np.diag([*reversed(spacing), 1.0])
    volumes = {
        "image": np.arange(np.prod(_SHAPE), dtype=np.float32).reshape(_SHAPE),
        "label": np.zeros(_SHAPE, np.uint8),
    }
    files = {}
    for kind, values in volumes.items():
        files[kind] = f"{kind}s/rehearsal.nii.gz"
        (folder / files[kind]).parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / files[kind])
    labels = {"0": "background", **{str(index + 1): organ for index, organ in enumerate(LABEL_MAPS[task].organs)}}
    description = {"name": "rehearsal", "labels": labels, "training": [files]}
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def _words_of_a_site(folders: tuple[Path, ...]) -> str:
    """The last entry of the first log there is: the aggregator learns one word, the site knows the reason."""
    for folder in folders:
        log = folder / "books" / "site.log"
        if log.exists():
            entry = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
            return f" Site '{folder.name}' said at stage '{entry.get('stage')}': {entry.get('error')}"
    return ""
