"""Several devices train one batch together: the model of one device, and no process that outlives its round."""

import multiprocessing
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clients import replica_processes
from clients.replica_processes import NAME, ReplicaFailed
from clients.training import TrainingDiverged, TrainingSource, train_one_round
from secfed.data.preprocessing import PreparedCase
from secfed.model import initial_model, layout_of, load_flat
from secfed.network import initial_vector
from secfed.parameters import load_vector

CPU = torch.device("cpu")
TWO = (CPU, CPU)
PATIENCE_SECONDS = 120
# What replicas draw for themselves is left out, so that the images are those of one device.
ALIKE = {"method": "none", "affine": {"probability": 0.0}}
# Every test starts processes that import torch, which takes seconds.
pytestmark = pytest.mark.slow


def train(plan, cases, folder, *, start=None, server_round=1, **more):
    first, layout = initial_vector(plan, num_classes=9)
    return train_one_round(
        plan=plan,
        sources=(TrainingSource(site="ct-1", cases=cases[:2]), TrainingSource(site="ct-2", cases=cases[1:])),
        start=first if start is None else start,
        layout=layout,
        server_round=server_round,
        state_folder=folder,
        **more,
    )


def replicas():
    return [process for process in multiprocessing.active_children() if process.name.startswith(NAME)]


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    assert replicas() == []


def predictions(plan, weights):
    model = initial_model(plan.model, 9, plan.seed).eval()
    layout = layout_of(model)
    load_flat(model, weights[: layout.size], layout)
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(images).softmax(1).numpy()


def test_two_devices_give_the_model_of_one(make_plan, cases, tmp_path):
    plan = make_plan(
        training={"loss_over": "image", "batch_size": 5, "foreground_prob": 0.5, "optimizer_state": "average"},
        augmentation=ALIKE,
        rounds=2,
    )
    start, layout = initial_vector(plan, num_classes=9)
    one = train(plan, cases, tmp_path / "one")
    two = train(plan, cases, tmp_path / "two", replicas=TWO)
    assert (two.steps, two.samples) == (one.steps, one.samples)
    assert two.mean_loss == pytest.approx(one.mean_loss, rel=1e-5)
    # Weights that a normalisation takes out again move by rounding alone, so it is the networks that are compared.
    moved = np.abs(predictions(plan, one.weights) - predictions(plan, start)).max()
    assert moved > 0.01
    np.testing.assert_allclose(predictions(plan, two.weights), predictions(plan, one.weights), atol=1e-4 * moved)
    moments = one.weights[layout.model_size :]
    assert moments.shape == (2 * layout.num_parameters,)
    assert np.abs(two.weights[layout.model_size :] - moments).max() < 1e-4 * np.abs(moments).max()
    assert not (tmp_path / "two").exists()


def test_a_round_on_two_devices_is_the_same_when_it_is_run_again(make_plan, cases, tmp_path):
    plan = make_plan(model={"normalisation": "batch", "dropout_prob": 0.2})
    steps = []
    once = train(plan, cases, tmp_path / "a", replicas=TWO, on_step=lambda: steps.append(1))
    again = train(plan, cases, tmp_path / "b", replicas=TWO)
    np.testing.assert_array_equal(once.weights, again.weights)
    assert once.mean_loss == again.mean_loss
    assert len(steps) == once.steps
    start, layout = initial_vector(plan, num_classes=9)
    assert once.weights.shape == start.shape
    assert not np.array_equal(once.weights[-layout.num_buffers :], start[-layout.num_buffers :])
    # One state for the site, which one device goes on from as well.
    (state,) = (tmp_path / "a").iterdir()
    assert (state.name, load_vector(state)[2]["steps"]) == ("optimizer-round-000001.safetensors", str(once.steps))
    train(plan, cases, tmp_path / "a", start=once.weights, server_round=2)


def test_a_killed_replica_is_named_and_leaves_neither_process_nor_state(make_plan, cases, tmp_path):
    pids = []

    def kill():
        victim = next(process for process in replicas() if process.name == f"{NAME}-1")
        pids.append(victim.pid)
        os.kill(victim.pid, signal.SIGKILL)

    plan = make_plan(training={"steps_per_round": 50})
    with pytest.raises(ReplicaFailed, match=r"replica 2 of 2 \(cpu, process \d+\) was ended by SIGKILL") as caught:
        train(plan, cases, tmp_path / "state", replicas=TWO, on_step=lambda: pids or kill())
    assert f"process {pids[0]})" in str(caught.value)
    assert "devices = 1 trains without replicas" in str(caught.value)
    assert replicas() == []
    assert not (tmp_path / "state").exists()


