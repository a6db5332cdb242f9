"""The model that a job ended with, wherever it lives: with the aggregator, or in encrypted runs with the sites alone.

Runs on the experimenter's machine, which plays every party. The aggregator of an encrypted run has no file of this; the
sites' are read as `secfed site export` reads them.
"""

from aggregator.folder import AggregatorFolder
from clients.encrypted_run import EncryptedRun, encrypted_runs
from clients.export import last_model, standing_of
from clients.site import Site
from secfed.aggregator_files import CHECKPOINTS
from secfed.checkpoint import Checkpoints
from secfed.engines.job import Job
from secfed.errors import RunFolderError
from secfed.parameters import ParameterLayout
from secfed.server_optimizer import ServerState


def final_state(job: Job) -> tuple[ServerState, ParameterLayout]:
    """Model and momentum after the last round so far; of an encrypted job those that the sites have.

    Raises:
        RunFolderError: there is none yet, or sites that went through the same rounds have different models.
    """
    _, layout = AggregatorFolder(job.aggregator_folder).initial_model()
    if job.plan.protection.mode != "encrypted":
        state = Checkpoints(job.aggregator_folder / CHECKPOINTS).load(layout)
        if state is None:
            raise RunFolderError(f"{job.folder}: the job has not completed a round")
        return state, layout
    found: dict[bytes, ServerState] = {}
    furthest = 0
    for folder in job.site_folders:
        site = Site(folder)
        for run in (EncryptedRun.open(site, path) for path in encrypted_runs(site)[:1]):
            standing = standing_of(run)
            if standing.completed > furthest:
                found, furthest = {}, standing.completed
            if standing.completed == furthest and furthest:
                found[standing.model_hash] = last_model(run, standing)
    if not found:
        raise RunFolderError(f"{job.folder}: no site has stepped on a sum yet")
    if len(found) > 1:
        raise RunFolderError(f"{job.folder}: after {furthest} rounds the sites have {len(found)} different models")
    return next(iter(found.values())), layout
