"""The benchmark of a training step: its shares are of one round, and its plans are the demo's."""

import pytest
import torch

from benchmarks import training, training_choices
from benchmarks.training import ON_CPU, ON_GPU, Shares, clocked_round, generated_cases, measured
from benchmarks.training_choices import at_once, by_a_thread, choices
from clients import local_steps
from clients.batches import on_device
from secfed.errors import ConfigError

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


def test_every_choice_is_measured_against_its_opposite(monkeypatch):
    """Ratios are of rounds that took turns, and what runs on the device is what has the target."""
    monkeypatch.setattr(training_choices, "require_compiler", lambda _: None)
    asked = []

    def seconds(**how):
        asked.append((local_steps.on_device, how))
        fed = 0.9 if local_steps.on_device is by_a_thread else 1.0
        return fed * (0.5 if how.get("compiled") else 1.0) * (0.6 if how.get("replicas") else 1.0)

    rows = choices("t", seconds=seconds, idle=lambda feed: 0.06 if feed is at_once else 0.01, device=CPU, repeats=3)
    at_call, threaded, ahead, compiled, two = rows
    assert (at_call.value, at_call.target, at_call.met) == (0.06, "<= 0.05", False)
    assert (threaded.value, threaded.target, threaded.met) == (0.01, None, None)
    assert [row.value for row in (ahead, compiled, two)] == pytest.approx([0.9, 0.5, 0.6])
    assert {how.get("replicas") for _, how in asked} == {None, (CPU, CPU)}
    assert local_steps.on_device is on_device


def test_a_machine_without_a_compiler_has_no_row_for_it(monkeypatch):
    def none(_):
        raise ConfigError("no compiler")

    monkeypatch.setattr(training_choices, "require_compiler", none)
    rows = choices("t", seconds=lambda **_: 1.0, idle=lambda _: 0.0, device=CPU, repeats=1)
    assert not any("compiled" in row.measure for row in rows)
    assert len(rows) == 4


@pytest.mark.parametrize("feed", [at_once, by_a_thread])
def test_both_ways_of_feeding_train_a_round(cases, feed):
    plan = ON_CPU[0].plan(method="gin", precision="float32")
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"steps_per_round": 3})})
    found = clocked_round(plan, cases, CPU, feed=feed)
    assert 0 < found.batches < found.whole
