"""A federation of real processes on loopback: SuperLink, SuperNodes, workers, over TLS with node authentication.

Started through the commands that users have; ended, by process id, whatever happens in the test.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import tomli_w
from provisioned import Place

from clients.approvals import Approvals
from secfed.audit_log import read_log
from secfed.data.phantom.writer import write_mixed_phantom
from secfed.deployment.bundle import bundle_bytes, bundle_digest
from secfed.provenance import code_digest
from secfed.provisioning.aggregator_service import make_aggregator_folder
from secfed.provisioning.consortium import ConsortiumFile, found_consortium, sign_next
from secfed.provisioning.reviewer import load_reviewer_key, public_half_or_new
from secfed.provisioning.site_folder import make_site_folder

SECFED = Path(sys.executable).with_name("secfed")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
START_SECONDS = 120.0


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


class Deployment:
    """Provisioned folders under `root`, and the processes that were started for them."""

    def __init__(self, root: Path, names) -> None:
        self.place = Place(root)
        self.names = tuple(names)
        self.processes: dict[str, subprocess.Popen] = {}
        self.port = free_port()

    @property
    def aggregator(self):
        return self.place.aggregator

    def site(self, name):
        return self.place.site(name)

    def provision(self, *, policy=None):
        """Everything up to approved releases; each site has one training case of its own."""
        found_consortium(self.place.consortium, ConsortiumFile(name="abdomen"))
        requests = []
        for number, name in enumerate(self.names):
            scans = self.place.root / f"scans-{name}"
            write_mixed_phantom(
                scans, ct=1, mri=0, seed=number, population="north", task="abdomen", on_case=lambda _: None
            )
            folder = self.site(name)
            reviewer, _ = public_half_or_new(folder, None)
            made = make_site_folder(
                folder,
                name=name,
                consortium="abdomen",
                superlink=f"127.0.0.1:{self.port}",
                data=scans,
                reviewer=reviewer,
            )
            requests.append(made.request)
            for old, new in (policy or {}).items():
                text = (folder / "site.toml").read_text()
                assert old in text
                (folder / "site.toml").write_text(text.replace(old, new))
        make_aggregator_folder(self.aggregator, consortium="abdomen", hosts=["127.0.0.1"], port=self.port)
        self.release = sign_next(
            self.place.consortium, requests=requests, server_request=self.aggregator / "server.csr"
        )
        for folder in (*map(self.site, self.names), self.aggregator):
            self.place.accept(folder, self.release.folder)
        for name in self.names:
            self.approve(name)

    def approvals(self, name):
        key = load_reviewer_key(self.site(name) / "reviewer.key")
        return Approvals(self.site(name), site=name, reviewer=key.public_key().public_bytes_raw())

    def approve(self, name):
        self.approvals(name).add(
            bundle=bundle_digest(bundle_bytes()),
            code=code_digest(),
            by="R. Viewer",
            reason="tests",
            key=load_reviewer_key(self.site(name) / "reviewer.key"),
        )

    def start_aggregator(self):
        self._start("aggregator", "aggregator", "run", str(self.aggregator))
        self.wait_for(lambda: "Ready" in self.said("aggregator"), "the aggregator is ready")

    def start_site(self, name):
        self._start(name, "site", "run", "--site", str(self.site(name)))

    def start_all(self):
        self.start_aggregator()
        for name in self.names:
            self.start_site(name)
        for name in self.names:
            self.wait_for(lambda name=name: "SuperNode ID" in self.node_said(name), f"{name} is connected")

    def train(self, plan, *, name="run", resume=False, timeout=600.0):
        """`secfed aggregator train` to its end: the finished process."""
        return subprocess.run(
            self._train_command(plan, name, "--resume" if resume else None),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=ENVIRONMENT,
        )

    def train_beside(self, plan, *, name="run", resume=False):
        """The same as a process that is at work; what it says is in `said("train-NAME")`."""
        with (self.place.root / f"train-{name}.out").open("ab") as output:
            command = self._train_command(plan, name, "--resume" if resume else None)
            return subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=ENVIRONMENT)

    def _train_command(self, plan, name, *options):
        path = self.place.root / f"{name}.toml"
        path.write_text(tomli_w.dumps(plan))
        command = [str(SECFED), "aggregator", "train", str(self.aggregator), str(path), "--name", name, "--json"]
        return [*command, *(option for option in options if option is not None)]

    def run_folder(self, name="run"):
        return self.aggregator / "runs" / name

    def journal(self, name="run"):
        path = self.run_folder(name) / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def audit(self, name):
        return read_log(self.site(name) / "books" / "audit.jsonl")

    def run_audit(self, name="run"):
        return read_log(self.run_folder(name) / "audit.jsonl")

    def said(self, name):
        path = self.place.root / f"{name}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(self, condition, what, *, seconds=START_SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s until {what}\n{self.everything_said()}"
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended with {process.poll()}\n{self.said(name)}"
            time.sleep(0.1)

    def everything_said(self):
        logs = [*self.place.root.glob("*.out"), *self.place.root.glob("*/*/logs/*.log")]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in logs)

    def end(self, name):
        """SIGTERM, as systemd does it; returns the exit status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=120)

    def node_said(self, name):
        path = self.site(name) / "node" / "logs" / "supernode.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def when_received(self, name, stage, *, after=0, seconds=START_SECONDS):
        """Wait until the SuperNode of `name` has received a message of this stage; `after` is an offset in its log."""
        word = f"Receiving: {stage} message"
        deadline = time.monotonic() + seconds
        while word not in self.node_said(name)[after:]:
            assert time.monotonic() < deadline, f"no {stage} for {name}\n{self.everything_said()}"
            time.sleep(0.005)

    def log_length(self, name):
        return len(self.node_said(name))

    def service_pid(self, name, service):
        """The process of one service of a supervisor, by what stands in its command line."""
        found = [pid for pid in children(self.processes[name].pid) if service in command_line(pid)]
        return found[0] if found else None

    def kill_everything(self):
        for process in self.processes.values():
            for pid in [*descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def _start(self, name, *arguments):
        with (self.place.root / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [str(SECFED), *arguments], stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=ENVIRONMENT
            )


@contextlib.contextmanager
def deployment(root, names, **provisioning):
    """A provisioned deployment; what it started is ended with the block."""
    found = Deployment(root, names)
    found.provision(**provisioning)
    try:
        yield found
    finally:
        found.kill_everything()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children(pid):
    """Process ids of the children of `pid`."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid):
    """Process ids of all children of `pid`, and of theirs."""
    below = children(pid)
    return [*below, *(deeper for child in below for deeper in descendants(child))]
