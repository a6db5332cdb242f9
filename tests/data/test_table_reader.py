"""A plain table of cases: as spreadsheets write it, several scans of one patient, and every line that cannot be."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_volumes import save_image, save_label

from secfed.config import PreprocessingConfig
from secfed.data.cases import ABDOMEN, Modality
from secfed.data.preprocessing import prepare
from secfed.data.readers import read_data_set, read_table
from secfed.errors import DataError

HEADER = "patient,image,label,modality,split\n"
LINES = (
    "anna,scans/a-t1.nii.gz,labels/a-t1.nii.gz,MR,training\n"
    "anna,scans/a-t2.nii.gz,labels/a-t2.nii.gz,MRI,train\n"
    "bert,scans/b.nii,labels/b.nii,mr,validation\n"
    "cleo,scans/c.nii.gz,,MR,test\n"
)


def write_table(folder: Path, text: str = HEADER + LINES, *, encoding: str = "utf-8", name: str = "cases.csv") -> Path:
    for stem in ("a-t1.nii.gz", "a-t2.nii.gz", "b.nii", "c.nii.gz"):
        save_image(folder / "scans" / stem, seed=len(stem))
        save_label(folder / "labels" / stem, 1, 2)
    (folder / "labels.csv").write_text("value;organ\n1;Liver\n2;Left Kidney\n", encoding="utf-8-sig")
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_rows_are_cases_and_rows_of_a_patient_share_the_patient(tmp_path: Path):
    data_set = read_table(write_table(tmp_path))
    assert [case.patient for case in data_set.training] == ["anna", "anna"]
    assert [case.image.name for case in data_set.training] == ["a-t1.nii.gz", "a-t2.nii.gz"]
    assert [case.patient for case in data_set.validation] == ["bert"]
    assert data_set.test[0].label is None
    assert {case.modality for case in data_set.cases} == {Modality.MR}
    assert data_set.label_ids == {0: "background", 1: "liver", 2: "kidney_left"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_way_that_spreadsheets_write_csv_reads_alike(tmp_path: Path, encoding: str, delimiter: str, ending: str):
    text = (HEADER + LINES).replace(",", delimiter).replace("\n", ending)
    assert read_table(write_table(tmp_path, text, encoding=encoding)) == read_table(write_table(tmp_path))


def test_the_file_or_its_folder_may_be_given(tmp_path: Path):
    table = write_table(tmp_path)
    assert read_data_set(tmp_path) == read_data_set(table) == read_data_set(table, layout="table")


def test_of_two_tables_the_file_must_be_given(tmp_path: Path):
    write_table(tmp_path, name="other.csv")
    table = write_table(tmp_path)
    with pytest.raises(DataError, match=r"found are: cases\.csv, other\.csv; give the file itself"):
        read_data_set(tmp_path)
    assert len(read_data_set(table).cases) == 4


def test_paths_and_patients_may_be_of_any_script(tmp_path: Path):
    save_image(tmp_path / "aufnahmen" / "größe-肝.nii.gz")
    save_label(tmp_path / "aufnahmen" / "größe-肝-label.nii.gz", 1)
    text = HEADER + "Müller,aufnahmen/größe-肝.nii.gz,aufnahmen/größe-肝-label.nii.gz,CT,\n"
    data_set = read_table(write_table(tmp_path, text))
    (case,) = data_set.training
    assert case.patient == "Müller"
    config = PreprocessingConfig(spacing_mm=(5.0, 3.0, 3.0))
    prepared = prepare(case, data_set=data_set, label_map=ABDOMEN, config=config, cache=tmp_path / "caché")
    assert set(np.unique(prepared.label)) == {0, 1}


def test_a_name_in_two_unicode_forms_is_one_patient(tmp_path: Path):
    rows = "".join(
        f"{unicodedata.normalize(form, 'Müller')},scans/{image},,CT,{split}\n"
        for form, image, split in (("NFC", "b.nii", "training"), ("NFD", "c.nii.gz", "test"))
    )
    with pytest.raises(DataError, match="patient Müller stands in training and in test"):
        read_table(write_table(tmp_path, HEADER + rows))


def test_a_label_may_be_a_folder_of_masks_and_then_needs_no_labels_csv(tmp_path: Path):
    table = write_table(tmp_path, HEADER + "anna,scans/b.nii,masks/b,CT,\n")
    (tmp_path / "labels.csv").unlink()
    save_label(tmp_path / "masks" / "b" / "Right Kidney.nii.gz", 1)
    data_set = read_table(table)
    assert data_set.annotated(data_set.training[0], ABDOMEN) == ("kidney_right",)


def test_a_row_may_say_which_organs_were_drawn_and_which_channel_to_read(tmp_path: Path):
    text = (
        "patient,image,label,modality,organs,channel\n"
        "anna,scans/b.nii,labels/b.nii,CT,liver,1\n"
        "bert,scans/c.nii.gz,labels/c.nii.gz,CT,liver|left kidney,\n"
    )
    data_set = read_table(write_table(tmp_path, text), channel=0)
    assert [data_set.annotated(case, ABDOMEN) for case in data_set.training] == [("liver",), ("liver", "kidney_left")]
    assert [case.channel for case in data_set.training] == [1, 0]


def test_blank_lines_short_rows_and_quoted_fields_are_fine(tmp_path: Path):
    text = 'patient,image,label,modality\n\n"anna, the first",scans/b.nii,labels/b.nii,CT\n,,,\n'
    (case,) = read_table(write_table(tmp_path, text)).training
    assert case.patient == "anna, the first"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column patient"),
        (HEADER, "has no row"),
        ("patient,image,modality\na,b,CT\n", "has no column label"),
        (HEADER + "anna,scans/b.nii,,PET,\n", r"line 2: modality = 'PET': CT or MR"),
        (HEADER + "anna,scans/b.nii,,,\n", "line 2: modality = ''"),
        (HEADER + ",scans/b.nii,,CT,\n", "line 2: no patient is named"),
        (HEADER + "anna,scans/b.nii,,CT,holdout\n", "line 2: split = 'holdout'"),
        (HEADER + "anna,scans/gone.nii,,CT,\n", r"line 2: .*gone\.nii: no such file"),
        (HEADER + "anna,scans/b.nii,labels/gone.nii,CT,\n", r"line 2: .*labels/gone\.nii: no such file"),
        (HEADER + "anna,,,CT,\n", "'' does not lie in the folder"),
        (HEADER + "anna,../b.nii,,CT,\n", "does not lie in the folder"),
        (HEADER + "anna,/etc/hostname,,CT,\n", "does not lie in the folder"),
        (HEADER + "anna,scans/b.nii,,CT,,more\n", "line 2: has 6 fields, but there are 5 columns"),
        (HEADER + "anna,scans/b.nii,,CT,\nbert,scans/b.nii,,CT,\n", r"line 3: scans/b\.nii stands in line 2 too"),
        (HEADER + "anna,scans/b.nii,,CT,train\nanna,scans/c.nii.gz,,CT,val\n", "anna stands in training and in val"),
        ("patient,image,label,modality,age\nanna,scans/b.nii,,CT,7\n", "has the column 'age'; known are"),
        ("patient,image,label,label\na,b,c,d\n", "has two columns label"),
        ("patient,image,label,modality,organs\na,scans/b.nii,labels/b.nii,CT,livre\n", "organs of b.nii names livre"),
        ("patient,image,label,modality,channel\na,scans/b.nii,,CT,-1\n", "line 2: channel = '-1'"),
        (HEADER + '"anna,scans/b.nii,,CT,\n', "line 2"),
    ],
)
def test_a_table_that_cannot_be_is_explained_with_its_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=rf"cases\.csv.*{message}"):
        read_table(write_table(tmp_path, text))


def test_a_table_in_another_encoding_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"cases\.csv: not UTF-8 .* save the table as CSV UTF-8"):
        read_table(write_table(tmp_path, HEADER + "Müller,scans/b.nii,,CT,\n", encoding="latin-1"))


@pytest.mark.parametrize(
    ("meanings", "message"),
    [
        (None, r"labels\.csv: no such file; it says what the values"),
        ("value,organ\n-1,liver\n", "line 2: value = '-1'"),
        ("value,organ\n1,\n", "line 2"),
        ("value,organ\n1,liver\n1,spleen\n", "line 3: the value 1 is liver already"),
        ("value,organ\n0,liver\n", "line 2: the value 0 is background already"),
        ("number,organ\n1,liver\n", "has no column value"),
    ],
)
def test_meanings_that_cannot_be_are_explained(tmp_path: Path, meanings: str | None, message: str):
    table = write_table(tmp_path)
    (tmp_path / "labels.csv").unlink()
    if meanings is not None:
        (tmp_path / "labels.csv").write_text(meanings)
    with pytest.raises(DataError, match=message):
        read_table(table)


@given(
    content=st.binary(max_size=80) | st.text(max_size=60).map(lambda text: (HEADER + text).encode("utf-8", "replace"))
)
def test_any_bytes_are_refused_cleanly(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"any\.csv"):
        read_table(path)
