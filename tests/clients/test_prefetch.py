"""Batches made ahead are those that would be made anyway, and the thread that makes them never outlives its reader."""

import itertools
import threading
from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch

from clients import batches, local_steps
from clients.batches import draw_batches, on_device, part_bounds
from clients.prefetch import THREAD, ahead
from clients.training import TrainingSource, train_one_round
from secfed.data.sampling import PatchSampler
from secfed.model import flatten, initial_model, layout_of

PATIENCE_SECONDS = 60


def threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@contextmanager
def in_a_thread(drawn, device):
    """As on a GPU, but that a CPU tensor needs no copy."""
    with closing(ahead((batches.send(one, device) for one in drawn), depth=2)) as made:
        yield made


def train(plan, cases, folder, **more):
    model = initial_model(plan.model, 9, plan.seed)
    return train_one_round(
        plan=plan,
        sources=(TrainingSource(site="ct-1", cases=cases[:2]), TrainingSource(site="ct-2", cases=cases[1:])),
        start=flatten(model),
        layout=layout_of(model),
        server_round=1,
        state_folder=folder,
        **more,
    )


def test_a_round_with_batches_made_ahead_gives_the_same_model_bit_for_bit(make_plan, cases, tmp_path, monkeypatch):
    plan = make_plan(model={"dropout_prob": 0.2}, training={"foreground_prob": 0.5, "batch_size": 3})
    before = train(plan, cases, tmp_path / "a")
    monkeypatch.setattr(local_steps, "on_device", in_a_thread)
    seen = []
    after = train(plan, cases, tmp_path / "b", on_step=lambda: seen.extend(threads()))
    np.testing.assert_array_equal(before.weights, after.weights)
    assert before.mean_loss == after.mean_loss
    assert len(seen) > 0
    assert not threads()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_fails_leaves_no_thread(make_plan, cases, tmp_path, monkeypatch, error):
    seen = []

    def fail():
        seen.extend(threads())
        raise error

    monkeypatch.setattr(local_steps, "on_device", in_a_thread)
    with pytest.raises(error):
        train(make_plan(training={"steps_per_round": 9}), cases, tmp_path, on_step=fail)
    assert len(seen) == 1
    assert not threads()


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_every_item_comes_once_and_in_order(depth):
    assert list(ahead(iter(range(50)), depth=depth)) == list(range(50))
    assert list(ahead(iter(()), depth=depth)) == []
    assert not threads()


def test_none_is_an_item_and_an_error_that_is_an_item_is_not_raised():
    items = [None, ValueError("an item"), None]
    assert list(ahead(iter(items), depth=2)) == items


def test_so_many_are_made_ahead_and_no_more():
    depth, taken, excess = 3, 0, []
    full = threading.Event()

    def counted():
        for made in itertools.count(1):
            # Item `made` may be begun when all but `depth` of those up to it have been taken.
            excess.append(made - depth - taken)
            if made == depth + 1:
                full.set()
            yield made

    with closing(ahead(counted(), depth=depth)) as items:
        for expected in range(1, 200):
            taken = expected
            assert next(items) == expected
            assert full.wait(PATIENCE_SECONDS)
    assert max(excess) <= 0
    assert len(excess) <= 199 + depth


def test_an_error_of_the_iterator_is_raised_after_what_came_before_it():
    def failing():
        yield 1
        yield 2
        raise KeyError("the third")

    items = ahead(failing(), depth=5)
    assert (next(items), next(items)) == (1, 2)
    with pytest.raises(KeyError, match="the third"):
        next(items)
    assert not threads()


def test_a_reader_that_stops_early_leaves_no_thread():
    items = ahead(itertools.count(), depth=2)
    assert next(items) == 0
    assert len(threads()) == 1
    items.close()
    assert not threads()


def test_at_least_one_item_is_made_ahead():
    with pytest.raises(ValueError, match="depth = 0"):
        ahead(iter(()), depth=0)


# Batches


def drawn_of(cases, *, part=(0, 1), generator=None, foreground_prob=0.5):
    samplers = tuple(
        PatchSampler(held, patch_size=(16, 16), foreground_prob=foreground_prob) for held in (cases[:1], cases)
    )
    generator = np.random.default_rng(5) if generator is None else generator
    return list(draw_batches(samplers, [7, 8], steps=4, generator=generator, part=part))


@pytest.mark.parametrize("parts", [2, 3])
def test_the_parts_of_replicas_are_the_whole_in_order_from_the_same_generator(cases, parts):
    whole_generator = np.random.default_rng(5)
    whole = drawn_of(cases, generator=whole_generator)
    found = []
    for index in range(parts):
        generator = np.random.default_rng(5)
        found.append(drawn_of(cases, part=(index, parts), generator=generator))
        assert generator.bit_generator.state == whole_generator.bit_generator.state
    for step, batch in enumerate(whole):
        assert [own[step].whole for own in found] == [batch.whole] * parts
        np.testing.assert_array_equal(np.concatenate([own[step].images for own in found]), batch.images)
        np.testing.assert_array_equal(np.concatenate([own[step].labels for own in found]), batch.labels)


@pytest.mark.parametrize(("size", "parts"), [(8, 2), (7, 3), (3, 3), (1, 1), (100, 7)])
def test_parts_are_nearly_equal_and_none_is_empty(size, parts):
    bounds = [part_bounds(size, (index, parts)) for index in range(parts)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == size
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))
    lengths = {last - first for first, last in bounds}
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_that_is_smaller_than_its_parts_are_many_is_refused(cases):
    assert len(drawn_of(cases, part=(2, 3))) == 4
    with pytest.raises(ValueError, match=r"15 images in 4 steps cannot be split over 4 devices"):
        drawn_of(cases, part=(0, 4))


def test_a_replica_reads_its_own_patches_only(cases, monkeypatch):
    read = []
    honest = PatchSampler.cut
    monkeypatch.setattr(PatchSampler, "cut", lambda self, *place: read.append(place) or honest(self, *place))
    own = drawn_of(cases, part=(1, 2))
    assert len(read) == sum(len(batch.images) for batch in own) < 15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches_from_a_thread(cases):
    host = drawn_of(cases)
    with on_device(iter(drawn_of(cases)), torch.device("cuda")) as sent:
        for given, expected in zip(sent, host, strict=True):
            assert (given.images.device.type, given.labels.dtype) == ("cuda", torch.int64)
            np.testing.assert_array_equal(given.images.cpu().numpy(), expected.images)
            np.testing.assert_array_equal(given.labels.cpu().numpy(), expected.labels)
    assert not threads()
