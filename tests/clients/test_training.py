"""Local training: reproducible, resumable, indifferent to order, and it learns."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.local_steps import learning_rate
from clients.training import TrainingSource, steps_for, train_one_round
from secfed.config import TrainingConfig
from secfed.errors import DataError, RunFolderError, SecfedError
from secfed.model import flatten, initial_model, layout_of


def start_of(plan):
    model = initial_model(plan.model, 9, plan.seed)
    return flatten(model), layout_of(model)


def train(plan, sources, folder, *, start=None, server_round=1, **more):
    first, layout = start_of(plan)
    return train_one_round(
        plan=plan,
        sources=sources,
        start=first if start is None else start,
        layout=layout,
        server_round=server_round,
        state_folder=folder,
        **more,
    )


@pytest.fixture
def source(cases):
    return TrainingSource(site="ct-1", cases=cases)


@pytest.mark.parametrize(
    "model",
    [
        {"normalisation": "instance", "dropout_prob": 0.2},
        {"normalisation": "group"},
        {"normalisation": "batch", "residual_units": 0},
    ],
)
def test_a_round_run_again_gives_the_same_weights_bit_for_bit(make_plan, source, tmp_path, model):
    plan = make_plan(model=model)
    first = train(plan, (source,), tmp_path / "a")
    torch.rand(3)
    again = train(plan, (source,), tmp_path / "b")
    np.testing.assert_array_equal(first.weights, again.weights)
    assert first.mean_loss == again.mean_loss
    assert not np.array_equal(first.weights, start_of(plan)[0])


def test_batch_normalisation_statistics_are_part_of_the_weights(make_plan, source, tmp_path):
    plan = make_plan(model={"normalisation": "batch"})
    start, layout = start_of(plan)
    assert layout.num_buffers > 0
    outcome = train(plan, (source,), tmp_path)
    assert not np.array_equal(outcome.weights[-layout.num_buffers :], start[-layout.num_buffers :])


@pytest.mark.parametrize("change", ["seed", "round", "site"])
def test_seed_round_and_site_each_change_the_stream(make_plan, source, tmp_path, change):
    plan = make_plan(training={"schedule": "constant", "warmup_fraction": 0.0, "optimizer_state": "reset"})
    start, _ = start_of(plan)
    reference = train(plan, (source,), tmp_path, start=start)
    if change == "seed":
        other = train(plan.model_copy(update={"seed": 8}), (source,), tmp_path, start=start)
    elif change == "round":
        other = train(plan, (source,), tmp_path, start=start, server_round=2)
    else:
        other = train(plan, (dataclasses.replace(source, site="ct-2"),), tmp_path, start=start)
    assert not np.array_equal(reference.weights, other.weights)


def test_training_leaves_the_global_generators_as_they_were(make_plan, source, tmp_path):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002 - the global one is the point
    train(make_plan(model={"dropout_prob": 0.2}), (source,), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_subnormal_numbers_are_flushed_during_the_steps_only(make_plan, source, tmp_path):
    seen = []
    train(make_plan(), (source,), tmp_path, on_step=lambda: seen.append(sys.float_info.min / 2))
    assert seen == [0.0] * 3
    assert sys.float_info.min / 2 > 0


def test_a_large_gradient_is_clipped(make_plan, source, tmp_path):
    # AdamW divides by the gradient's size, so clipping shows only where the sizes of steps differ.
    loose, tight = (
        train(make_plan(training={"gradient_clip_norm": norm}), (source,), tmp_path / str(norm)).weights
        for norm in (1e6, 1e-9)
    )
    start, _ = start_of(make_plan())
    assert np.abs(tight - start).max() < np.abs(loose - start).max()


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"learning_rate": 1e-3}},
        {"training": {"schedule": "constant"}},
        {"training": {"class_weights": (0.1, *[1.0] * 8)}},
        {"training": {"dice_weight": 0.0}},
        {"training": {"cross_entropy_weight": 0.1}},
        {"training": {"weight_decay": 0.5}},
        {"training": {"gradient_clip_norm": 0.1}},
        {"training": {"foreground_prob": 1.0}},
        {"augmentation": {"method": "none"}},
        {"augmentation": {"gin": {"probability": 0.2}}},
        {"augmentation": {"affine": {"rotation_rad": 0.0, "scale": 0.0}}},
        {"rounds": 9},
    ],
    ids=str,
)
def test_every_setting_reaches_the_training(make_plan, source, tmp_path, change):
    # Round 3 of 4 lies on the falling part of every schedule.
    plain = train(make_plan(), (source,), tmp_path / "plain", server_round=3)
    changed = train(make_plan(**change), (source,), tmp_path / "changed", server_round=3)
    assert not np.array_equal(plain.weights, changed.weights)


def agreeing(labelled, *, weight):
    """Plans whose other view is clean, and whose first view is left as it is: two equal views."""
    consistency = {"weight": weight, "other": "clean", "labelled": labelled}
    return {"method": "piecewise", "piecewise": {"probability": 0.0}, "consistency": consistency}


def test_labels_teach_the_first_view_or_both(make_plan, source, tmp_path):
    image = {"loss_over": "image"}
    losses = {
        name: train(make_plan(augmentation=augmentation, training=image), (source,), tmp_path / name).mean_loss
        for name, augmentation in {
            "alone": agreeing("first", weight=0.0),
            "first": agreeing("first", weight=1.0),
            "both": agreeing("both", weight=1.0),
        }.items()
    }
    # Over single images a batch of two equal halves has the loss of one, and equal views agree.
    assert losses["first"] == pytest.approx(losses["alone"], rel=1e-5)
    assert losses["both"] == pytest.approx(losses["alone"], rel=1e-5)
    changed = {**agreeing("both", weight=1.0), "piecewise": {"probability": 1.0}}
    first = {**changed, "consistency": {**changed["consistency"], "labelled": "first"}}
    both, one = (
        train(make_plan(augmentation=given, training=image), (source,), tmp_path / name).weights
        for name, given in (("changed", changed), ("changed-first", first))
    )
    assert not np.array_equal(both, one)


def test_a_killed_and_resumed_run_gives_the_weights_of_a_straight_one(make_plan, source, tmp_path):
    plan = make_plan()

    def rounds(folder, start, numbers):
        for number in numbers:
            start = train(plan, (source,), folder, start=start, server_round=number).weights
        return start

    start, _ = start_of(plan)
    straight = rounds(tmp_path / "straight", start, [1, 2, 3, 4])
    folder = tmp_path / "killed"
    after_two = rounds(folder, start, [1, 2])
    rounds(folder, after_two, [3, 4])
    # The coordinator lost rounds 3 and 4, so the site is asked for them again and must not use what they left behind.
    np.testing.assert_array_equal(rounds(folder, after_two, [3, 4]), straight)


def test_the_last_three_states_are_kept_and_later_ones_are_dropped(make_plan, source, tmp_path):
    plan = make_plan(rounds=6)
    for number in (1, 2, 3, 4, 5):
        train(plan, (source,), tmp_path, server_round=number)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"optimizer-round-{number:06d}.safetensors" for number in (3, 4, 5)
    ]
    train(plan, (source,), tmp_path, server_round=4)
    assert sorted(path.name[-18:-12] for path in tmp_path.iterdir()) == ["000003", "000004"]


def test_keeping_the_optimizer_state_changes_the_second_round_only(make_plan, source, tmp_path):
    keep, reset = (make_plan(training={"optimizer_state": state}) for state in ("keep", "reset"))
    first = train(keep, (source,), tmp_path / "keep").weights
    np.testing.assert_array_equal(first, train(reset, (source,), tmp_path / "reset").weights)
    assert not (tmp_path / "reset").exists()
    kept = train(keep, (source,), tmp_path / "keep", start=first, server_round=2).weights
    fresh = train(reset, (source,), tmp_path / "reset", start=first, server_round=2).weights
    assert not np.array_equal(kept, fresh)


def test_a_state_of_another_run_is_refused(make_plan, source, tmp_path):
    train(make_plan(), (source,), tmp_path)
    with pytest.raises(RunFolderError, match="another run, other sites or another model"):
        train(make_plan(rounds=9), (source,), tmp_path, server_round=2)


def test_a_damaged_state_is_refused(make_plan, source, tmp_path):
    train(make_plan(), (source,), tmp_path)
    path = tmp_path / "optimizer-round-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunFolderError, match="not a readable model file"):
        train(make_plan(), (source,), tmp_path, server_round=2)


def test_the_order_of_sources_does_not_matter(make_plan, cases, tmp_path):
    plan = make_plan()
    sources = (TrainingSource(site="ct-1", cases=cases[:1]), TrainingSource(site="mr-1", cases=cases[1:]))
    forth = train(plan, sources, tmp_path / "a")
    back = train(plan, sources[::-1], tmp_path / "b")
    np.testing.assert_array_equal(forth.weights, back.weights)
    assert (forth.steps, forth.samples) == (6, 24)


def test_together_every_source_gives_as_many_samples_as_at_its_own_site(make_plan, cases, tmp_path, monkeypatch):
    drawn = []
    from secfed.data.sampling import PatchSampler

    honest = PatchSampler.draw
    monkeypatch.setattr(PatchSampler, "draw", lambda self, rng: drawn.append(self.num_slices) or honest(self, rng))
    plan = make_plan(training={"passes_per_round": 1.0})
    sources = (TrainingSource(site="a", cases=cases[:1]), TrainingSource(site="b", cases=cases))
    train(plan, sources, tmp_path)
    assert (drawn.count(8), drawn.count(24)) == (8, 24)
    changes = sum(one != next_one for one, next_one in itertools.pairwise(drawn))
    assert changes > 4, "the sources are shuffled together, not trained one after the other"


@pytest.mark.parametrize(("passes", "steps"), [(None, 3), (1.0, 6), (0.5, 3), (0.01, 1)])
def test_steps_follow_the_rule_of_the_config(make_plan, source, passes, steps):
    assert steps_for(source, make_plan(training={"passes_per_round": passes}).training) == steps


def test_every_step_is_reported(make_plan, source, tmp_path):
    calls = []
    outcome = train(make_plan(), (source,), tmp_path, on_step=lambda: calls.append(1))
    assert len(calls) == outcome.steps == 3
    assert outcome.samples == 12


@pytest.mark.parametrize("weights", [None, (0.2, *[1.0] * 8)])
def test_the_loss_falls_on_a_toy_problem(make_plan, source, tmp_path, weights):
    plan = make_plan(
        training={"steps_per_round": 25, "learning_rate": 2e-2, "class_weights": weights},
        augmentation={"gin": {"probability": 0.5}},
        rounds=4,
    )
    start, _ = start_of(plan)
    losses = []
    for number in (1, 2, 3, 4):
        outcome = train(plan, (source,), tmp_path, start=start, server_round=number)
        start = outcome.weights
        losses.append(outcome.mean_loss)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("normalisation", ["instance", "group", "batch"])
def test_volumes_train_too(make_plan, source, tmp_path, normalisation):
    plan = make_plan(
        model={"dimensions": 3, "normalisation": normalisation},
        training={"patch_size": [8, 16, 16], "batch_size": 2, "steps_per_round": 2},
    )
    outcome = train(plan, (source,), tmp_path)
    assert np.isfinite(outcome.weights).all()
    assert outcome.samples == 4


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_full_precision(make_plan, source, tmp_path, precision):
    full = train(make_plan(), (source,), tmp_path / "full")
    half = train(make_plan(training={"precision": precision}), (source,), tmp_path / "half")
    assert half.weights.dtype == np.float32
    assert half.mean_loss == pytest.approx(full.mean_loss, rel=0.02)


def test_divergence_names_site_and_round_and_leaves_no_state(make_plan, source, tmp_path):
    plan = make_plan(training={"schedule": "constant", "warmup_fraction": 0.0})
    start, _ = start_of(plan)
    with pytest.raises(SecfedError, match="diverged at ct-1 in round 2"):
        train(plan, (source,), tmp_path, start=np.full_like(start, np.nan), server_round=2)
    assert not any(tmp_path.iterdir())


def test_wrong_arguments_are_refused(make_plan, source, tmp_path):
    plan = make_plan()
    with pytest.raises(ValueError, match="counts from 1, got 0"):
        train(plan, (source,), tmp_path, server_round=0)
    with pytest.raises(ValueError, match="every site once"):
        train(plan, (source, source), tmp_path)
    with pytest.raises(ValueError, match="at least one source"):
        train(plan, (), tmp_path)
    with pytest.raises(DataError, match="ct-9: there are no cases"):
        train(plan, (TrainingSource(site="ct-9", cases=()),), tmp_path)
    with pytest.raises(ValueError, match="float32 of shape"):
        train(plan, (source,), tmp_path, start=np.zeros(3, np.float32))


def test_the_module_does_not_import_torch():
    code = "import sys, clients.training; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


class TestLearningRate:
    def config(self, schedule, **more):
        return TrainingConfig(schedule=schedule, learning_rate=1.0, **{"warmup_fraction": 0.1, **more})

    def test_constant_and_cosine_rise_linearly(self):
        for schedule in ("constant", "cosine"):
            assert learning_rate(0.05, self.config(schedule)) == pytest.approx(0.5)
            assert learning_rate(0.1, self.config(schedule)) == pytest.approx(1.0)

    def test_constant_stays_and_cosine_falls_to_zero(self):
        assert learning_rate(1.0, self.config("constant")) == 1.0
        assert learning_rate(0.55, self.config("cosine")) == pytest.approx(0.5)
        assert learning_rate(1.0, self.config("cosine")) == pytest.approx(0.0)

    def test_one_cycle_is_that_of_pytorch(self):
        steps = 101
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, cycle_momentum=False)
        config = self.config("one_cycle")
        for step in range(steps):
            # PyTorch puts the peak at step 0.3 * total - 1, so its curve is compared on its own two halves.
            peak = 0.3 * steps - 1
            last = steps - 1
            progress = 0.3 * step / peak if step < peak else 0.3 + 0.7 * (step - peak) / (last - peak)
            assert learning_rate(progress, config) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            if step < last:
                cycle.step()

    def test_no_warm_up_starts_at_the_peak(self):
        assert learning_rate(0.0, self.config("cosine", warmup_fraction=0.0)) == 1.0

    def test_nothing_rises_again_after_the_last_round(self):
        assert learning_rate(1.5, self.config("cosine")) == pytest.approx(0.0)
