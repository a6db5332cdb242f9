"""Reading MM-WHS as it is downloaded, with the quirks of its files, and telling layouts apart."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from secfed.config import DataSource, PreprocessingConfig
from secfed.data.cases import WHOLE_HEART, Modality
from secfed.data.labels import MM_WHS_LABELS, organ_named
from secfed.data.preprocessing import prepare
from secfed.data.readers import modality_by_name, read_data_set, read_mm_whs
from secfed.errors import DataError
from secfed.experiment.data import DataTask, used_cases

SHAPE = (6, 8, 10)
TRUE_LAYOUT = {
    "ct_train/ct_train_1001": True,
    "ct_train/ct_train_1002": True,
    "mr_train/mr_train_1001": True,
    "mr_train/mr_train_1002": True,
    "ct_test/ct_test_2001": False,
    "mr_test/mr_test_2001": False,
}


def write_volume(path: Path, values: np.ndarray, *, scale: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]))
    if scale is not None:
        image.header.set_slope_inter(scale, 0)
    nibabel.save(image, path)


def labels(*values: int, dtype: type = np.int16) -> np.ndarray:
    """Every value in one row of voxels, the rest background."""
    volume = np.zeros(SHAPE, dtype)
    for place, value in enumerate(values):
        volume[place % 6, :, place // 6] = value
    return volume


def write_mm_whs(folder: Path, cases: dict[str, bool] = TRUE_LAYOUT, *, flat: bool = False) -> Path:
    generator = np.random.default_rng(0)
    for name, labelled in cases.items():
        stem = folder / (Path(name).name if flat else name)
        write_volume(Path(f"{stem}_image.nii.gz"), generator.normal(100, 30, SHAPE).astype(np.float32))
        if labelled:
            write_volume(Path(f"{stem}_label.nii.gz"), labels(*(value for value in MM_WHS_LABELS if value)))
    return folder


def prepared(folder: Path, tmp_path: Path, index: int = 0):
    data_set = read_data_set(folder)
    config = PreprocessingConfig(spacing_mm=(2.0, 1.0, 1.0))
    return prepare(
        data_set.training[index], data_set=data_set, label_map=WHOLE_HEART, config=config, cache=tmp_path / "cache"
    )


@pytest.mark.parametrize("flat", [False, True], ids=["as downloaded", "one folder"])
def test_both_layouts_give_the_same_cases(tmp_path: Path, flat: bool):
    data_set = read_mm_whs(write_mm_whs(tmp_path / "set", flat=flat))
    assert [(case.patient, case.modality) for case in data_set.training] == [
        ("ct_train_1001", Modality.CT),
        ("ct_train_1002", Modality.CT),
        ("mr_train_1001", Modality.MR),
        ("mr_train_1002", Modality.MR),
    ]
    assert [case.patient for case in data_set.test] == ["ct_test_2001", "mr_test_2001"]
    assert all(case.label is not None for case in data_set.training)
    assert all(case.label is None for case in data_set.test)
    assert data_set.validation == ()


def test_values_lead_to_the_structures_of_the_task(tmp_path: Path):
    known = read_mm_whs(write_mm_whs(tmp_path)).label_ids
    assert known == {
        0: "background",
        205: "myocardium",
        420: "left_atrium",
        421: "left_atrium",
        500: "left_ventricle",
        550: "right_atrium",
        600: "right_ventricle",
        820: "aorta",
        850: "pulmonary_artery",
    }
    case = prepared(tmp_path, tmp_path)
    assert set(np.unique(case.label)) == set(range(8))


def test_the_stray_value_of_the_public_data_is_left_atrium(tmp_path: Path):
    folder = write_mm_whs(tmp_path / "set")
    write_volume(folder / "mr_train" / "mr_train_1001_label.nii.gz", labels(420, 421))
    case = prepared(folder, tmp_path, 2)
    assert set(np.unique(case.label)) == {0, WHOLE_HEART.index("left_atrium")}
    assert (case.label > 0).sum() == 2 * SHAPE[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_label_volumes_may_be_stored_as_floats(tmp_path: Path, dtype: type):
    folder = write_mm_whs(tmp_path / "set")
    write_volume(folder / "ct_train" / "ct_train_1001_label.nii.gz", labels(500, 850, dtype=dtype))
    assert set(np.unique(prepared(folder, tmp_path).label)) == {0, 1, 7}


def test_label_volumes_may_be_scaled(tmp_path: Path):
    folder = write_mm_whs(tmp_path / "set")
    write_volume(folder / "ct_train" / "ct_train_1001_label.nii.gz", labels(250, 425).astype(np.int16), scale=2.0)
    assert set(np.unique(prepared(folder, tmp_path).label)) == {0, 1, 7}


def test_a_float_that_is_no_whole_number_is_refused(tmp_path: Path):
    folder = write_mm_whs(tmp_path / "set")
    broken = labels(500, dtype=np.float32)
    broken[0, 0, 0] = 499.5
    write_volume(folder / "ct_train" / "ct_train_1001_label.nii.gz", broken)
    with pytest.raises(DataError, match="not whole numbers"):
        prepared(folder, tmp_path)


def test_a_value_that_the_data_set_does_not_have_is_refused_with_its_name(tmp_path: Path):
    folder = write_mm_whs(tmp_path / "set")
    write_volume(folder / "ct_train" / "ct_train_1001_label.nii.gz", labels(500, 501))
    with pytest.raises(DataError, match="label value 501, which is not among those of data set 'MM-WHS'"):
        prepared(folder, tmp_path)


def test_a_training_case_may_lack_its_label(tmp_path: Path):
    folder = write_mm_whs(tmp_path)
    (folder / "ct_train" / "ct_train_1002_label.nii.gz").unlink()
    assert [case.label is None for case in read_mm_whs(folder).training] == [False, True, False, False]


def test_uncompressed_files_are_read_too(tmp_path: Path):
    write_volume(tmp_path / "ct_train_1001_image.nii", np.ones(SHAPE, np.float32))
    assert read_mm_whs(tmp_path).training[0].image.name == "ct_train_1001_image.nii"


def test_a_label_without_an_image_is_named(tmp_path: Path):
    folder = write_mm_whs(tmp_path)
    (folder / "mr_train" / "mr_train_1002_image.nii.gz").unlink()
    with pytest.raises(DataError, match=r"mr_train_1002_label\.nii\.gz: there is no image"):
        read_mm_whs(folder)


def test_a_case_that_stands_in_two_places_is_named(tmp_path: Path):
    folder = write_mm_whs(tmp_path)
    write_volume(folder / "ct_train_1001_image.nii.gz", np.ones(SHAPE, np.float32))
    with pytest.raises(DataError, match="ct_train_1001 stands in"):
        read_mm_whs(folder)


def test_other_files_are_left_alone(tmp_path: Path):
    folder = write_mm_whs(tmp_path)
    for name in ("readme.txt", "ct_test/ct_test_2001_label_encrypt_1mm.nii.gz", "ct_train/notes_image.nii.gz"):
        (folder / name).touch()
    assert len(read_mm_whs(folder).training) == 4


def test_the_modality_comes_from_the_name_unless_it_is_given(tmp_path: Path):
    folder = write_mm_whs(tmp_path)
    assert all(case.modality is Modality.MR for case in read_data_set(folder, modality=Modality.MR).training)
    assert modality_by_name(Path("ct_train_1001_image.nii.gz")) is Modality.CT
    assert modality_by_name(Path("mr_test_2001.nii.gz")) is Modality.MR
    assert modality_by_name(Path("pet_train_1001_image.nii.gz")) is None


def test_a_description_decides_for_the_layout_of_amos22(tmp_path: Path):
    folder = write_mm_whs(tmp_path)
    entry = {"image": "ct_train/ct_train_1001_image.nii.gz", "label": "ct_train/ct_train_1001_label.nii.gz"}
    content = {"name": "own", "labels": {"500": "left ventricle blood cavity"}, "training": [entry]}
    (folder / "dataset.json").write_text(json.dumps(content))
    data_set = read_data_set(folder)
    assert data_set.name == "own"
    assert data_set.training[0].modality is Modality.CT


def test_a_folder_of_neither_layout_is_answered_with_what_was_looked_for(tmp_path: Path):
    with pytest.raises(DataError, match=r"neither a dataset\.json \(AMOS22, .* nor files named as in MM-WHS"):
        read_data_set(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_data_set(tmp_path / "missing")
    with pytest.raises(DataError, match="holds no file named as in MM-WHS"):
        read_mm_whs(tmp_path)


@pytest.mark.parametrize(
    ("spelling", "structure"),
    [
        ("left ventricle blood cavity", "left_ventricle"),
        ("heart_atrium_right", "right_atrium"),
        ("Myo", "myocardium"),
        ("myocardium of the left ventricle", "myocardium"),
        ("ascending aorta", "aorta"),
        ("pulmonary artery", "pulmonary_artery"),
    ],
)
def test_spellings_of_the_heart_lead_to_one_name(spelling: str, structure: str):
    assert organ_named(spelling) == structure


@pytest.mark.parametrize(("modality", "accepted"), [(Modality.CT, False), (Modality.MR, False), (None, True)])
def test_a_site_of_one_modality_does_not_take_a_folder_of_both(
    tmp_path: Path, modality: Modality | None, accepted: bool
):
    """A whole download is a fine test set; for sites, `secfed.data.splits` parts it."""
    folder = write_mm_whs(tmp_path)
    source = DataSource(folder=folder)
    task = DataTask(name="a", source=source, folder=folder, modality=modality, is_test=modality is None, seed=0)
    data_set = read_data_set(folder, modality=modality)
    if accepted:
        assert [case.patient for case in used_cases(task, data_set)] == [case.patient for case in data_set.training]
    else:
        with pytest.raises(DataError, match=r"the name of a (MR|CT) scan in site 'a', which is configured as"):
            used_cases(task, data_set)