def test_a_replica_that_hangs_is_given_up(make_plan, cases, tmp_path, monkeypatch):
    def stop():
        # From here on no step can come, however long anybody waits.
        monkeypatch.setattr(replica_processes, "PATIENCE_SECONDS", 1.0)
        for process in replicas():
            os.kill(process.pid, signal.SIGSTOP)

    with pytest.raises(ReplicaFailed, match=r"no step within 1 s, and no replica ended"):
        train(make_plan(training={"steps_per_round": 50}), cases, tmp_path, replicas=TWO, on_step=stop)
    assert replicas() == []


def test_an_interrupt_while_replicas_train_ends_them(make_plan, cases, tmp_path):
    listening = []

    def interrupt():
        listening.extend(address for process in replicas() for address in addresses(process.pid))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_plan(training={"steps_per_round": 50}), cases, tmp_path, replicas=TWO, on_step=interrupt)
    assert replicas() == []
    if sys.platform == "linux":
        # While they trained, they were there for this machine alone.
        assert listening
        assert set(listening) == {"127.0.0.1"}


def addresses(pid):
    """Where a process listens, by the kernel's own tables."""
    if sys.platform != "linux":
        return []
    folder = Path(f"/proc/{pid}")
    sockets = {str(link.readlink()) for link in (folder / "fd").iterdir() if link.is_symlink()}
    found = []
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in (folder / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                packed = bytes.fromhex(local.partition(":")[0])
                words = b"".join(packed[start : start + 4][::-1] for start in range(0, len(packed), 4))
                found.append(socket.inet_ntop(family, words))
    return found


def test_what_stops_one_device_stops_several_in_the_same_words(make_plan, cases, tmp_path):
    plan = make_plan(training={"schedule": "constant", "warmup_fraction": 0.0})
    start = np.full_like(initial_vector(plan, num_classes=9)[0], np.nan)
    with pytest.raises(TrainingDiverged, match=r"diverged at ct-1 and ct-2 in round 1.*lower training.learning_rate"):
        train(plan, cases, tmp_path / "state", start=start, replicas=TWO)
    assert not (tmp_path / "state").exists()


ORPHANS = """
import multiprocessing, sys, time
from pathlib import Path
import numpy as np, torch
from clients.training import TrainingSource, train_one_round
from secfed.config import TrainingPlan
from secfed.data.cases import Modality
from secfed.data.preprocessing import PreparedCase
from secfed.model import flatten, initial_model, layout_of

def wait():
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)
    time.sleep(600)

if __name__ == "__main__":
    label = np.ones((8, 16, 16), np.uint8)
    case = PreparedCase(patient="p", modality=Modality.CT, image=label.astype(np.float32), label=label,
                        spacing_mm=(1.0, 1.0, 1.0), source=Path("p"))
    plan = TrainingPlan.model_validate({"model": {"channels": [4, 8]}, "training": {"patch_size": [16, 16]}})
    model = initial_model(plan.model, 9, 0)
    train_one_round(plan=plan, sources=(TrainingSource(site="s", cases=(case,)),), start=flatten(model),
                    layout=layout_of(model), server_round=1, state_folder=Path(sys.argv[1]),
                    replicas=(torch.device("cpu"),) * 2, on_step=wait)
"""


def test_replicas_end_with_the_process_that_started_them(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        descriptors = [os.pidfd_open(pid) for pid in pids]
        parent.kill()
    try:
        for descriptor in descriptors:
            ended, _, _ = select.select([descriptor], [], [], PATIENCE_SECONDS)
            assert ended, "a replica outlived the process that it trained for"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_cases_of_the_cache_are_not_copied_to_replicas(make_case, tmp_path):
    case = make_case(0, shape=(64, 64, 64))
    for name in ("image", "label"):
        np.save(tmp_path / f"{name}.npy", getattr(case, name))
    image, label = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("image", "label"))
    mapped = TrainingSource(site="s", cases=(PreparedCase(**{**vars(case), "image": image, "label": label}),))
    handed = pickle.dumps(replica_processes._handed(mapped))
    assert len(handed) < 4096
    (taken,) = replica_processes._taken(pickle.loads(handed)).cases  # noqa: S301 - its own
    np.testing.assert_array_equal(taken.image, case.image)
    np.testing.assert_array_equal(taken.label, case.label)
    # A part of a map is not where its file begins, so it travels itself.
    part = TrainingSource(site="s", cases=(PreparedCase(**{**vars(case), "image": image[7:], "label": label[7:]}),))
    handed = pickle.dumps(replica_processes._handed(part))
    (taken,) = replica_processes._taken(pickle.loads(handed)).cases  # noqa: S301 - its own
    np.testing.assert_array_equal(taken.image, case.image[7:])
