"""What an encrypted run shows of itself: curves from the sites' books, a flat upload, and the figures of masked."""

import functools
import json

import numpy as np
import pytest
import tomli_w
from command_line import call
from small_federation import config, journal, last_state, provision, train, tree

from clients.books import ROUNDS, Books
from clients.site import Site
from secfed.experiment.curves import curve_points, newest_metrics
from secfed.experiment.run_folder import RunFolder
from secfed.parameters import load_vector
from secfed.report.aggregator_view import chi_square_prob
from secfed.results import RunRecord

CHANGES = {"federation": {"rounds": 3, "validate_every": 1}, "training": {"steps_per_round": 1}}


def trained(scans, folder, **protection):
    job = provision(folder, config(scans, protection=protection, **CHANGES))
    train(job)
    return job


@pytest.fixture(scope="module")
def encrypted(scans, tmp_path_factory):
    return trained(scans, tmp_path_factory.mktemp("encrypted"), mode="encrypted")


@pytest.fixture(scope="module")
def masked(scans, tmp_path_factory):
    return trained(scans, tmp_path_factory.mktemp("masked"), mode="masked")


def test_the_curves_of_an_encrypted_run_are_those_of_the_masked_run(encrypted, masked):
    """One from the sites' books, the other from the aggregator's journal: the same integers, so the same figures."""
    assert not any(entry.get("metrics") for entry in journal(encrypted))
    found = curve_points("federated", encrypted.folder, journal(encrypted))
    assert found == curve_points("federated", masked.folder, journal(masked))
    assert {(point.metric, point.modality) for point in found} == {
        ("train_loss", "all"),
        ("validation_dice", "CT"),
        ("validation_dice", "MR"),
    }
    assert [point.round for point in found if point.metric == "train_loss"] == [1, 2, 3]


def test_the_model_of_an_encrypted_run_is_that_of_the_masked_run_bit_for_bit(encrypted, masked):
    one, other = last_state(encrypted), last_state(masked)
    np.testing.assert_array_equal(one.model, other.model)
    np.testing.assert_array_equal(one.momentum, other.momentum)


def test_a_round_that_one_site_missed_stands_in_the_books_of_the_others(encrypted, tmp_path):
    sites = tmp_path / "sites"
    for index, name in enumerate(("a", "b")):
        for entry in Books(encrypted.site_folders[0] / "books").rounds():
            # Site a missed round 2, and site b was gone after it.
            if entry["round"] in ((1, 3), (1, 2))[index]:
                kept = {**entry, "run": bytes.fromhex(entry["run"]), "server_round": entry["round"]}
                kept["model_hash"] = bytes.fromhex(entry["model"])
                Books(sites / name / "books").round(
                    **{key: kept[key] for key in ("run", "server_round", "model_hash", "contributors", "metrics")}
                )
    assert curve_points("federated", tmp_path, journal(encrypted)) == curve_points(
        "federated", encrypted.folder, journal(encrypted)
    )


def test_progress_shows_the_newest_metrics_that_a_site_knows(encrypted, masked):
    newest = Books(encrypted.site_folders[0] / "books").rounds()[-1]["metrics"]
    assert newest_metrics(encrypted.folder, journal(encrypted)) == newest
    assert newest_metrics(masked.folder, journal(masked)) == newest
    assert newest.keys() == {"train_loss", "validation_dice_ct", "validation_dice_mr"}


def test_before_the_first_round_there_is_nothing_to_show(encrypted, tmp_path):
    (tmp_path / "sites" / "ct-a").mkdir(parents=True)
    assert newest_metrics(tmp_path, []) == {}
    # The sites step on the first sum with the second round's request.
    first = [entry for entry in journal(encrypted) if entry["round"] == 1]
    assert newest_metrics(tmp_path, first) == {}
    assert curve_points("federated", tmp_path, first) == []


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_the_shown_upload_of_an_encrypted_run_is_flat(encrypted, scans, tmp_path, scheme):
    """Whole bytes only: the top byte of a residue of 54 bits could never be."""
    job = encrypted if scheme == "bfv" else trained(scans, tmp_path, mode="encrypted", scheme=scheme)
    view = json.loads((job.aggregator_folder / "aggregator-view.json").read_text())
    assert view["protection"] == "encrypted"
    assert sum(view["masked_counts"]) == view["entries"] > 40_000
    assert chi_square_prob(view["masked_counts"]) > 1e-4


@pytest.mark.slow
def test_an_encrypted_run_from_start_to_finish(scans, tmp_path, monkeypatch, capfd):
    secfed = functools.partial(call, monkeypatch, capfd, columns=200)
    path, out = tmp_path / "run.toml", tmp_path / "out"
    path.write_text(tomli_w.dumps(tree(scans, protection={"mode": "encrypted"}, **CHANGES)))
    code, text, err = secfed("run", path, "--out", out, "--cores", "1")
    assert code == 0, err
    for words in ("Encryption took", "Metrics from the sites' books", "the aggregator sees ciphertexts"):
        assert words in text
    assert "Masking" not in text
    record = RunRecord.load(out)
    job = record.job("federated")
    assert (job.protection, job.rounds, job.survivors_min) == ("encrypted", 3, 4)
    assert job.protection_seconds > 0
    assert {point.metric for point in record.curves} == {"train_loss", "validation_dice"}
    site = RunFolder(out).job_folder("federated") / "sites" / "mr-b"
    code, text, err = secfed("site", "export", "--site", site, "--out", tmp_path / "model.safetensors", "--json")
    assert code == 0, err
    assert json.loads(text)["sha256"] == job.model_hash == load_vector(out / "model.safetensors")[2]["sha256"]
    assert (Site(site).books.folder / ROUNDS).exists()
    page = (out / "report.html").read_text()
    assert "ciphertexts only, neither updates nor their sum nor the model" in page
