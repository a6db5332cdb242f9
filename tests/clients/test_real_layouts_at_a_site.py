"""From a site's own folders, whose data sets have drawn different organs, to a round and to a private gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_volumes import save_image, save_label, save_volume

from clients.patient_training import PatientTraining
from clients.patients import patients_of
from clients.site import SiteCases, _site_cases
from clients.training import train_one_round
from secfed.config import TrainingPlan
from secfed.data.cases import ABDOMEN
from secfed.errors import DataError
from secfed.network import initial_vector
from secfed.site_config import SiteData, SiteFile

TABLES = {
    "model": {"channels": [4, 8], "residual_units": 0},
    "preprocessing": {"spacing_mm": [5.0, 3.0, 3.0]},
    "training": {"batch_size": 4, "patch_size": [8, 8], "steps_per_round": 2, "optimizer_state": "reset"},
}
PRIVATE = {"mode": "distributed", "noise_multiplier": 1.0, "delta": 1e-5, "patches": 1, "views": 2}


def chaos(folder: Path) -> Path:
    for number in (1, 2):
        for series, places in (("T1DUAL", ("InPhase", "OutPhase")), ("T2SPIR", ("",))):
            for place in places:
                save_image(
                    folder / "MR" / str(number) / series / "DICOM_anon" / place / "v.nii.gz", number + len(place)
                )
            save_label(folder / "MR" / str(number) / series / "Ground" / "v.nii.gz", 63, 126, 189, 252)
    return folder


def total_segmentator(folder: Path) -> Path:
    for subject in ("s0001", "s0002"):
        save_image(folder / subject / "mri.nii.gz", len(folder.name))
        for place, organ in enumerate(ABDOMEN.organs):
            volume = np.zeros((6, 5, 4), np.uint8)
            volume[place % 6, place % 5] = 1
            save_volume(folder / subject / "segmentations" / f"{organ}.nii.gz", volume)
    (folder / "meta.csv").write_text("image_id;split\ns0001;train\ns0002;val\n")
    return folder


def site_cases(folder: Path, plan: TrainingPlan, **changes: object) -> SiteCases:
    data = (
        SiteData(name="chaos", folder=chaos(folder / "chaos"), cache=folder / "cache", **changes),
        SiteData(name="total", folder=total_segmentator(folder / "total"), cache=folder / "cache"),
    )
    return _site_cases(SiteFile(name="mr-a", data=data), plan.preprocessing, plan.task)


def test_a_site_trains_on_data_sets_that_have_drawn_different_organs(tmp_path: Path):
    plan = TrainingPlan.model_validate(TABLES)
    cases = site_cases(tmp_path, plan)
    assert cases.examples == 7
    unlabelled = [{case.unlabelled for case in source.cases} for source in cases.sources]
    assert unlabelled == [{tuple(ABDOMEN.index(organ) for organ in ABDOMEN.organs[4:])}, {()}]
    start, layout = initial_vector(plan, num_classes=ABDOMEN.num_classes)
    outcome = train_one_round(
        plan=plan,
        sources=cases.sources,
        start=start,
        layout=layout.shared_layout(),
        server_round=1,
        state_folder=tmp_path / "state",
    )
    assert np.isfinite(outcome.mean_loss)
    assert np.abs(outcome.weights - start).max() > 0


def test_series_of_a_person_are_one_patient_of_the_private_sum(tmp_path: Path):
    plan = TrainingPlan.model_validate({**TABLES, "privacy": PRIVATE})
    patients = patients_of(site_cases(tmp_path, plan).sources, plan)
    assert [patient.key for patient in patients] == ["mr_1", "mr_2", "s0001"]
    start, layout = initial_vector(plan, num_classes=ABDOMEN.num_classes)
    with PatientTraining.opened(
        plan=plan, layout=layout, patients=patients, start=start, server_round=1, device=torch.device("cpu")
    ) as work:
        for index in range(3):
            norm = np.linalg.norm(work.clipped_sum((index,)).vector)
            assert 0 < norm <= plan.privacy.clip_norm * (1 + 1e-6)


def test_what_a_site_says_was_drawn_is_what_is_learned(tmp_path: Path):
    plan = TrainingPlan.model_validate(TABLES)
    chaos_source, _ = site_cases(tmp_path, plan, organs=("Spleen",)).sources
    spleen = ABDOMEN.index("spleen")
    for case in chaos_source.cases:
        assert set(case.unlabelled) == set(range(1, 9)) - {spleen}
        assert set(np.unique(case.label)) == {0, spleen}
    with pytest.raises(DataError, match="organs names pancreas"):
        site_cases(tmp_path / "other", plan, organs=("pancreas",))
