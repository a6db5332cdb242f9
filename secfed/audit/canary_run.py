"""A run of the real apps whose patients are canaries, and what came out of it at each canary's own entry.

Run by whoever audits, who plays every party. The attacker's view follows from how updates travel: with masks or
encryption the models of all rounds, from which the sums follow, less what colluding sites sent themselves; in plain,
in local mode, and where a colluding site gives the group key of an encrypted run away, the very upload of the canary's
site. What was charged is read from the site's own ledger.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from privacy.accounting import Segment, Spend, spend
from privacy.fixed_point import VectorFormat, decode_sum
from secfed.audit.canary_patients import PATCH, Canaries, canaries_in_place, write_sites
from secfed.audit.rows import Mode
from secfed.config import RunConfig, TrainingPlan, parse_run_config
from secfed.parameters import FloatVector, ParameterLayout
from secfed.privacy_config import PrivacyMode
from secfed.protected_vector import encryption_parameters, vector_format
from secfed.torch_threads import one_torch_thread

if TYPE_CHECKING:
    from flwr.app import Error, Message

    from secfed.engines.job import Job
    from secfed.messages import Reply

Values = npt.NDArray[np.float64]

DELTA = 1e-5
ENTRIES = 3249
"""Parameters of the network of these runs; checked against it."""

_LONGEST = 2**16
_CLIENT_FAILED = 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run: `honest` sites with canaries, and `dropouts` and `colluders` more without.

    The agreement names as many dropouts and colluders as there are: the worst case that it is charged for.
    """

    mode: PrivacyMode
    protection: Mode
    noise_multiplier: float = 1.0
    sampling_prob: float = 1.0
    honest: int = 4
    dropouts: int = 0
    colluders: int = 0

    @property
    def sites(self) -> list[str]:
        """Names: those with canaries first, then colluders, then those that drop out."""
        return [f"site-{index:02d}" for index in range(self.honest + self.colluders + self.dropouts)]

    @property
    def name(self) -> str:
        """The run in a few words."""
        parts: list[str] = [self.mode, self.protection]
        parts += [f"{self.dropouts} dropping out"] if self.dropouts else []
        parts += [f"{self.colluders} colluding"] if self.colluders else []
        parts += [f"sampled at {self.sampling_prob:g}"] if self.sampling_prob < 1.0 else []
        return ", ".join(parts)

    @property
    def sees_single_uploads(self) -> bool:
        """Whether the attacker reads one site's upload by itself."""
        return self.mode == "local" or self.protection == "plain" or self.key_is_shared

    @property
    def key_is_shared(self) -> bool:
        """Whether a colluding site gives the group key of an encrypted run away."""
        return self.protection == "encrypted" and self.colluders > 0


@dataclass(frozen=True, kw_only=True)
class CanaryRun:
    """`seen` (canaries, rounds): what stood at each canary's entry, 1 for one whole contribution, with its sign undone.

    `segments` are what the canaries' sites charged.
    """

    canaries: Canaries
    seen: Values = field(repr=False)
    segments: tuple[Segment, ...]

    @property
    def spent(self) -> Spend:
        """What the ledger says that the canaries paid."""
        return spend(self.segments, delta=DELTA)


class CanaryData:
    """Data sets of canaries, written once for several runs with the same coins; a context manager."""

    def __init__(self, *, count: int, rounds: int, honest: int, seed: int) -> None:
        self.canaries = Canaries.drawn(count, sites=honest, entries=ENTRIES, rounds=rounds, seed=seed)
        self.rounds = rounds
        self.seed = seed
        self._temporary = tempfile.TemporaryDirectory(prefix="secfed-canaries-")
        self.folder = Path(self._temporary.name)
        self._runs = 0

    def __enter__(self) -> "CanaryData":
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def next_folder(self) -> Path:
        """A run folder whose cache of prepared scans is that of the others."""
        self._runs += 1
        run = self.folder / f"run-{self._runs}"
        run.mkdir()
        (self.folder / "cache").mkdir(exist_ok=True)
        (run / "cache").symlink_to(self.folder / "cache")
        return run


