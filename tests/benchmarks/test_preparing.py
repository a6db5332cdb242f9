"""The benchmark of preparing still runs, on tiny volumes, and states its two targets."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
from dataclasses import asdict
from benchmarks.preparing import Load, measure
print(json.dumps([asdict(row) for row in measure(Load(volumes=3, shape=(24, 20, 16)), repeats=1, with_start=True)]))
"""


def test_preparing_is_measured_beside_reading() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = {row["measure"]: row for row in json.loads(result.stdout)}
    assert {name: row["target"] for name, row in rows.items() if row["target"]} == {
        "prepare / read and decompress": "<= 2",
        "peak memory of prepare": "< 4",
    }
    seconds = [row["value"] for row in rows.values() if row["unit"] in ("s", "GB")]
    assert len(seconds) == 4
    assert min(seconds) > 0
    assert sum("24 x 20 x 16" in row["note"] for row in rows.values()) == 5
    assert rows["peak memory of prepare"]["met"]
