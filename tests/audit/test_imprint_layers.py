"""Imprint layers: honest sites refuse them; a site that takes any layout is read pixel by pixel, through masks too."""

import pytest

import clients.participant
import clients.training
from secfed.audit.attacks.imprint_layers import ATTACKS, attack, imprinted
from secfed.audit.small_run import SitesRefused

MODES = ["plain", "masked"]


@pytest.fixture
def credulous_sites(monkeypatch):
    """Sites that build whatever network they are offered."""
    offered = []
    honest_network = clients.training.network_for

    def network(plan, device):
        imprint = any(spec.name.startswith("imprint") for spec in offered[-1].tensors)
        return imprinted(plan, seed=0) if imprint else honest_network(plan, device)

    monkeypatch.setattr(clients.participant, "_check_layout", lambda _, layout: offered.append(layout))
    monkeypatch.setattr(clients.training, "network_for", network)


@pytest.mark.parametrize("mode", MODES)
def test_an_imprint_layer_is_refused_at_the_join_and_nothing_leaves(mode):
    row = ATTACKS[0].run(mode, 0)
    assert row.verdict == "refused"
    assert row.figure == 0.0
    assert "accepted by 4 of 4 sites" in row.control
    assert "4 of 4 sites refused the layout" in row.outcome
    assert row == ATTACKS[0].run(mode, 0)


@pytest.mark.parametrize("mode", MODES)
def test_an_imprint_layer_copies_every_slice_out_of_sites_that_take_any_layout(credulous_sites, mode):
    row = attack(mode, 0)
    assert row.verdict == "succeeded"
    assert row.figure > 60
    assert "4 images were read" in row.outcome


def test_sites_that_fail_for_another_reason_do_not_count_as_refusals(monkeypatch):
    # Without the check the site joins, and fails when it loads weights that its network has no place for.
    monkeypatch.setattr(clients.participant, "_check_layout", lambda *_: None)
    with pytest.raises(SitesRefused, match="not this model's"):
        attack("plain", 0)


def test_no_site_of_an_encrypted_run_uploads_for_a_layout_that_is_not_its_plans():
    row = ATTACKS[0].run("encrypted", 0)
    assert row.verdict == "refused"
    assert row.figure == 0.0
    assert "0 uploaded, 4 refused" in row.outcome
