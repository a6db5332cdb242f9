"""A federation of real processes on loopback: SuperLink, SuperNodes and workers over TLS with node authentication.

Provisioned through the functions that the commands call, started through the commands that users have, and ended by
process id, whatever happens meanwhile. The benchmark of deployments and their tests build on it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w

from secfed.data.phantom.writer import write_mixed_phantom
from secfed.deployment.bundle import bundle_bytes, bundle_digest
from secfed.deployment.ports import free_port
from secfed.provenance import code_digest
from secfed.provisioning.adoption import adopt
from secfed.provisioning.aggregator_service import make_aggregator_folder
from secfed.provisioning.approvals import Approvals
from secfed.provisioning.consortium import ConsortiumFile, found_consortium, sign_next
from secfed.provisioning.fingerprint import fingerprint
from secfed.provisioning.reviewer import load_reviewer_key, public_half_or_new
from secfed.provisioning.site_folder import make_site_folder

SECFED = Path(sys.executable).with_name("secfed")
CONSORTIUM = "abdomen"
START_SECONDS = 120.0


class Loopback:
    """Folders of consortium, aggregator and sites under `root`, and the processes that were started for them.

    The SuperLink listens at `host` and `port`; sites call `public_port`, which is another one behind a proxy.
    """

    def __init__(self, root: Path, names: Sequence[str], *, host: str = "127.0.0.1") -> None:
        self.root = root
        self.host = host
        self.names = tuple(names)
        self.port = free_port()
        self.public_port = self.port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # One thread per process: five of them share the machine.
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_everything()

    @property
    def consortium(self) -> Path:
        """The consortium's folder."""
        return self.root / "consortium"

    @property
    def aggregator(self) -> Path:
        """The aggregator's folder."""
        return self.root / "aggregator"

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.root / name

    def run_folder(self, name: str) -> Path:
        """Where the aggregator keeps a run."""
        return self.aggregator / "runs" / name

    def provision(
        self, *, cases: int = 1, changes: Mapping[str, str] | None = None, keep_models_in_memory: bool = False
    ) -> None:
        """Everything up to approved releases; each site has generated CT scans of its own.

        `changes` are replacements in every `site.toml`.
        """
        found_consortium(self.consortium, ConsortiumFile(name=CONSORTIUM))
        requests = []
        for number, name in enumerate(self.names):
            scans = self.root / f"scans-{name}"
            write_mixed_phantom(
                scans, ct=cases, mri=0, seed=number, population="north", task="abdomen", on_case=lambda _: None
            )
            folder = self.site(name)
            reviewer, _ = public_half_or_new(folder, None)
            made = make_site_folder(
                folder,
                name=name,
                consortium=CONSORTIUM,
                superlink=f"{self.host}:{self.public_port}",
                data=scans,
                reviewer=reviewer,
            )
            requests.append(made.request)
            replace_in(folder / "site.toml", changes or {})
        make_aggregator_folder(self.aggregator, consortium=CONSORTIUM, hosts=[self.host], port=self.port)
        if self.host != "127.0.0.1":
            replace_in(self.aggregator / "aggregator.toml", {'listen = "127.0.0.1"': f'listen = "{self.host}"'})
        if keep_models_in_memory:
            replace_in(
                self.aggregator / "aggregator.toml",
                {"keep_models_in_memory = false": "keep_models_in_memory = true"},
            )
        release = sign_next(self.consortium, requests=requests, server_request=self.aggregator / "server.csr")
        anchor = fingerprint((self.consortium / "anchor.pub").read_bytes())
        for folder in (*map(self.site, self.names), self.aggregator):
            adopt(folder, release.folder, anchor_fingerprint=anchor)
        for name in self.names:
            self.approve(name)

    def approvals(self, name: str) -> Approvals:
        """The approvals of a site."""
        key = load_reviewer_key(self.site(name) / "reviewer.key")
        return Approvals(self.site(name), site=name, reviewer=key.public_key().public_bytes_raw())

    def approve(self, name: str) -> None:
        """Sign for the installed release, as the site's reviewer does."""
        self.approvals(name).add(
            bundle=bundle_digest(bundle_bytes()),
            code=code_digest(),
            by="R. Viewer",
            reason="loopback",
            key=load_reviewer_key(self.site(name) / "reviewer.key"),
        )

    def start_aggregator(self) -> None:
        """Start its services, and wait until sites are let in."""
        self.start("aggregator", [str(SECFED), "aggregator", "run", str(self.aggregator)])
        self.wait_for(lambda: "Ready" in self.said("aggregator"), "the aggregator is ready")

    def start_site(self, name: str, *, within: Sequence[str] = ()) -> None:
        """Start a site's services; `within` is a command that runs another one somewhere else."""
        self.start(name, [*within, str(SECFED), "site", "run", "--site", str(self.site(name))])

    def start_all(self) -> None:
        """Start everything, and wait until all nodes are connected."""
        self.start_aggregator()
        for name in self.names:
            self.start_site(name)
        self.wait_for(
            lambda: all("SuperNode ID" in self.node_said(name) for name in self.names), "all sites are connected"
        )

    def train(
        self, plan: Mapping[str, Any], *, name: str, resume: bool = False, timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """`secfed aggregator train` to its end."""
        return subprocess.run(
            self.train_command(plan, name, resume=resume),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=self.environment,
        )

    def train_command(self, plan: Mapping[str, Any], name: str, *, resume: bool = False) -> list[str]:
        """The command, with the plan in a file."""
        path = self.root / f"{name}.toml"
        path.write_text(tomli_w.dumps(plan), encoding="utf-8")
        command = [str(SECFED), "aggregator", "train", str(self.aggregator), str(path), "--name", name, "--json"]
        return [*command, "--resume"] if resume else command

    def start(self, name: str, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Start a process that writes to NAME.out and is ended with the others."""
        with (self.root / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                list(command), stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self.environment
            )
        return self.processes[name]

    def said(self, name: str) -> str:
        """What a process has written so far."""
        return read(self.root / f"{name}.out")

    def node_said(self, name: str) -> str:
        """What a site's SuperNode has written so far."""
        return read(self.site(name) / "node" / "logs" / "supernode.log")

    def everything_said(self) -> str:
        """The ends of all logs, for a failure's message."""
        logs = [*self.root.glob("*.out"), *self.root.glob("*/*/logs/*.log")]
        return "\n".join(f"--- {path}\n{read(path)[-1500:]}" for path in logs)

    def wait_for(self, condition: Callable[[], bool], what: str, *, seconds: float = START_SECONDS) -> None:
        """Wait; raises TimeoutError with all logs, or RuntimeError where a process ended meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s until {what}\n{self.everything_said()}")
            for name, process in self.processes.items():
                if process.poll() not in (None, 0):
                    raise RuntimeError(f"{name} ended with {process.poll()}\n{self.said(name)}")
            time.sleep(0.1)

    def end(self, name: str) -> int:
        """SIGTERM, as systemd does it; returns the exit status."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=START_SECONDS)

    def kill_everything(self) -> None:
        """End what was started, and what that started."""
        for process in self.processes.values():
            for pid in [*descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def read(path: Path) -> str:
    """A text that may not be there yet."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def replace_in(path: Path, changes: Mapping[str, str]) -> None:
    """Replace texts in a file; raises ValueError where one does not stand there."""
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        if old not in text:
            raise ValueError(f"{path} does not hold {old!r}")
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def children(pid: int) -> list[int]:
    """Process ids of the children of `pid`."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def descendants(pid: int) -> list[int]:
    """Process ids of the children of `pid`, and of theirs."""
    below = children(pid)
    return [*below, *(deeper for child in below for deeper in descendants(child))]


def command_line(pid: int) -> str:
    """The command of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
