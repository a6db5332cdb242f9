"""`python -m secfed.deployment.worker_process SITE_FOLDER ADDRESS`: what `secfed site run` starts as the worker."""

import importlib
import sys
from pathlib import Path

from flwr.app import Context

from clients.app import create_app
from secfed.deployment.site_side import NODE_FOLDER, SECRET_FILE, site_log
from secfed.deployment.site_worker import Door, SiteWorker
from secfed.deployment.supervisor import install_signals
from secfed.provenance import check_single_root
from secfed.provisioning.approvals import Approvals
from secfed.site_config import load_site_file

LOADED = ("clients.contribution", "clients.evaluation", "clients.local_steps", "monai.networks.nets", "secfed.network")


def main(folder: Path, address: str) -> None:
    """Answer messages until SIGTERM, then finish the one in progress."""
    check_single_root()
    site = load_site_file(folder)

    def approvals() -> Approvals:
        # Read for every message: an approval that was withdrawn holds no longer.
        return Approvals.of(folder, load_site_file(folder))

    def own_folder(_: Context) -> Path:
        return folder

    door = Door(address=address, secret=(folder / NODE_FOLDER / SECRET_FILE).read_bytes())
    worker = SiteWorker(folder, door=door, approvals=approvals, app=create_app(own_folder), log=site_log(folder, site))
    install_signals(worker.stop)
    _load_what_messages_need()
    worker.run()


def _load_what_messages_need() -> None:
    """Load once what each message's process, a fork of this one, would load by itself: that takes 2 s and more."""
    for name in LOADED:
        importlib.import_module(name)
    import torch

    # The first optimiser of a process loads torch's compiler; nothing is compiled, and no thread is started.
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
