"""Keeps a few processes running: starts them in order, starts again what ends, and ends all in reverse order.

    start -> ready? -> watch --ended--> wait (1, 2, 4 ... 30 s) -> start
                         | stop()
                         v
             SIGTERM, last started first -> after `patience` SIGKILL -> reaped

Runs at a site and at the aggregator, as the one process that systemd (or a person) starts. Each child writes to a log
file of its own, which with its former part never takes more than twice `MOST_LOG_BYTES`. A child is told when its
supervisor is gone (Linux: PR_SET_PDEATHSIG), so that a kill -9 of the supervisor leaves nothing that still talks.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secfed.alone import die_with_parent
from secfed.audit_log import AuditLog
from secfed.errors import SecfedError

POLL_SECONDS = 0.2
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
GROUP_SECONDS = 10.0
"""How long what a service had started may take to end, once the service itself has."""
MOST_LOG_BYTES = 2**24
OLDER = ".1"
"""What a full log is moved to, in place of what was there."""
_FIRST_LINES_BYTES = 2**14
STEADY_SECONDS = 60.0
"""A process that ran for so long is started again at once, the next time that it ends."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process: its name in logs, its command, and what tells that it is ready to be used.

    SIGTERM lets it finish what it does, for at most `patience_seconds`. `explain` gets the last lines of its log
    where it ended by itself, and says in plain words who must do what, or nothing. `announce` gets the first lines of
    what it wrote since it was started, again and again until it has something to say about them.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool] = lambda: True
    explain: Callable[[str], str] = lambda _: ""
    announce: Callable[[str], str] | None = None
    ready_seconds: float = 60.0
    patience_seconds: float = 10.0


class Supervisor:
    """Runs services until it is stopped; `logs` is the folder for their output."""

    def __init__(self, services: Sequence[Service], *, logs: Path, log: AuditLog) -> None:
        self._services = tuple(services)
        self._logs = logs
        self._log = log
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._waits: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._explained: dict[str, str] = {}
        self._unannounced: dict[str, int] = {}
        self._stop = threading.Event()

    def stop(self) -> None:
        """End all services soon; safe in a signal handler and from another thread."""
        self._stop.set()

    @property
    def pids(self) -> dict[str, int]:
        """The running services' processes, by name."""
        return {name: process.pid for name, process in self._processes.items() if process.poll() is None}

    def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Start everything, call `on_ready` once, and watch until `stop`; everything is ended on the way out.

        Raises:
            SecfedError: a service did not become ready in its time at the first start: its log's last lines say why.
        """
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            for service in self._services:
                self._start(service)
                self._wait_until_ready(service)
                if self._stop.is_set():
                    return
            on_ready()
            while not self._stop.wait(POLL_SECONDS):
                for service in self._services:
                    self._look_after(service)
        finally:
            self._end_all()

    def _start(self, service: Service) -> None:
        with (self._logs / f"{service.name}.log").open("ab") as output:
            if service.announce is not None:
                self._unannounced[service.name] = output.tell()
            self._processes[service.name] = subprocess.Popen(
                list(service.command),
                env=dict(service.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - the supervisor has one thread
            )
        self._started[service.name] = time.monotonic()

    def _wait_until_ready(self, service: Service) -> None:
        deadline = time.monotonic() + service.ready_seconds
        while not service.ready() and not self._stop.is_set():
            ended = self._processes[service.name].poll()
            if ended is not None or time.monotonic() > deadline:
                how = f"ended with {ended}" if ended is not None else f"was not ready in {service.ready_seconds:g} s"
                raise SecfedError(
                    f"{service.name} {how}; the end of {self._logs / service.name}.log:\n{self._last_lines(service)}"
                )
            time.sleep(POLL_SECONDS)

    def _last_lines(self, service: Service, count: int = 12) -> str:
        log = self._logs / f"{service.name}.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-count:])

    def _look_after(self, service: Service) -> None:
        process = self._processes[service.name]
        now = time.monotonic()
        self._turn_over(self._logs / f"{service.name}.log")
        if process.poll() is None:
            self._announce(service)
            return
        if service.name not in self._due:
            steady = now - self._started[service.name] >= STEADY_SECONDS
            wait = 0.0 if steady else self._waits.get(service.name, FIRST_WAIT_SECONDS)
            self._waits[service.name] = min(LONGEST_WAIT_SECONDS, 2 * max(wait, FIRST_WAIT_SECONDS))
            self._due[service.name] = now + wait
            self._note(service, process.returncode, wait)
        if now >= self._due[service.name]:
            del self._due[service.name]
            self._start(service)

    def _announce(self, service: Service) -> None:
        start = self._unannounced.get(service.name)
        if start is None or service.announce is None:
            return
        try:
            with (self._logs / f"{service.name}.log").open("rb") as log:
                log.seek(start)
                written = log.read(_FIRST_LINES_BYTES).decode(errors="replace")
        except OSError:
            return
        said = service.announce(written)
        if said:
            del self._unannounced[service.name]
            sys.stderr.write(f"{service.name}: {said}\n")

    @staticmethod
    def _turn_over(log: Path) -> None:
        """The child goes on writing to the same file, at its new end."""
        try:
            if log.stat().st_size <= MOST_LOG_BYTES:
                return
        except FileNotFoundError:
            # Somebody moved it away; the child writes on to the moved file until it is started again.
            return
        try:
            shutil.copyfile(log, log.with_name(log.name + OLDER))
        except OSError as error:
            # What is older goes first where there is no room for both.
            sys.stderr.write(f"{log}: not kept: {error.strerror}\n")
        os.truncate(log, 0)

    def _note(self, service: Service, status: int, wait: float) -> None:
        try:
            self._log.append("service ended", service=service.name, status=status, restart_in_seconds=wait)
        except SecfedError as error:
            # A full disk must not end the supervision; what ended is started again all the same.
            sys.stderr.write(f"{error}\n")
        said = service.explain(self._last_lines(service)) if status > 0 else ""
        if said and said != self._explained.get(service.name):
            sys.stderr.write(f"{service.name}: {said}\n")
        self._explained[service.name] = said

    def _end_all(self) -> None:
        for service in reversed(self._services):
            process = self._processes.get(service.name)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=service.patience_seconds)
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            _end_group(process)


def install_signals(stop: Callable[[], None]) -> None:
    """SIGTERM and SIGINT stop; a second one while stopping changes nothing."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End what a service had started, such as a run's own process, which goes on from its last round when resumed."""
    deadline = time.monotonic() + GROUP_SECONDS
    while _signal_group(process, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL):
        time.sleep(POLL_SECONDS)


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> bool:
    """Whether anybody was there to get it; each service leads a group of its own."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
