"""`secfed predict` as a user calls it: any orientation, any layout, and one bad file does not stop the others."""

import functools
import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from command_line import call
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from small_federation import SHAPE
from torch import nn

from secfed.config import TrainingPlan
from secfed.data.cases import ABDOMEN, Modality
from secfed.data.preprocessing import read_volume, resample_image
from secfed.parameters import ParameterLayout
from secfed.predict import run, segmenter
from secfed.predict.order import PredictionOrder
from secfed.predict.run import predict_scans
from secfed.predict.trained_model import Network, TrainedModel


@pytest.fixture
def predict(monkeypatch, capfd):
    """Run the command in this process: (exit code, standard output, standard error)."""
    return functools.partial(call, monkeypatch, capfd, "predict", columns=200)


def save(path, values, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([5.0, 5.0, 5.0, 1.0]) if affine is None else affine), path)
    return path


def noise(seed=0):
    return np.random.default_rng(seed).normal(0, 90, SHAPE).astype(np.float32)


@pytest.mark.parametrize("rule", ["shared", "fedbn", "fednorm"])
def test_scores_are_those_of_the_run_s_own_test(predict, runs, scans, tmp_path, rule):
    """The scans of the small federation lie on the model's grid, where both scores are of the same voxels."""
    finished = runs(rule)
    code, out, err = predict(finished.folder, scans / "test-ct", scans / "test-mr", "--out", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    found = {
        (case["modality"], score["organ"]): (score["dice"], score["hd95_mm"])
        for case in said["cases"]
        for score in case["scores"]
    }
    expected = {(r.modality, r.organ): (r.dice, r.hd95_mm) for r in finished.results}
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, nan_ok=True)
    layers = {case["modality"]: case["normalisation_layers"] for case in said["cases"]}
    assert ("MR" in layers["MR"]) == (rule != "shared")
    assert {organ["organ"] for organ in said["organs"]} == set(ABDOMEN.organs)


def test_one_scan_gives_labels_a_description_and_a_page(predict, runs, tmp_path):
    image = save(tmp_path / "scan.nii.gz", noise())
    out = tmp_path / "out"
    code, text, err = predict(runs("shared").folder, image, "--modality", "ct", "--out", out, "--preview")
    assert (code, err.strip()) == (0, "")
    assert str(out) in text
    assert sorted(path.name for path in out.iterdir()) == ["scan_seg.html", "scan_seg.json", "scan_seg.nii.gz"]
    content = json.loads((out / "scan_seg.json").read_text())
    values = {label["value"]: label["name"] for label in content["labels"]}
    assert values == {0: "background"} | {index + 1: organ for index, organ in enumerate(ABDOMEN.organs)}
    assert len({label["colour"] for label in content["labels"]}) == len(values)
    labels = np.asarray(nibabel.load(out / "scan_seg.nii.gz").dataobj)
    for label in content["labels"][1:]:
        assert label["volume_ml"] == pytest.approx(int((labels == label["value"]).sum()) * 0.125)
    page = (out / "scan_seg.html").read_text()
    for word in ("Coronal", "Sagittal", "Axial", "Kidney, right", "Content-Security-Policy"):
        assert word in page


def test_nothing_is_overwritten_unasked(predict, runs, tmp_path):
    image, out = save(tmp_path / "scan.nii.gz", noise()), tmp_path / "out"
    arguments = (runs("shared").folder, image, "--modality", "CT", "--out", out)
    assert predict(*arguments)[0] == 0
    (out / "scan_seg.json").write_text("mine")
    before = (out / "scan_seg.nii.gz").stat().st_mtime_ns
    code, text, err = predict(*arguments)
    assert (code, text) == (2, "")
    assert "scan_seg.nii.gz" in err
    assert "--overwrite" in err
    assert (out / "scan_seg.json").read_text() == "mine"
    assert (out / "scan_seg.nii.gz").stat().st_mtime_ns == before
    assert predict(*arguments, "--overwrite")[0] == 0
    assert (out / "scan_seg.json").read_text() != "mine"


