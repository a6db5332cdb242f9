"""What an auditor's process has in memory: no client, no aggregator, no role of the protocol, no torch, no TenSEAL."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = ("clients", "aggregator", "torch", "monai", "flwr", "ray", "tenseal", "_tenseal_cpp", "zstandard")
ROLES = {
    "secagg": ("client", "server", "protocol", "identity", "seat", "channels"),
    "he": (
        "member",
        "group_server",
        "group_round",
        "protocol",
        "key_holder",
        "library",
        "seal",
        "distribution",
        "checks",
    ),
}


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
    assert {"secfed.audit.verify", "privacy.secagg.verifier", "privacy.secagg.replay", "privacy.he.verifier"} <= modules
    assert not {name for name in modules if name.split(".")[0] in FORBIDDEN}
    roles = tuple(f"privacy.{package}.{role}" for package, names in ROLES.items() for role in names)
    assert not {name for name in modules if name.startswith(roles)}
