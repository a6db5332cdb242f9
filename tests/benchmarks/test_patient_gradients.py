"""The benchmark of patient gradients: its three ways do the same work, and its targets are judged as they are set."""

import pytest
import torch

from benchmarks.patient_gradients import WAYS, WORKLOADS, Workload, _rows, step_of

TINY = Workload(title="tiny", architecture="unet", channels=(4, 6), patients=2, views=2, patch_size=(8, 8))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_steps_over_a_lot_and_over_one_image(way, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    seen = []
    monkeypatch.setattr(
        "clients.loss.losses_per_image",
        lambda logits, *rest, **more: seen.append(len(logits)) or logits.mean((1, 2, 3)),
    )
    try:
        step = step_of(TINY, way)
        seen.clear()
        step(0)
        assert sum(seen) == 1
        step(2)
        assert sum(seen) == 1 + 2 * 2
    finally:
        torch.set_flush_denormal(False)


def test_demo_workload_is_the_demos_network_and_lot():
    from importlib import resources

    from secfed.config import load_run_config

    with resources.as_file(resources.files("secfed") / "configs" / "demo.toml") as path:
        config = load_run_config(path)
    demo = WORKLOADS["demo"]
    assert (demo.architecture, demo.channels) == (config.model.architecture, config.model.channels)
    assert demo.patch_size == config.training.patch_size
    assert demo.views == config.privacy.patches * config.privacy.views


def test_targets_are_ratios_within_one_run():
    good = {"plain": 10.0, "loop": 16.0, "hooks": 32.0}
    memory = {"plain": 10.0, "loop": 11.0, "hooks": 33.0}
    rows = _rows("lot", seconds=good, megabytes=memory, targets=True)
    assert [row.met for row in rows if row.target] == [True] * 4
    rows = _rows("lot", seconds={**good, "loop": 16.1}, megabytes={**memory, "loop": 11.1}, targets=True)
    assert [row.met for row in rows if row.target] == [False] * 4
    assert all(row.met is None for row in _rows("lot", seconds=good, megabytes=memory, targets=False))
