"""The benchmark of secure aggregation still drives both sides; each checks the sum that it gets."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, tempfile
from pathlib import Path
import numpy as np
from benchmarks import flower_secagg
from benchmarks.masked_session import MaskedSession
if __name__ == "__main__":
    vector = np.linspace(-3, 3, 5_000)
    with tempfile.TemporaryDirectory() as folder, MaskedSession(4, folder=Path(folder)) as session:
        ours = [session.round(vector, dropouts=dropouts) for dropouts in (0, 0)]
    theirs = flower_secagg.measure(4, vector.astype(np.float32), dropouts=1)
    print(json.dumps([ours[1].bytes_up, theirs.bytes_up, ours[1].total.cpu, theirs.total.cpu]))
"""


def test_both_sides_of_the_benchmark_run_and_ours_sends_half(tmp_path):
    script = tmp_path / "both_sides.py"
    script.write_text(PROGRAM, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    our_bytes, their_bytes, our_seconds, their_seconds = json.loads(result.stdout)
    assert 20_000 < our_bytes < 24_000
    assert their_bytes > 40_000
    assert min(our_seconds, their_seconds) > 0