def test_a_page_about_former_labels_does_not_stay_beside_others(predict, runs, tmp_path):
    image, out = save(tmp_path / "scan.nii.gz", noise()), tmp_path / "out"
    arguments = (runs("shared").folder, image, "--modality", "CT", "--out", out, "--overwrite")
    assert predict(*arguments, "--preview")[0] == 0
    assert (out / "scan_seg.html").exists()
    assert predict(*arguments)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["scan_seg.json", "scan_seg.nii.gz"]


def test_one_bad_file_is_named_with_a_way_out_and_the_rest_is_segmented(predict, runs, tmp_path):
    scans = tmp_path / "scans"
    good = save(scans / "amos_0001.nii.gz", noise())
    cut = scans / "amos_0002.nii.gz"
    cut.write_bytes(good.read_bytes()[:900])
    unknown = save(scans / "mystery.nii.gz", noise())
    series = save(scans / "amos_0003.nii.gz", np.zeros((*SHAPE, 2), np.float32))
    flat = save(scans / "amos_0004.nii.gz", np.full(SHAPE, 5000.0, np.float32))
    code, out, err = predict(runs("shared").folder, scans, tmp_path / "no.nii", "--out", tmp_path / "out", "--json")
    assert code == 3
    said = json.loads(out)
    assert [case["name"] for case in said["cases"]] == ["amos_0001"]
    reasons = {problem["file"]: problem["reason"] for problem in said["problems"]}
    assert reasons.keys() == {str(path) for path in (cut, unknown, series, flat, tmp_path / "no.nii")}
    assert "may be truncated" in reasons[str(cut)]
    assert "CT or MR" in reasons[str(unknown)]
    assert "4 dimensions" in reasons[str(series)]
    assert "every voxel is the same" in reasons[str(flat)]
    assert all(problem["todo"] for problem in said["problems"])
    for path in reasons:
        assert path in err
    assert "--modality CT or --modality MR" in err
    assert "Traceback" not in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["amos_0001_seg.json", "amos_0001_seg.nii.gz"]


def test_a_label_that_does_not_fit_costs_the_score_and_not_the_segmentation(predict, runs, tmp_path):
    image = save(tmp_path / "scan.nii.gz", noise())
    label = save(tmp_path / "label.nii.gz", np.full(SHAPE, 77, np.uint8))
    arguments = (runs("shared").folder, image, "--modality", "CT", "--labels", label, "--json", "--out", tmp_path / "o")
    code, out, err = predict(*arguments)
    assert code == 3
    said = json.loads(out)
    assert said["cases"][0]["scores"] == []
    assert said["problems"][0]["file"] == str(label)
    assert "--label-values" in err
    code, out, _ = predict(*arguments, "--label-values", "77=liver", "--overwrite")
    assert code == 0
    (score,) = json.loads(out)["cases"][0]["scores"]
    assert score["organ"] == "liver"


