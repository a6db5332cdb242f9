"""One seed, one model: whatever protects the updates, however often it is run, however many workers there are."""

import numpy as np
import pytest
from flwr.app import Message
from small_federation import config, digest, provision, train

from secfed.engines import in_process

VARIANTS = {
    "instance": {},
    "group": {"model": {"normalisation": "group"}, "training": {"optimizer_state": "reset"}, "seed": 4},
    "batch with buffers": {"model": {"normalisation": "batch"}, "federation": {"weighting": "sqrt_examples"}},
    "momentum": {
        "federation": {
            "server_optimizer": "fedavgm",
            "server_momentum": 0.9,
            "server_learning_rate": 0.5,
            "weighting": "uniform",
            "rounds": 3,
            "ema_decay": 0.5,
        }
    },
    "the demo's: shared moments, batches by size": {
        "training": {"optimizer_state": "average", "batch_cases": 2, "gradient_clip_norm": 1.0},
        "model": {"normalisation": "batch"},
        "federation": {"rounds": 3},
    },
    "gin off, passes, validation": {
        "augmentation": {"method": "none"},
        "training": {"passes_per_round": 0.5},
        "federation": {"validate_every": 1},
        "seed": 2**40,
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_masked_and_plain_runs_of_one_seed_give_one_model(scans, tmp_path, changes):
    states = [
        train(provision(tmp_path / mode, config(scans, protection={"mode": mode}, **changes)))
        for mode in ("masked", "plain")
    ]
    np.testing.assert_array_equal(states[0].model, states[1].model)
    np.testing.assert_array_equal(states[0].momentum, states[1].momentum)
    np.testing.assert_array_equal(states[0].result, states[1].result)


def test_two_masked_runs_give_one_model_under_different_masks(scans, tmp_path):
    uploads = []

    def remember(_: int, reply: Message) -> Message:
        if "vector" in reply.content:
            uploads[-1].append(reply.content["vector"]["vector"].data)
        return reply

    jobs = []
    for name in ("a", "b"):
        uploads.append([])
        jobs.append(provision(tmp_path / name, config(scans)))
        train(jobs[-1], intercept_reply=remember)
    assert digest(jobs[0]) == digest(jobs[1])
    assert len(uploads[0]) == len(uploads[1]) == 8
    assert not set(uploads[0]) & set(uploads[1])


def test_another_seed_gives_another_model(scans, tmp_path):
    first, second = (provision(tmp_path / str(seed), config(scans, seed=seed)) for seed in (3, 4))
    train(first)
    train(second)
    assert digest(first) != digest(second)


def test_the_same_run_in_another_place_gives_the_same_model(scans, tmp_path):
    here, there = (provision(tmp_path / name, config(scans)) for name in ("here", "there/and/deeper"))
    train(here)
    train(there)
    assert digest(here) == digest(there)


@pytest.mark.slow
def test_two_workers_give_the_model_of_one(scans, tmp_path):
    one, two = (provision(tmp_path / name, config(scans)) for name in ("one", "two"))
    in_process.run(one)
    in_process.run(two, workers=2)
    assert digest(one) == digest(two)
