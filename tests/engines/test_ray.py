"""The Ray engine runs the same apps and gives the same model; its failures reach the caller."""

import pickle
import subprocess
import sys

import pytest
from flwr.app import Context, RecordDict
from small_federation import config, digest, journal, provision, train

from secfed.engines import ray
from secfed.errors import RoundAborted
from secfed.site_config import load_site_file, save_site_file

# A process of its own, as the experiment gives every job: what Ray leaves behind ends with it.
SCRIPT = """
import pickle, sys
from pathlib import Path
from secfed.engines import ray
from secfed.errors import SecfedError
try:
    ray.run(pickle.loads(Path(sys.argv[1]).read_bytes()), workers=2)
except SecfedError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def run_with_ray(job, folder):
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "job.pickle")],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_partition_is_the_site_of_its_number(tmp_path):
    locate = ray.SiteOfPartition((tmp_path / "a", tmp_path / "b"))
    context = Context(1, 2, {"partition-id": 1, "num-partitions": 2}, RecordDict(), {})
    assert locate(context) == tmp_path / "b"


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.study)])
def test_ray_gives_the_model_of_the_in_process_engine_and_says_nothing(scans, tmp_path, devices):
    rounds = 3 - devices
    run_config = config(scans, federation={"rounds": rounds})
    in_process = provision(tmp_path / "in-process", run_config)
    job = provision(tmp_path / "ray", run_config)
    for folder in (*in_process.site_folders, *job.site_folders):
        save_site_file(folder, load_site_file(folder).model_copy(update={"devices": devices}))
    train(in_process)
    ended = run_with_ray(job, tmp_path)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", 0)
    assert [len(entry["survivors"]) for entry in journal(job)] == [4] * rounds
    assert digest(job) == digest(in_process)


@pytest.mark.study
def test_ray_runs_an_encrypted_job_to_the_plain_model(scans, tmp_path):
    changes = {"federation": {"rounds": 2}, "training": {"steps_per_round": 1}}
    plain = provision(tmp_path / "plain", config(scans, protection={"mode": "plain"}, **changes))
    train(plain)
    job = provision(tmp_path / "ray", config(scans, protection={"mode": "encrypted"}, **changes))
    ended = run_with_ray(job, tmp_path)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", 0)
    assert [len(entry.get("survivors", ())) for entry in journal(job)] == [4, 4, 0]
    assert digest(job) == digest(plain)


@pytest.mark.slow
def test_an_aborted_round_reaches_the_caller_of_the_ray_engine(scans, tmp_path):
    job = provision(tmp_path / "ray", config(scans))
    for folder in job.site_folders[:3]:
        (folder / "roster.cbor").write_bytes(b"damaged")
    ended = run_with_ray(job, tmp_path)
    assert ended.returncode == RoundAborted.exit_code
    assert "1 sites answered stage 'join', 2 are needed" in ended.stdout
    assert "refused: roster" in ended.stdout
    assert "roster.cbor" not in ended.stdout
