"""Several devices train one batch together: the model of one device, and no process that outlives its round."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from clients import replica_processes
from clients.replica_processes import NAME, ReplicaFailed
from clients.training import TrainingDiverged, TrainingSource, train_one_round
from secfed.data.preprocessing import PreparedCase
from secfed.errors import DataError, RunFolderError
from secfed.model import flatten, initial_model, layout_of, load_flat, state_layout
from secfed.parameters import load_vector

CPU = torch.device("cpu")
TWO = (CPU, CPU)
# What replicas draw for themselves is left out, so that the images are those of one device.
ALIKE = {"method": "none", "affine": {"probability": 0.0}}
# Every test starts processes that import torch, which takes seconds.
pytestmark = pytest.mark.slow


def start_of(plan):
    model = initial_model(plan.model, 9, plan.seed)
    layout = state_layout(model, plan.training.optimizer_state)
    start = np.zeros(layout.size, np.float32)
    start[: layout.model_size] = flatten(model)
    return start, layout


def train(plan, cases, folder, *, start=None, server_round=1, **more):
    first, layout = start_of(plan)
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
        training={"loss_over": "image", "batch_size": 5, "foreground_prob": 0.5}, augmentation=ALIKE, rounds=2
    )
    start, _ = start_of(plan)
    one = train(plan, cases, tmp_path / "one")
    two = train(plan, cases, tmp_path / "two", replicas=TWO)
    assert (two.steps, two.samples) == (one.steps, one.samples)
    assert two.mean_loss == pytest.approx(one.mean_loss, rel=1e-5)
    moved = np.abs(predictions(plan, one.weights) - predictions(plan, start)).max()
    assert moved > 0.01
    np.testing.assert_allclose(predictions(plan, two.weights), predictions(plan, one.weights), atol=1e-4 * moved)
