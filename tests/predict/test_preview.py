"""The page shows the scan as radiologists hang it, on slices where something was found, and loads nothing."""

import re
from pathlib import Path

import numpy as np

from clients.evaluation import CaseScore
from secfed.config import TrainingPlan
from secfed.data.cases import ABDOMEN, Modality
from secfed.data.preprocessing import NiftiVolume
from secfed.parameters import ParameterLayout
from secfed.predict.preview import AXIAL_SLICES, slices_to_show, write_preview
from secfed.predict.trained_model import Network, TrainedModel

SHAPE = (20, 30, 40)


def page(path, labels, *, reference=None, scores=(), title="scan"):
    volume = NiftiVolume(
        voxels=np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.float32),
        affine=np.diag([1.0, 2.0, 3.0, 1.0]),
        spacing_mm=(3.0, 2.0, 1.0),
    )
    network = Network(vector=np.empty(0, np.float32), layout=ParameterLayout(()), layers="")
    write_preview(
        path,
        volume,
        labels,
        reference=reference,
        trained=TrainedModel(name="m", source=Path(), plan=TrainingPlan(), average=network),
        title=title,
        modality=Modality.CT,
        volumes=dict.fromkeys(ABDOMEN.organs, 1.5),
        scores=scores,
    )
    return path.read_text()


def figure(text, caption):
    return next(part for part in text.split("<figure>") if caption in part).split("</figure>")[0]


def corners(svg):
    paths = re.findall(r'<path d="([^"]*)" stroke', svg)
    return np.array(re.findall(r"(\d+) (\d+)", " ".join(paths)), int)


def test_slices_lie_where_something_was_found():
    labels = np.zeros(SHAPE, np.uint8)
    assert len(slices_to_show(labels)) == 2 + AXIAL_SLICES
    labels[4:7, 3:6, 30:33] = 1
    shown = slices_to_show(labels)
    assert [place for plane, place in shown if plane == "axial"] == [6, 5, 4]
    assert dict(shown[:2]) == {"coronal": 4, "sagittal": 31}


def test_the_patient_s_right_is_on_the_left_and_anterior_and_upper_are_on_top(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    # Upwards, to anterior and to the patient's right: at the end of every axis.
    labels[17:, 25:, 36:] = 1
    text = page(tmp_path / "p.html", labels)
    for caption, width in (("Axial", 4), ("Coronal", 4), ("Sagittal", 5)):
        found = corners(figure(text, caption))
        assert found[:, 0].min() == 0
        assert found[:, 0].max() == width
        assert found[:, 1].min() == 0


def test_lines_say_whose_they_are(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:9, 5:9, 5:9] = 1
    alone = page(tmp_path / "a.html", labels)
    assert 'class="alone"' in alone
    assert "reference" not in alone.split("</style>")[1]
    score = CaseScore(patient="p", modality=Modality.CT, organ="liver", dice=0.5, hd95_mm=float("nan"))
    both = page(tmp_path / "b.html", labels, reference=np.roll(labels, 1, 2), scores=(score,))
    for word in ('class="reference"', 'class="prediction"', "dashed: prediction", "0.500"):
        assert word in both


def test_a_hostile_name_stays_text_and_nothing_is_loaded(tmp_path):
    text = page(tmp_path / "p.html", np.zeros(SHAPE, np.uint8), title="<script>alert(1)</script>")
    assert "<script>" not in text
    assert "script-src 'none'" in text.replace("&#x27;", "'")
    assert not re.search(r'(?:src|href)="(?!data:)', text)
