"""The benchmark of a training step: its shares are of one round, and its plans are the demo's."""

import pytest
import torch

from benchmarks import training
from benchmarks.training import ON_CPU, ON_GPU, Shares, clocked_round, generated_cases, measured

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return generated_cases(tmp_path_factory.mktemp("scans"))[:2]


@pytest.mark.parametrize("workload", [*ON_CPU, *ON_GPU], ids=lambda workload: workload.title)
def test_every_workload_is_a_plan(workload):
    plan = workload.plan(method="gin", precision="bfloat16")
    assert plan.training.steps_per_round == workload.steps
    assert plan.augmentation.method == "gin"


def test_shares_are_parts_of_the_round(cases):
    plan = ON_CPU[0].plan(method="gin", precision="float32")
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"steps_per_round": 3})})
    found = clocked_round(plan, cases, CPU)
    assert 0 < found.gin < found.whole
    assert 0 < found.batches < found.whole


@pytest.mark.parametrize(("gin", "met"), [(0.02, True), (0.04, False)])
def test_the_targets_are_those_of_a_cpu_step(monkeypatch, cases, gin, met):
    monkeypatch.setattr(training, "_round", lambda plan, *_: 2.0 if plan.augmentation.method == "gin" else 1.6)
    monkeypatch.setattr(training, "clocked_round", lambda *_: Shares(whole=2.0, gin=2 * gin, batches=0.02))
    speed, share, ratio, idle = measured(ON_CPU[0], cases, CPU, "float32", repeats=1)
    assert speed.value == 28 * 8 / 2.0
    assert (share.value, share.met) == (pytest.approx(gin), met)
    assert ratio.value == pytest.approx(1.25)
    assert (idle.value, idle.met) == (pytest.approx(0.01), True)
