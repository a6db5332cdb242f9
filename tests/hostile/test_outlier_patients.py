"""One patient with absurd images moves what a site lets out by no more than was planned, through the whole pipeline."""

import dataclasses
import math

import numpy as np
import pytest
from private_runs import CLIP, ask, one_site, private_config

from clients import private_contribution
from clients.site import SiteCases
from clients.training import TrainingSource
from secfed.privacy_plan import noise_split

ABSURD = {
    "huge": lambda image: np.full_like(image, 1e6),
    "alternating": lambda image: np.where(np.indices(image.shape).sum(axis=0) % 2, 1e6, -1e6).astype(np.float32),
    "not a number": lambda image: np.full_like(image, np.nan),
    "infinite": lambda image: np.full_like(image, np.inf),
    "black": np.zeros_like,
}


@pytest.fixture
def let_out(scans, tmp_path, monkeypatch):
    """What a site lets out with another last patient, as values, under one and the same noise, sampling and dither."""
    monkeypatch.setattr(private_contribution._Round, "question", b"the same streams whatever the data")

    def answer(mode, change, **tables):
        run_config = private_config(scans, mode, privacy={"sampling_prob": 1.0}, **tables)
        name = f"{mode}-{change}"
        site, session, model = one_site(tmp_path / name.replace(" ", "-"), run_config)
        source = site.cases(session.plan).sources[0]
        *others, last = source.cases
        if change is not None:
            last = dataclasses.replace(last, image=ABSURD[change](np.asarray(last.image)))
        cases = SiteCases(sources=(TrainingSource(site=source.site, cases=(*others, last)),), validation=())
        site.cases = lambda plan: cases
        made = ask(site, session, model)
        segment = session.slots.segments[0]
        return made.encoded[: segment.length].view(np.int32) * session.slots.quantum(segment), session

    return answer


@pytest.mark.parametrize("mode", ["distributed", "silo"])
@pytest.mark.parametrize("change", list(ABSURD))
def test_an_outlier_moves_a_release_by_at_most_the_planned_sensitivity(let_out, mode, change):
    # Without a finite gradient a patient counts as zero, which is the relation that the account is about.
    reference = "not a number" if mode == "distributed" else None
    zeroed, session = let_out(mode, reference)
    changed, _ = let_out(mode, change) if change != reference else let_out(mode, None)
    split = noise_split(session.plan, session.slots, dimension=len(zeroed))
    reach = split.sensitivity if mode == "distributed" else 2 * split.clip_norm + split.quantum * math.sqrt(len(zeroed))
    moved = float(np.linalg.norm(changed - zeroed))
    assert moved <= reach
    # The bound is no accident of a tiny update: the outlier does reach far.
    assert moved > 0.05 * split.clip_norm or change == "infinite"


def test_an_outlier_moves_a_local_step_by_at_most_the_clip_norm(let_out, monkeypatch):
    released = []
    noisy = private_contribution._with_all_noise

    def remember(*args):
        released.append(noisy(*args))
        return released[-1]

    monkeypatch.setattr(private_contribution, "_with_all_noise", remember)
    for change in ("not a number", *ABSURD):
        let_out("local", change if change != "not a number" or not released else None, training={"steps_per_round": 1})
    zeroed, others = released[0], released[1:]
    assert len(others) == len(ABSURD)
    for changed in others:
        assert np.linalg.norm(changed - zeroed) <= CLIP * (1 + 1e-3)
    assert max(np.linalg.norm(changed - zeroed) for changed in others) > 0.05 * CLIP
    assert np.isfinite(zeroed).all()
