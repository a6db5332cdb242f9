"""Populations and protocols are found by name, and a wrong name is answered with the known ones."""

import pytest

from secfed.data.cases import Modality
from secfed.data.phantom.population import NORTH, POPULATIONS, population_named
from secfed.data.phantom.protocol import (
    PROTOCOLS,
    CtProtocol,
    MrProtocol,
    Phase,
    Sequence,
    protocol_named,
    protocols_for,
)
from secfed.errors import ConfigError


def test_every_entry_is_found_under_its_own_name():
    for name in POPULATIONS:
        assert population_named(name).name == name
    for name, protocol in PROTOCOLS.items():
        assert protocol_named(name, modality=protocol.modality).name == name


def test_there_are_two_populations_and_six_protocols_of_the_abdomen():
    assert set(POPULATIONS) == {"north", "south"}
    assert protocols_for("abdomen") == ["ct-any", "ct-mixed", "ct-portal", "mr-any", "mr-t1-gre", "mr-t2-tse"]


def test_an_unknown_population_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'west'.*known: north, south"):
        population_named("west")


def test_an_unknown_protocol_is_answered_with_those_of_the_modality():
    with pytest.raises(ConfigError, match=r"'pet'.*known for MR of task 'abdomen': mr-any, mr-t1-gre, mr-t2-tse"):
        protocol_named("pet", modality=Modality.MR, task="abdomen")


def test_a_protocol_of_the_other_modality_is_refused():
    with pytest.raises(ConfigError, match=r"'mr-any' makes MR scans, not CT; use ct-any, ct-mixed, ct-portal"):
        protocol_named("mr-any", modality=Modality.CT)


def test_site_protocols_are_those_of_the_study():
    portal, mixed = PROTOCOLS["ct-portal"], PROTOCOLS["ct-mixed"]
    assert isinstance(portal, CtProtocol)
    assert isinstance(mixed, CtProtocol)
    assert ([phase for phase, _ in portal.phases], portal.noise_hu) == ([Phase.PORTAL], (7, 13))
    assert {phase for phase, _ in mixed.phases} == {Phase.UNENHANCED, Phase.ARTERIAL, Phase.DELAYED}
    assert mixed.noise_hu == (13, 24)
    gradient, spin = PROTOCOLS["mr-t1-gre"], PROTOCOLS["mr-t2-tse"]
    assert isinstance(gradient, MrProtocol)
    assert isinstance(spin, MrProtocol)
    assert {sequence for sequence, _ in gradient.sequences} == {Sequence.T1_IN_PHASE, Sequence.T1_OPPOSED_PHASE}
    assert {sequence for sequence, _ in spin.sequences} == {Sequence.T2_TURBO_SPIN_ECHO, Sequence.T2_FAT_SUPPRESSED}
    assert (gradient.field_tesla, spin.field_tesla) == (1.5, 3.0)


def test_north_keeps_the_numbers_of_the_first_study():
    assert NORTH.half_width_mm == (146, 180)
    assert NORTH.half_depth_mm == (96, 124)
    assert NORTH.subcutaneous_fat_mm == (8, 34)
