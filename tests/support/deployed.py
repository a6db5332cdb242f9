"""A deployment on loopback as tests see it: small plans, logs, and the processes to kill."""

import contextlib
import json
import subprocess
import time
import zlib

from benchmarks.loopback import SECFED, START_SECONDS, Loopback, children, command_line
from secfed.audit_log import read_log


def small_plan(**changes):
    """A plan that trains in no time; tables in `changes` are merged in."""
    plan = {
        "name": "small",
        "seed": 3,
        "model": {"channels": [4, 8], "residual_units": 0},
        "training": {"steps_per_round": 1, "batch_size": 2},
        "federation": {"rounds": 2, "min_cohort": 3, "example_cap": 4, "stage_timeout_seconds": 60.0},
        "augmentation": {"method": "gin"},
    }
    for name, value in changes.items():
        plan[name] = {**plan.get(name, {}), **value} if isinstance(value, dict) else value
    return plan


def own_plan(name, *, rounds, stage_seconds):
    """A plan of so many rounds from a model of its own.

    Over one model, sites open sums of the same sites only: a run that had lost one would keep the next from beginning.
    Moments travel, so that a site which trained in vain goes on as one that did not train.
    """
    return small_plan(
        name=name,
        seed=zlib.crc32(name.encode()),
        training={"optimizer_state": "average"},
        federation={"rounds": rounds, "stage_timeout_seconds": stage_seconds},
    )


class Deployment(Loopback):
    """A loopback federation that is looked into, and disturbed."""

    def train_beside(self, plan, *, name, resume=False):
        """`secfed aggregator train` as a process that is at work; what it says is in `said("train-NAME")`."""
        return self.start(f"train-{name}", self.train_command(plan, name, resume=resume))

    def stop_run(self, name):
        command = [str(SECFED), "aggregator", "stop", str(self.aggregator), "--name", name]
        subprocess.run(command, check=False, env=self.environment)
        self.processes[f"train-{name}"].kill()
        self.processes[f"train-{name}"].wait()

    def journal(self, name):
        path = self.run_folder(name) / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def audit(self, name):
        return read_log(self.site(name) / "books" / "audit.jsonl")

    def run_audit(self, name):
        return read_log(self.run_folder(name) / "audit.jsonl")

    def log_length(self, name):
        return len(self.node_said(name))

    def when_received(self, name, stage, *, after=0, seconds=START_SECONDS):
        """Wait until the SuperNode of `name` has received a message of this stage; `after` is an offset in its log."""
        word = f"Receiving: {stage} message"
        deadline = time.monotonic() + seconds
        while word not in self.node_said(name)[after:]:
            assert time.monotonic() < deadline, f"no {stage} for {name}\n{self.everything_said()}"
            time.sleep(0.005)

    def service_pid(self, name, service):
        """The process of one service of a supervisor, by what stands in its command line."""
        found = [pid for pid in children(self.processes[name].pid) if service in command_line(pid)]
        return found[0] if found else None


@contextlib.contextmanager
def deployment(root, names, **provisioning):
    """A provisioned deployment; what it started is ended with the block."""
    with Deployment(root, names) as found:
        found.provision(**provisioning)
        yield found
