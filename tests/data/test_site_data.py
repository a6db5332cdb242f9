"""What a site's `[[data]]` entry says about its folder, and what that leaves unlabelled."""

from pathlib import Path

import pytest
from small_volumes import save_image, save_label

from secfed.data.cases import ABDOMEN
from secfed.data.site_data import read_site_data, unlabelled_by_task
from secfed.errors import ConfigError, DataError
from secfed.provisioning import check
from secfed.site_config import SiteData, load_site_file, save_site_file


def write_site(folder: Path, entry: str) -> SiteData:
    save_image(folder / "scans" / "a.nii.gz")
    save_label(folder / "scans" / "a-label.nii.gz", 1)
    (folder / "scans" / "cases.csv").write_text("patient,image,label,modality\na,a.nii.gz,a-label.nii.gz,CT\n")
    (folder / "scans" / "labels.csv").write_text("value,organ\n1,liver\n2,spleen\n3,right kidney\n")
    text = f'name = "ct-a"\n[[data]]\nname = "ct-a"\nfolder = "scans"\ncache = "cache"\n{entry}\n'
    (folder / "site.toml").write_text(text)
    return load_site_file(folder).data[0]


def drawn(data: SiteData) -> tuple[str, ...]:
    data_set = read_site_data(data)
    return data_set.annotated(data_set.training[0], ABDOMEN)


def test_an_entry_may_name_its_layout_and_the_organs_that_were_drawn(tmp_path: Path):
    data = write_site(tmp_path, 'layout = "table"\norgans = ["Right Kidney", "liver"]\nchannel = 0')
    assert (data.layout, data.channel) == ("table", 0)
    assert drawn(data) == ("liver", "kidney_right")
    assert read_site_data(data).training[0].channel == 0


def test_the_folder_may_be_the_table(tmp_path: Path):
    data = write_site(tmp_path, "")
    assert drawn(data.model_copy(update={"folder": data.folder / "cases.csv"})) == ("liver", "spleen", "kidney_right")


def test_an_organ_that_no_label_has_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="organs names pancreas, which no label has; drawn are kidney_right, liver"):
        read_site_data(write_site(tmp_path, 'organs = ["pancreas", "liver"]'))


@pytest.mark.parametrize("entry", ['layout = "dicom"', "organs = []", "channel = -1", 'layuot = "table"'])
def test_an_entry_that_makes_no_sense_is_refused(tmp_path: Path, entry: str):
    with pytest.raises(ConfigError, match=r"site\.toml"):
        write_site(tmp_path, entry)


def test_a_site_file_keeps_what_it_says(tmp_path: Path):
    write_site(tmp_path, 'layout = "table"\norgans = ["liver"]\nchannel = 1')
    site = load_site_file(tmp_path)
    save_site_file(tmp_path, site)
    assert load_site_file(tmp_path).data == site.data


def test_what_is_unlabelled_is_said_for_every_task_that_the_labels_are_for(tmp_path: Path):
    found = unlabelled_by_task(read_site_data(write_site(tmp_path, "")))
    assert found == {"abdomen": ("kidney_left", "pancreas", "gallbladder", "stomach", "aorta")}


def test_the_check_of_a_site_says_what_is_unlabelled(tmp_path: Path):
    write_site(tmp_path, "")
    meanings = "value,organ\n1,liver\n2,spleen\n3,pancreas\n4,gall bladder\n5,stomach\n6,aorta\n"
    (tmp_path / "scans" / "labels.csv").write_text(meanings)
    (point,) = check._data(load_site_file(tmp_path))
    assert (point.status, point.what) == (
        "ok",
        "data 'ct-a': 1 training and 0 validation cases; abdomen: unlabelled are kidney_right, kidney_left",
    )


def test_the_check_of_a_site_names_an_organ_that_no_label_has(tmp_path: Path):
    write_site(tmp_path, 'organs = ["livre"]')
    (point,) = check._data(load_site_file(tmp_path))
    assert point.status == "wrong"
    assert "organs names livre" in point.what
