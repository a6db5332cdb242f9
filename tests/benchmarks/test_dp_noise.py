"""The benchmark of noise still runs, and compares with floats that are Gaussian."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
from dataclasses import asdict
from scipy import stats
from benchmarks import dp_noise
from privacy.streams import Keystream
floats = dp_noise.gaussian_floats(100_000, stream=Keystream(b"f" * 32))
rows = [asdict(row) for row in dp_noise.measure(100_000, repeats=1)]
print(json.dumps([float(stats.kstest(floats, "norm").pvalue), len(dp_noise.SIGMAS), rows]))
"""


def test_exact_noise_is_measured_at_every_scale_against_floats_that_are_gaussian() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    gaussian, scales, rows = json.loads(result.stdout)
    assert gaussian > 1e-4
    assert len([row for row in rows if row["target"]]) == scales > 2
    assert all(row["value"] > 0 for row in rows)
    assert {row["note"] for row in rows} == {"measured on 100,000"}
