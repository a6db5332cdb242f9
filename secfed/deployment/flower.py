"""What both sides tell Flower: its environment, and its command line, spoken in JSON.

The public commands of flwr 1.41 are used: `flower-superlink`, `flower-supernode`, `flower-superexec`, `flwr`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from secfed.errors import SecfedError

COMMAND_SECONDS = 120.0
TASK_POLL_SECONDS = 0.5
"""How often SuperExec asks for a run to start, at the aggregator."""


def program(name: str) -> str:
    """A command of the environment that this program runs in, wherever PATH points."""
    return str(Path(sys.executable).with_name(name))


def environment(home: Path) -> dict[str, str]:
    """The environment for Flower's processes: `home` is where it keeps its files; nothing is reported or installed."""
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(TASK_POLL_SECONDS),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def flwr(*arguments: str, home: Path) -> dict[str, Any]:
    """Run a `flwr` command with --format json; returns what it printed.

    Raises:
        SecfedError: it failed; the message is Flower's own.
    """
    command = [program("flwr"), *arguments, "--format", "json"]
    try:
        done = subprocess.run(
            command, env=environment(home), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise SecfedError(f"`flwr {arguments[0]}` did not end within {COMMAND_SECONDS:g} s") from None
    answer = _json_in(done.stdout)
    if answer is None or not answer.get("success", True):
        said = (answer or {}).get("error-message") or f"{done.stdout}{done.stderr}".strip()
        raise SecfedError(f"`flwr {' '.join(arguments[:2])}` failed: {said[-2000:]}")
    return answer


def _json_in(text: str) -> dict[str, Any] | None:
    # Some commands print a line for people before their JSON.
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start:])
        except ValueError:
            start = text.find("{", start + 1)
            continue
        return found if isinstance(found, dict) else None
    return None
