"""What an auditor's process has in memory: no client, no aggregator, no role of the protocol, no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = ("clients", "aggregator", "torch", "monai", "flwr", "ray")
ROLES = ("client", "server", "protocol", "identity", "seat")


def loaded_by(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


COMMAND = """
import sys
sys.argv = ["secfed", "audit", "verify", {folder!r}]
from secfed import cli
try:
    cli.main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize("way", ["import", "command"])
def test_auditors_process_holds_no_role_of_the_protocol(way: str, tmp_path: Path) -> None:
    (tmp_path / "transcript").mkdir()
    program = "import secfed.audit.verify" if way == "import" else COMMAND.format(folder=str(tmp_path))
    modules = loaded_by(program)
    assert {"secfed.audit.verify", "privacy.secagg.verifier", "privacy.secagg.replay"} <= modules
    assert not {name for name in modules if name.split(".")[0] in FORBIDDEN}
    assert not {name for name in modules if name.startswith(tuple(f"privacy.secagg.{role}" for role in ROLES))}
