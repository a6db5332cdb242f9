"""The model leaves the consortium here and nowhere else: a site's owner writes the last model of an encrypted run.

Runs at a site, by its owner's command; no request of an aggregator leads here. It reads the run's folder
(clients.encrypted_run) and the site's books, and needs neither the identity key nor a roster, so that a model can be
exported after both have expired. Every export is noted in the site's log before the file is there.

The file is not encrypted and carries no guarantee: whoever has it has the model and what the model says about patients.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clients.encrypted_run import MEMBER, RECORD, EncryptedRun, encrypted_runs
from clients.own_layers import OwnLayers
from clients.site import Site
from privacy.errors import MisuseError
from privacy.he.member_state import MemberState
from secfed.data.cases import LABEL_MAPS
from secfed.errors import ConfigError, RunFolderError, SecfedError
from secfed.parameters import PLAN_KEY, FloatVector, model_digest, save_vector
from secfed.server_optimizer import ServerState

_SHOWN_DIGITS = 12

RunState = Literal["ended", "end not confirmed", "under way", "key lost"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a site stands in an encrypted run, from its own files.

    `state` is "ended" once enough sites showed that they ended on one model; "end not confirmed" after the last round
    without that; "key lost" where the protocol state is missing or damaged and only the books tell of the rounds.
    `model_hash` is of the model with its moments, empty before the first round is done. `began` is an ISO 8601 time.
    """

    run: str
    name: str
    began: str
    rounds: int
    completed: int
    state: RunState
    model_hash: bytes

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "run": self.run,
            "name": self.name,
            "began": self.began,
            "rounds": self.rounds,
            "rounds_done": self.completed,
            "state": self.state,
        }

    def describe(self) -> str:
        """One line for a person."""
        return f"{self.run[:_SHOWN_DIGITS]} ('{self.name}', {self.completed} of {self.rounds} rounds, {self.state})"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written where; `sha256` is the hex digest that the file's metadata carry, too."""

    site: str
    out: Path
    sha256: str
    standing: Standing

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"site": self.site, "out": str(self.out), "sha256": self.sha256, **self.standing.as_dict()}


def standing_of(run: EncryptedRun) -> Standing:
    """Where the site stands in a run.

    Raises:
        RunFolderError: the protocol state in the folder belongs to another run or another site.
    """
    session, site = run.session, run.site
    rounds = session.plan.federation.rounds
    state: RunState
    try:
        member = MemberState.from_bytes((run.folder / MEMBER).read_bytes())
    except (OSError, MisuseError):
        completed, model_hash = site.books.standing(session.run)
        state = "key lost"
    else:
        if (member.run, member.name) != (session.run, site.name):
            raise RunFolderError(f"{run.folder / MEMBER}: belongs to another run or another site than '{site.name}'")
        completed, model_hash = member.completed, member.model_hash
        unconfirmed: RunState = "end not confirmed" if completed == rounds else "under way"
        state = "ended" if member.stage == "ENDED" else unconfirmed
    began = time.localtime((run.folder / RECORD).stat().st_mtime)
    return Standing(
        run=session.run.hex(),
        name=session.plan.name,
        began=time.strftime("%Y-%m-%dT%H:%M:%S%z", began),
        rounds=rounds,
        completed=completed,
        state=state,
        model_hash=model_hash,
    )


def last_model(run: EncryptedRun, standing: Standing) -> ServerState:
    """The model and momentum after the last round that the site stepped on, proven to be those it stands on.

    Raises:
        RunFolderError: no round is done, or the files are missing, damaged or of another model.
    """
    if standing.completed == 0:
        raise RunFolderError(f"run {standing.describe()}: no round is done yet, so there is no model")
    layout = run.session.layout
    state = run.checkpoints.load(layout, completed=standing.completed)
    if state is None:
        raise RunFolderError(
            f"{run.checkpoints.folder}: the model after round {standing.completed} is not there; every other site of "
            "the run has the same one"
        )
    if model_digest(state.model, layout) != standing.model_hash:
        raise RunFolderError(
            f"{run.checkpoints.folder}: the model after round {standing.completed} is not the one that this site "
            "stepped to; every other site of the run has it"
        )
    return state


def standings(site: Site) -> tuple[tuple[Standing, ...], tuple[str, ...]]:
    """All encrypted runs of a site, the newest first, and one sentence for each folder that cannot be read."""
    found, problems = [], []
    for folder in encrypted_runs(site):
        try:
            found.append(standing_of(EncryptedRun.open(site, folder)))
        except SecfedError as error:
            problems.append(str(error))
    return tuple(found), tuple(problems)


