"""Spellings of organs."""

import pytest

from secfed.data.cases import ABDOMEN
from secfed.data.labels import AMOS22_LABELS, organ_named


@pytest.mark.parametrize(
    ("spelling", "organ"),
    [
        ("right kidney", "kidney_right"),
        ("left kidney", "kidney_left"),
        ("Left  Kidney", "kidney_left"),
        ("kidney_right", "kidney_right"),
        ("gall bladder", "gallbladder"),
        ("gallbladder", "gallbladder"),
        ("arota", "aorta"),
        ("postcava", "vena_cava"),
        ("prostate/uterus", "prostate_uterus"),
        ("portal vein and splenic vein", "portal_vein_and_splenic_vein"),
    ],
)
def test_spellings_lead_to_one_name(spelling: str, organ: str):
    assert organ_named(spelling) == organ


def test_amos22_annotates_every_organ_of_the_task():
    assert set(ABDOMEN.organs) <= {organ_named(spelling) for spelling in AMOS22_LABELS.values()}


def test_no_two_labels_of_amos22_share_a_name():
    names = [organ_named(spelling) for spelling in AMOS22_LABELS.values()]
    assert len(set(names)) == len(names) == 16


def test_our_own_names_stay_as_they_are():
    for organ in ABDOMEN.organs:
        assert organ_named(organ) == organ