@pytest.mark.parametrize(
    ("more", "code", "word"),
    [
        (("--device", "tpu"), 2, "auto, cpu or cuda"),
        (("--model", "centralised"), 4, "models here: federated"),
        (("--label-values", "1=liver"), 2, "--labels"),
        (("--labels", "nowhere"), 2, "no such file or folder"),
        (("--plan", "plan.json"), 2, "--plan"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_written(predict, runs, tmp_path, more, code, word):
    image = save(tmp_path / "scan.nii.gz", noise())
    found, out, err = predict(runs("shared").folder, image, "--modality", "CT", "--out", tmp_path / "out", *more)
    assert (found, out) == (code, "")
    assert word in err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_gpu_that_is_not_there_is_said(predict, runs, tmp_path):
    code, _, err = predict(runs("shared").folder, tmp_path, "--device", "cuda", "--out", tmp_path / "out")
    assert code == 2
    assert "finds no CUDA device" in err


def test_a_model_of_another_architecture_than_its_plan_is_refused(predict, runs, tmp_path):
    folder = shutil.copytree(runs("shared").folder, tmp_path / "run")
    image = save(tmp_path / "scan.nii.gz", noise())
    model = folder / "jobs" / "federated" / "model.safetensors"
    shutil.copyfile(folder / "jobs" / "federated" / "aggregator" / "initial.safetensors", model)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("    4,\n    8,", "    4,\n    16,"))
    code, _, err = predict(folder, image, "--modality", "CT", "--out", tmp_path / "out")
    assert code == 4
    assert "another architecture than its plan says" in err


class Returns(nn.Module):
    """Takes grey levels for the classes that they were made from: the scan itself is the answer."""

    def __init__(self, levels: np.ndarray) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, images):
        levels = torch.from_numpy(self.levels.astype(np.float32)).reshape(1, -1, *[1] * (images.ndim - 2))
        middle = images.shape[1] // 2
        return -50 * (images[:, middle : middle + 1] - levels).abs()


SPACINGS = {"same grid": (5.0, 5.0, 5.0), "nested": (2.5, 2.5, 5.0), "any": (3.1, 2.4, 6.0)}


@pytest.mark.parametrize(("dimensions", "context"), [(2, 0), (2, 2), (3, 0)], ids=["2D", "2.5D", "3D"])
@pytest.mark.parametrize("axes", ["RAS", "LPI", "SRP", "PSL", "AIR"])
@pytest.mark.parametrize("grid", SPACINGS)
def test_a_model_that_returns_its_input_gives_the_input_s_labels(
    tmp_path, monkeypatch, dimensions, context, axes, grid
):
    """To the voxel where the grids coincide or nest, and elsewhere wherever no border is within a model's voxel."""
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 9, (2, 2, 2)), np.ones((12, 12, 12), int)).astype(np.uint8)
    tilt = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = tilt @ np.diag(SPACINGS[grid]), (-40.0, 20.0, 7.0)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(axes))
    stored = nibabel.Nifti1Image(100 * labels.astype(np.int16), affine).as_reoriented(turn)
    image = tmp_path / "scan.nii.gz"
    nibabel.save(stored, image)
    plan = TrainingPlan.model_validate(
        {
            "model": {"dimensions": dimensions, "context_slices": context, "channels": [4, 8]},
            "preprocessing": {"mr_percentiles": [0.0, 100.0]},
            "training": {"patch_size": [8, 16, 16][-dimensions:]},
        }
    )
    prepared = resample_image(read_volume(image), plan.preprocessing.spacing_mm)
    nothing = Network(vector=np.empty(0, np.float32), layout=ParameterLayout(()), layers="none")
    trained = TrainedModel(name="identity", source=tmp_path, plan=plan, average=nothing)
    model = Returns((100 * np.arange(9.0) - prepared.mean()) / prepared.std())
    monkeypatch.setattr(run, "open_model", lambda *_, **__: trained)
    monkeypatch.setattr(segmenter, "build_model", lambda *_, **__: model)
    done = predict_scans(
        PredictionOrder(model_path=tmp_path, images=(image,), out=tmp_path / "out", modality=Modality.MR)
    )
    assert not done.problems
    written = nibabel.load(tmp_path / "out" / "scan_seg.nii.gz")
    np.testing.assert_array_equal(written.affine, nibabel.load(image).affine)
    expected, found = np.asarray(stored.dataobj) // 100, np.asarray(written.dataobj)
    if grid == "any":
        reach = 2 * int(np.ceil(5.0 / min(SPACINGS[grid]) + 0.5)) + 1
        certain = ndimage.maximum_filter(expected, reach) == ndimage.minimum_filter(expected, reach)
        assert certain.mean() > 0.1
        expected, found = expected[certain], found[certain]
    np.testing.assert_array_equal(found, expected)
