"""The benchmark of encryption still drives both sides, and its figures have the stated order."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
from dataclasses import asdict
from benchmarks import encryption
if __name__ == "__main__":
    rows = encryption.against_ckks("test", [4092, 10, 4100], repeats=1, clients=2)
    print(json.dumps([asdict(row) for row in [*rows, encryption.aggregator_memory(500_000)]]))
"""


def test_both_encrypted_sides_run_and_ours_is_exact_and_smaller(tmp_path):
    script = tmp_path / "both_sides.py"
    script.write_text(PROGRAM, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    values = {row["measure"]: row["value"] for row in json.loads(result.stdout)}
    assert values["error of the sum, ours"] == 0
    assert 0 < values["error of the sum, CKKS"] < 1e-6
    # Three chunks against three tensors, each of which fills at least one ciphertext of the longer ring.
    assert values["bytes up per client and parameter, ours"] < 20
    assert values["bytes up per client and parameter, CKKS tensor by tensor"] > 100
    assert 1.9 < values["aggregator's peak memory"] < 3
    assert values["encrypt, CKKS"] > 0
    assert values["encrypt, ours"] > 0