def run_canaries(data: CanaryData, setting: Setting) -> CanaryRun:
    """Train on canaries and read off what an attacker sees of each.

    Raises:
        RoundAborted: sites refused, so the run could not be completed.
    """
    from secfed.experiment.plans import job_specs
    from secfed.experiment.provision import provision_job
    from secfed.experiment.run_folder import RunFolder

    patients = write_sites(data.folder / f"data-{setting.honest}", data.canaries, names=setting.sites)
    config = _config(data, setting, cap=max(patients.values()))
    spec = next(spec for spec in job_specs(config) if spec.model == "federated")
    job = provision_job(RunFolder(data.next_folder()), config, spec)
    watcher = _Watcher(job, setting)
    with one_torch_thread(), canaries_in_place(data.canaries), watcher.grid() as train:
        train()
    watcher.see_model(data.rounds)
    weight = sum(patients[name] for name in setting.sites[: setting.honest + setting.colluders])
    seen = watcher.seen(data.canaries, weight=weight / spec.plan.federation.example_cap)
    # One contribution is worth this much in a weighted delta or gradient; gradients point the other way than deltas.
    unit = spec.plan.privacy.clip_norm / (spec.plan.privacy.sampling_prob * spec.plan.federation.example_cap)
    seen *= data.canaries.signs / (unit if setting.mode == "local" else -unit)
    return CanaryRun(canaries=data.canaries, seen=seen, segments=_charged(job.site_folders[0]))


def _config(data: CanaryData, setting: Setting, *, cap: int) -> RunConfig:
    fewest = len(setting.sites) - setting.dropouts
    return parse_run_config(
        {
            "name": "canaries",
            "seed": data.seed,
            "model": {"channels": [8, 16], "residual_units": 0},
            "augmentation": {"method": "none", "affine": {"probability": 0.0}},
            "training": {
                "patch_size": PATCH,
                "steps_per_round": 1,
                # In local mode an upload then holds the noisy gradient itself: the most that anybody is shown.
                "optimizer_state": "average" if setting.mode == "local" else "reset",
                "adam_betas": (0.0, 0.99),
                "gradient_clip_norm": 100.0,
            },
            "federation": {
                "rounds": data.rounds,
                "weighting": "examples",
                "example_cap": cap,
                "min_cohort": max(2, fewest),
                "stage_timeout_seconds": 60.0,
            },
            "protection": {"mode": setting.protection},
            "privacy": {
                "mode": setting.mode,
                "noise_multiplier": setting.noise_multiplier,
                "delta": DELTA,
                "sampling_prob": setting.sampling_prob,
                "patches": 1,
                "views": 1,
                "max_dropouts": setting.dropouts,
                "max_colluders": setting.colluders,
            },
            "sites": [
                {"name": site, "modality": "CT", "folder": data.folder / f"data-{setting.honest}" / site}
                for site in setting.sites
            ],
        }
    )


