"""Whatever folders hold: what inspect passes, prepare prepares and training draws from; what it refuses, so do they."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_volumes import save_volume
from table_folder import write_lines

from clients.site import _site_cases
from clients.training import train_one_round
from secfed.config import PreprocessingConfig, TrainingPlan
from secfed.data.cases import ABDOMEN
from secfed.data.preprocessing import prepare
from secfed.data.readers import read_data_set
from secfed.data.sampling import PatchSampler
from secfed.data.site_data import FolderEntry
from secfed.errors import FileError
from secfed.inspection.facts import InspectedDataSet
from secfed.inspection.inspect import InspectionOrder, inspect_data
from secfed.network import initial_vector
from secfed.preparation.prepare import CachedEntry, Preparation, PreparationOrder, prepare_data
from secfed.site_config import SiteData, SiteFile

CONFIG = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
IMAGES = ("noise", "whole numbers", "constant", "zero", "not a number", "infinite", "huge", "one voxel apart")
LABELS = ("organs", "none", "empty", "another value", "halves", "negative", "another shape", "elsewhere", "floats")
DAMAGE = ("none", "none", "none", "cut image", "cut label", "no nifti", "bits of the image")

cases = st.fixed_dictionaries(
    {
        "shape": st.tuples(*[st.integers(1, 7)] * 3),
        "channels": st.sampled_from([None, None, None, 1, 2]),
        "spacing_mm": st.sampled_from([3.0, 3.0, 1.0, 0.01, 40.0, 3e4, 1e9]),
        "flip": st.booleans(),
        "image": st.sampled_from(["noise"] * 4 + list(IMAGES)),
        "label": st.sampled_from(["organs"] * 4 + list(LABELS)),
        "damage": st.sampled_from(DAMAGE),
        "place": st.integers(0, 400),
        "modality": st.sampled_from(["CT", "MR"]),
        "ending": st.sampled_from([".nii", ".nii.gz"]),
        "split": st.sampled_from(["training", "training", "validation", "test"]),
    }
)


def image_of(case: dict[str, Any], generator: np.random.Generator) -> np.ndarray:
    values = generator.normal(50, 90, case["shape"]).astype(np.float32)
    kind = case["image"]
    if kind in ("constant", "zero", "one voxel apart"):
        values[:] = 0 if kind == "zero" else 40
    if kind == "one voxel apart":
        values[0, 0, 0] = 41
    if kind in ("not a number", "infinite"):
        values[0, 0, 0] = np.nan if kind == "not a number" else np.inf
    if kind == "huge":
        values = np.where(values > 50, np.float32(3e38), np.float32(-3e38))
    if kind == "whole numbers":
        values = values.astype(np.int16)
    return values if case["channels"] is None else np.stack([values] * case["channels"], axis=-1)


def label_of(case: dict[str, Any], generator: np.random.Generator) -> np.ndarray:
    kind = case["label"]
    shape = tuple(size + (kind == "another shape") for size in case["shape"])
    values = generator.integers(0, 3, shape).astype(np.float32)
    values[0, 0, 0] = {"another value": 9, "halves": 1.5, "negative": -1}.get(kind, 1)
    if kind == "empty":
        values[:] = 0
    return values.astype(np.float64 if kind == "floats" else np.float32 if kind in ("halves", "negative") else np.uint8)


def write(folder: Path, described: list[dict[str, Any]]) -> Path:
    lines = []
    for number, case in enumerate(described):
        generator = np.random.default_rng(number)
        affine = np.diag([(-1.0 if case["flip"] else 1.0) * case["spacing_mm"], 3.0, 5.0, 1.0])
        image, label = (f"{number}{kind}{case['ending']}" for kind in ("", "-label"))
        save_volume(folder / image, image_of(case, generator), affine)
        moved = affine.copy()
        moved[:3, 3] = 300 if case["label"] == "elsewhere" else 0
        if case["label"] != "none":
            save_volume(folder / label, label_of(case, generator), moved)
        damage(case, folder / image, folder / label)
        drawn = "" if case["label"] == "none" else label
        lines.append(f"p{number},{image},{drawn},{case['modality']},{case['split']}")
    return write_lines(folder, lines)


def damage(case: dict[str, Any], image: Path, label: Path) -> None:
    kind, data = case["damage"], bytearray(image.read_bytes())
    if kind == "cut image":
        image.write_bytes(data[: case["place"]])
    if kind == "cut label" and label.exists():
        label.write_bytes(label.read_bytes()[: case["place"]])
    if kind == "no nifti":
        image.write_bytes(b"not a scan")
    if kind == "bits of the image":
        data[case["place"] % len(data)] ^= 1 << case["place"] % 8
        image.write_bytes(data)


def inspected(folder: Path) -> InspectedDataSet:
    order = InspectionOrder(
        entries=(("made", FolderEntry(folder=folder)),), config=CONFIG, task="abdomen", at_site=False
    )
    return inspect_data(order, on_start=lambda _: None, on_case=lambda *_: None).data_sets[0]


def prepared(folder: Path, cache: Path) -> Preparation:
    order = PreparationOrder(
        entries=(CachedEntry(data=FolderEntry(folder=folder), cache=cache),),
        config=CONFIG,
        task="abdomen",
        jobs=1,
        at_site=False,
    )
    return prepare_data(order, on_start=lambda _: None, on_case=lambda _: None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy says so where a header or a voxel is absurd
@settings(max_examples=60)
@given(described=st.lists(cases, min_size=1, max_size=3))
def test_what_inspect_passes_is_what_prepare_and_training_take(described: list[dict[str, Any]]):
    with TemporaryDirectory() as name:
        folder = write(Path(name) / "scans", described)
        found, data_set, cache = inspected(folder), read_data_set(folder), Path(name) / "cache"
        refused = {problem.case for problem in found.errors if problem.reason != "a training case without a label"}
        accepted = {facts.case.patient for facts in found.usable}
        drawn_from = []
        for case in data_set.cases:
            if case.patient in accepted:
                done = prepare(case, data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=cache)
                assert np.isfinite(done.image).all()
                drawn_from += [done] if case in data_set.training and case.label is not None else []
            else:
                assert case.patient in refused
                with pytest.raises(FileError):
                    prepare(case, data_set=data_set, label_map=ABDOMEN, config=CONFIG, cache=cache)
        if drawn_from:
            sampler = PatchSampler(drawn_from, patch_size=(8, 8), foreground_prob=0.5)
            image, _ = sampler.draw(np.random.default_rng(0))
            assert np.isfinite(image).all()
        if any(case.label is not None or case in data_set.training for case in data_set.cases):
            errors = {problem.case for problem in prepared(folder, cache).problems if problem.severity == "error"}
            assert errors <= {problem.case for problem in found.errors}


def test_what_inspect_passes_trains_at_a_site(tmp_path: Path):
    """Odd scans that are all in order: thin, coarse, flipped, of whole numbers, with an empty label."""
    odd = {"channels": None, "flip": False, "image": "noise", "label": "organs", "damage": "none", "place": 0}
    odd |= {"modality": "CT", "ending": ".nii", "split": "training", "spacing_mm": 3.0, "shape": (6, 5, 4)}
    changes = ({}, {"shape": (7, 1, 2)}, {"spacing_mm": 40.0}, {"flip": True, "image": "whole numbers"})
    more = ({"label": "empty"}, {"label": "floats", "channels": 1}, {"split": "validation"})
    folder = write(tmp_path / "scans", [{**odd, **change} for change in (*changes, *more)])
    assert inspected(folder).errors == ()
    plan = TrainingPlan.model_validate(
        {
            "model": {"channels": [4, 8], "residual_units": 0},
            "preprocessing": {"spacing_mm": [5.0, 3.0, 3.0]},
            "training": {"batch_size": 4, "patch_size": [8, 8], "steps_per_round": 2, "optimizer_state": "reset"},
        }
    )
    data = SiteData(name="odd", folder=folder, cache=tmp_path / "cache")
    sources = _site_cases(SiteFile(name="ct-a", data=(data,)), plan.preprocessing, plan.task).sources
    assert len(sources[0].cases) == 6
    start, layout = initial_vector(plan, num_classes=ABDOMEN.num_classes)
    outcome = train_one_round(
        plan=plan,
        sources=sources,
        start=start,
        layout=layout.shared_layout(),
        server_round=1,
        state_folder=tmp_path / "state",
    )
    assert np.isfinite(outcome.mean_loss)
