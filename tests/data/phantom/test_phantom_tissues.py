"""The tissue table: complete, sourced, and in the order that a radiologist expects."""

from dataclasses import fields

import pytest

from secfed.data.phantom.tissues import PROPERTIES, Fraction, Hounsfield, Relaxation, Tissue

SEEN = ("de Bazelaire", "Int J Leg Med", "Park", "Pop", "bolus-tracking", "definition")


def sources() -> list[tuple[Tissue, str, str]]:
    found = []
    for tissue, properties in PROPERTIES.items():
        for field in fields(properties):
            group = getattr(properties, field.name)
            assert isinstance(group, Hounsfield | Relaxation | Fraction)
            for part in fields(group):
                if part.name.endswith("source"):
                    found.append((tissue, f"{field.name}.{part.name}", getattr(group, part.name)))
    return found


def test_every_tissue_has_properties_in_code_order():
    assert list(PROPERTIES) == list(Tissue)
    assert [int(tissue) for tissue in Tissue] == list(range(26))


def test_every_value_is_either_sourced_or_marked_as_an_assumption():
    assert len(sources()) == 26 * 7
    for tissue, name, source in sources():
        assert source.startswith(("assumption", *SEEN)), (tissue, name, source)


def test_only_the_published_abstract_is_cited_for_relaxation_times():
    """The eight tissues and values of the abstract of de Bazelaire 2004; all other times must be marked."""
    published = {
        Tissue.KIDNEY_CORTEX: (1142, 76),
        Tissue.KIDNEY_MEDULLA: (1545, 81),
        Tissue.LIVER: (809, 34),
        Tissue.SPLEEN: (1328, 61),
        Tissue.PANCREAS: (725, 43),
        Tissue.MUSCLE: (898, 29),
        Tissue.MARROW: (586, 49),
        Tissue.SUBCUTANEOUS_FAT: (382, 68),
    }
    cited = {
        tissue: (properties.at_3_tesla.t1_ms, properties.at_3_tesla.t2_ms)
        for tissue, properties in PROPERTIES.items()
        if not properties.at_3_tesla.source.startswith("assumption")
    }
    assert cited == published
    assert all(properties.at_1_5_tesla.source.startswith("assumption") for properties in PROPERTIES.values())


@pytest.mark.parametrize("tissue", Tissue)
def test_values_are_physical(tissue: Tissue):
    properties = PROPERTIES[tissue]
    assert -1000 <= properties.hounsfield.unenhanced <= 2000
    assert properties.hounsfield.spread >= 0
    for relaxation in (properties.at_1_5_tesla, properties.at_3_tesla):
        assert 0 < relaxation.t2_ms < relaxation.t1_ms
    assert 0 <= properties.proton_density.value <= 1
    assert 0 <= properties.fat_fraction.value <= 1


def test_t1_does_not_shrink_with_field_strength():
    for properties in PROPERTIES.values():
        assert properties.at_3_tesla.t1_ms >= properties.at_1_5_tesla.t1_ms


def test_unenhanced_liver_lies_above_spleen_as_published():
    liver, spleen = (PROPERTIES[tissue].hounsfield.unenhanced for tissue in (Tissue.LIVER, Tissue.SPLEEN))
    assert 1 <= liver - spleen <= 18


def test_fat_lies_in_its_published_range():
    for tissue in (Tissue.SUBCUTANEOUS_FAT, Tissue.VISCERAL_FAT):
        assert -123 <= PROPERTIES[tissue].hounsfield.unenhanced <= -89


def test_arteries_are_brightest_in_the_arterial_phase_and_liver_in_the_portal_phase():
    artery, liver = PROPERTIES[Tissue.ARTERY].hounsfield, PROPERTIES[Tissue.LIVER].hounsfield
    assert artery.arterial > artery.portal > artery.delayed > artery.unenhanced
    assert liver.portal > max(liver.unenhanced, liver.arterial, liver.delayed)