class _Watcher:
    """Keeps what an attacker gets to see: models between rounds, single uploads, what colluding sites sent."""

    def __init__(self, job: "Job", setting: Setting) -> None:
        from aggregator.folder import AggregatorFolder

        self.job = job
        self.setting = setting
        initial, self.layout = AggregatorFolder(job.aggregator_folder).initial_model()
        self.models: dict[int, FloatVector] = {0: initial}
        self.uploads: dict[tuple[int, int], npt.NDArray[np.uint32]] = {}

    @property
    def plan(self) -> TrainingPlan:
        return self.job.plan

    @property
    def slots(self) -> VectorFormat:
        return vector_format(self.layout, self.plan, cohort_size=len(self.setting.sites))

    @contextmanager
    def grid(self) -> Iterator[Callable[[], None]]:
        """The engine with this attacker in it; yields what starts the run."""
        from flwr.app import Context, Error, RecordDict

        import aggregator.app
        import clients.app
        from secfed.engines.in_process import InProcessGrid
        from secfed.messages import Reply, Stage, decode_reply

        staying = self.setting.honest + self.setting.colluders

        def lose(node: int, message: "Message") -> "Message | Error":
            if node - 1000 >= staying and message.metadata.message_type == Stage.TRAIN.message_type:
                return Error(_CLIENT_FAILED, "the site is not there")
            return message

        def watch(node: int, message: "Message") -> "Message":
            reply = decode_reply(message.content, max_vector_length=_LONGEST, max_attachment_bytes=2**30)
            if isinstance(reply, Reply) and reply.stage is Stage.TRAIN:
                self._watch(node - 1000, reply)
            return message

        with InProcessGrid(clients.app.app, self.job.site_folders, intercept=lose, intercept_reply=watch) as grid:
            context = Context(7, 1, {}, RecordDict(), {"run-dir": str(self.job.aggregator_folder)})
            yield lambda: aggregator.app.app(grid, context)

    def see_model(self, completed: int) -> None:
        """Keep the model after so many rounds."""
        from secfed.experiment.final_model import final_state

        state, _ = final_state(self.job)
        if state.completed != completed:
            raise RuntimeError(f"the model of round {completed} was to be read, and that of {state.completed} is there")
        self.models[completed] = state.model

    def seen(self, canaries: Canaries, *, weight: float) -> Values:
        """What stands at each canary's entry in each round, (canaries, rounds), in the units of what travels."""
        rounds = self.plan.federation.rounds
        entries = _trained_entries(self.plan, self.layout)[canaries.entry]
        columns = []
        for server_round in range(1, rounds + 1):
            if self.setting.sees_single_uploads:
                single = np.stack([self._single(server_round, site) for site in range(self.setting.honest)])
                columns.append(single[canaries.site, entries])
                continue
            moved = self.models[server_round].astype(np.float64) - self.models[server_round - 1]
            total = moved[: self.layout.num_parameters] * weight
            for site in range(self.setting.honest, self.setting.honest + self.setting.colluders):
                total -= self._single(server_round, site)
            columns.append(total[entries])
        return np.stack(columns, axis=1)

    def _single(self, server_round: int, site: int) -> Values:
        decoded = decode_sum(self.uploads[server_round, site], vector_format=self.slots)
        part: Values = decoded[self.slots.slice_of("moments" if self.setting.mode == "local" else "delta")]
        return part[: self.layout.num_parameters]

    def _watch(self, site: int, reply: "Reply") -> None:
        server_round = reply.binding.server_round
        if server_round > 1 and server_round - 1 not in self.models:
            self.see_model(server_round - 1)
        if self.setting.key_is_shared and reply.attachment is not None:
            self.uploads[server_round, site] = self._decrypted(reply.attachment)
        elif self.setting.sees_single_uploads and reply.vector is not None:
            self.uploads[server_round, site] = np.array(reply.vector)
        elif site >= self.setting.honest:
            # A colluding site knows what it sent before masks went on.
            kept = (self.job.site_folders[site] / "state" / "releases").glob("*.u32")
            newest = max(kept, key=lambda path: path.stat().st_mtime_ns)
            self.uploads[server_round, site] = np.fromfile(newest, "<u4").astype(np.uint32)

    def _decrypted(self, ciphertext: bytes) -> npt.NDArray[np.uint32]:
        """One site's upload, opened by the key that the first colluding site holds."""
        from clients.encrypted_run import MEMBER, encrypted_runs
        from clients.site import Site
        from privacy.he.key_holder import GroupKey
        from privacy.he.member_state import MemberState
        from secfed.audit.ciphertexts import read_words, secret_of

        (run,) = encrypted_runs(Site(self.job.site_folders[self.setting.honest]))
        parameters = encryption_parameters(self.slots, self.plan.protection)
        state = MemberState.from_bytes((run / MEMBER).read_bytes())
        secret = secret_of(GroupKey.from_bytes(state.group_key, parameters=parameters))
        return read_words(ciphertext, length=self.slots.length, parameters=parameters, secret=secret)


def _trained_entries(plan: TrainingPlan, layout: ParameterLayout) -> npt.NDArray[np.intp]:
    import torch

    from clients.patient_training import trained_positions
    from clients.training import network_for

    positions = trained_positions(network_for(plan, torch.device("cpu")), layout)
    if len(positions) != ENTRIES:
        raise RuntimeError(f"the network has {len(positions)} parameters, canaries were drawn for {ENTRIES}")
    return positions


def _charged(site: Path) -> tuple[Segment, ...]:
    from privacy.ledger import read_entries
    from privacy.ledger_account import Account

    (path,) = (site / "ledgers").glob("*.ledger")
    entries, _ = read_entries(path)
    return tuple(Account(entries).segments)
