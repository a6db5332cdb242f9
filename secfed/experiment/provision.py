"""A job's folder before its first round: site folders with keys and policy, the aggregator's plan, roster and model.

Runs on the experimenter's machine, which plays every party. What is made here once is never made again: a resumed job
keeps its identities and its initial model.
"""

import json
from pathlib import Path
from typing import Any

from secfed.aggregator_files import INITIAL, PLAN, SIMULATED, SITES
from secfed.config import RunConfig, SiteConfig
from secfed.engines.job import Job
from secfed.experiment.plans import JobSpec
from secfed.experiment.run_folder import RunFolder
from secfed.experiment.start import starting_vector
from secfed.parameters import save_vector
from secfed.provisioning.simulation import provision_simulation
from secfed.site_config import ONE_DEVICE, Computing, SiteData, SiteFile, SitePolicy, load_site_file, save_site_file

READY = "ready.json"
UNLIMITED_EPSILON = 1e9


def data_folder(run: RunFolder, source: SiteConfig) -> Path:
    """Where a site's scans are: its own folder, or the generated one inside the run folder."""
    return source.folder if source.folder is not None else run.path / "data" / source.name


def provision_job(run: RunFolder, config: RunConfig, spec: JobSpec, *, computing: Computing = ONE_DEVICE) -> Job:
    """Make the job's folder ready, or find it ready; how sites compute may differ from one attempt to the next."""
    job = Job(
        model=spec.model,
        folder=run.job_folder(spec.model),
        plan=spec.plan,
        site_names=tuple(spec.participants),
    )
    ready = job.folder / READY
    if ready.exists():
        for folder in job.site_folders:
            _compute_with(folder, computing)
        return job
    job.aggregator_folder.mkdir(parents=True, exist_ok=True)
    sites = {}
    for name, folder in zip(job.site_names, job.site_folders, strict=True):
        sites[folder] = SiteFile(
            name=name,
            durable_state=False,
            devices=computing.devices,
            compile=computing.compile,
            data=tuple(
                SiteData(
                    name=source.name,
                    folder=data_folder(run, source).resolve(),
                    cache=run.cache.resolve(),
                    modality=source.modality,
                    layout=source.layout,
                    organs=source.organs,
                    channel=source.channel,
                )
                for source in spec.participants[name]
            ),
            policy=SitePolicy(
                protection=(spec.plan.protection.mode,),
                encryption_schemes=(spec.plan.protection.scheme,),
                min_cohort=spec.plan.federation.min_cohort,
                **_budget(config, spec),
            ),
        )
    provision_simulation(seed=config.seed, sites=sites, aggregator_folder=job.aggregator_folder)
    (job.aggregator_folder / SIMULATED).touch()
    (job.aggregator_folder / PLAN).write_text(spec.plan.model_dump_json(indent=1), encoding="utf-8")
    (job.aggregator_folder / SITES).write_text(json.dumps(sorted(job.site_names)), encoding="utf-8")
    # References may share less between sites than the federation does, and then their vector is a shorter one.
    own = {"training": spec.plan.training, "federation": spec.plan.federation}
    vector, layout = starting_vector(config.model_copy(update=own))
    save_vector(job.aggregator_folder / INITIAL, vector, layout, metadata={"seed": str(config.seed)})
    ready.write_text(json.dumps({"model": spec.model, "sites": list(job.site_names)}), encoding="utf-8")
    return job


def _compute_with(folder: Path, computing: Computing) -> None:
    site = load_site_file(folder)
    if site.computing != computing:
        save_site_file(folder, site.model_copy(update={"devices": computing.devices, "compile": computing.compile}))


def _budget(config: RunConfig, spec: JobSpec) -> dict[str, Any]:
    """What simulated sites allow: what the run was given as its target, or where it names the noise alone, anything."""
    privacy = spec.plan.privacy
    if not privacy.guarantees:
        return {"privacy": (privacy.mode,)}
    same = spec.plan.protection.mode == config.protection.mode
    return {
        "privacy": (privacy.mode,),
        "max_epsilon": config.privacy.epsilon if config.privacy.epsilon is not None and same else UNLIMITED_EPSILON,
        "max_delta": privacy.resolved_delta,
    }