def export_model(site: Site, *, out: Path, run: str | None = None, unfinished: int | None = None) -> Export:
    """Write the last model of a run, without the optimiser's moments, to a file that must not exist yet.

    Where normalisation layers are not everybody's, those in the file are this site's own, or its modality's: the model
    is for scans as this site makes them, and another site exports another one.
    `run` is the run's identifier or its beginning, needed where the site has several. `unfinished` is for a run that
    has not ended: the number of rounds that are done, so that nobody takes such a model for a final one by accident.

    Raises:
        ConfigError: `out` exists or has no folder, `run` names none or several, or `unfinished` is not the number.
        RunFolderError: there is no encrypted run, it has not ended, or its files are missing or damaged.
    """
    # A link counts as there, wherever it leads.
    if os.path.lexists(out):
        raise ConfigError(f"--out = '{out}': exists, and an export overwrites nothing; choose another file")
    if not out.parent.is_dir():
        raise ConfigError(f"--out = '{out}': the folder {out.parent} does not exist")
    chosen = _choose(site, run)
    standing = standing_of(chosen)
    _require_finished(standing, unfinished)
    layout = chosen.session.layout
    # Torch is needed for a plan with adapters alone.
    from secfed.network import finished_model

    plan = chosen.session.plan
    result = last_model(chosen, standing).result
    network = _with_own_layers(site, chosen, result, completed=standing.completed)
    vector, model_layout = finished_model(network, layout, plan=plan, num_classes=LABEL_MAPS[plan.task].num_classes)
    sha256 = model_digest(vector, model_layout).hex()
    noted = {"run": standing.run, "rounds": standing.completed, "sha256": sha256, "out": str(out.absolute())}
    site.books.log("export", state=standing.state, **noted)
    metadata = {
        "model": "federated",
        "sha256": sha256,
        "run": standing.run,
        "rounds": str(standing.completed),
        "planned_rounds": str(standing.rounds),
        "name": standing.name,
        "plan": plan.digest().hex(),
        PLAN_KEY: plan.model_dump_json(),
    }
    if plan.federation.normalisation != "shared":
        metadata["normalisation"] = f"{plan.federation.normalisation}, of site {site.name}"
        modalities = {data.modality for data in site.file.data}
        if len(modalities) == 1 and (modality := modalities.pop()) is not None:
            metadata["modality"] = modality
    try:
        _reserve(out)
        try:
            save_vector(out, vector, model_layout, metadata=metadata)
        except BaseException:
            out.unlink(missing_ok=True)
            raise
    except OSError as error:
        site.books.log("export failed", error=repr(error), **noted)
        raise ConfigError(f"--out = '{out}': cannot be written: {error.strerror}") from error
    return Export(site=site.name, out=out, sha256=sha256, standing=standing)


def _with_own_layers(site: Site, run: EncryptedRun, result: FloatVector, *, completed: int) -> FloatVector:
    own = OwnLayers.of(site, run.session)
    if own.kept is not None and own.kept.newest(before=completed + 1) is None:
        raise RunFolderError(
            f"{own.kept.files.folder}: the normalisation layers that this site trained in the run are not there, and "
            "no other site has them"
        )
    return own.start(result, server_round=completed + 1)


def _choose(site: Site, run: str | None) -> EncryptedRun:
    folders = encrypted_runs(site)
    if not folders:
        raise RunFolderError(
            f"{site.folder}: site '{site.name}' has taken part in no encrypted run; of a masked or plain run the "
            "aggregator has the model"
        )
    if run is None and len(folders) == 1:
        return EncryptedRun.open(site, folders[0])
    # A folder is named by the beginning of the run's identifier, so that a damaged record keeps no other from its name.
    named = [folder for folder in folders if run and folder.name.startswith(run[: len(folder.name)])]
    if run is not None and len(named) == 1:
        found = EncryptedRun.open(site, named[0])
        if found.session.run.hex().startswith(run):
            return found
    readable, problems = standings(site)
    known = "; ".join([*(standing.describe() for standing in readable), *problems])
    if run is None:
        raise ConfigError(
            f"site '{site.name}' has taken part in {len(folders)} encrypted runs: choose by --run: {known}"
        )
    count = "several runs" if len(named) > 1 else "no run"
    raise ConfigError(f"--run = '{run}': names {count} of this site; there are: {known}")


def _require_finished(standing: Standing, unfinished: int | None) -> None:
    if standing.state == "ended":
        if unfinished is not None:
            raise ConfigError(f"--unfinished = {unfinished}: run {standing.describe()} has ended; leave it out")
        return
    if unfinished is not None and unfinished != standing.completed:
        raise ConfigError(
            f"--unfinished = {unfinished}: {standing.completed} rounds of run {standing.describe()} are done"
        )
    if unfinished is None:
        why = {
            "ended": "",
            "end not confirmed": "its last round is done, but not enough sites showed yet that they have this model",
            "under way": f"{standing.completed} of {standing.rounds} rounds are done",
            "key lost": "its protocol state is lost here, so the run cannot end at this site",
        }[standing.state]
        hint = f"; add --unfinished {standing.completed} to export the model all the same" if standing.completed else ""
        raise RunFolderError(f"run {standing.describe()} has not ended: {why}{hint}")


def _reserve(out: Path) -> None:
    """Create the file, readable by its owner alone, or raise where somebody else created it meanwhile."""
    os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
