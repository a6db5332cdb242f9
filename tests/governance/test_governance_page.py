"""The board's page says what the run's own files say, verifies them itself, and names what is missing."""

import json
import os
import shutil

import pytest
from browser import REQUIRED, Browser, find_browser
from command_line import call
from small_federation import config, provision, train, write_data_sets

from secfed.audit.expected import EXPECTED
from secfed.errors import ConfigError, RunFolderError
from secfed.governance.facts import gather, read_attacks
from secfed.governance.page import build_governance_page, render


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data_sets(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def jobs(data, tmp_path_factory):
    """One finished job per protection."""
    found = {}
    for mode in ("plain", "masked", "encrypted"):
        job = provision(tmp_path_factory.mktemp(mode), config(data, protection={"mode": mode}))
        train(job)
        found[mode] = job
    return found


@pytest.fixture
def masked(jobs, tmp_path):
    """A copy of the masked job's folder, to be changed."""
    return shutil.copytree(jobs["masked"].folder, tmp_path / "job")


def attack_results(path, mode="masked", **changes):
    rows = [
        {"attack": name, "mode": mode, "verdict": verdicts[mode], "figure": 0.0} for name, verdicts in EXPECTED.items()
    ]
    path.write_text(json.dumps({"rows": rows, "deviations": [], **changes}))
    return path


def test_it_says_who_took_part_in_how_many_sums_and_that_the_record_verifies(jobs):
    facts = gather(jobs["masked"].aggregator_folder)
    assert facts.rounds_of == dict.fromkeys(["ct-a", "ct-b", "mr-a", "mr-b"], 2)
    assert facts.verified is not None
    assert facts.verified.verified
    page = render(facts)
    assert "Nothing found that contradicts the record" in page
    assert "The aggregator received masked updates only" in page
    assert "3 of 4 sites sign to one another" in page
    assert "below 5, masking alone does not hide a site" in page


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("plain", ["Needs attention", "Updates travelled unprotected", "nothing prevents it"]),
        ("encrypted", ["any one site, with the aggregator", "all sites hold one key"]),
    ],
)
def test_other_protections_are_told_with_their_price(jobs, mode, words):
    page = render(gather(jobs[mode].aggregator_folder))
    for word in words:
        assert word in page


def test_what_was_not_given_is_named_as_missing(jobs):
    page = render(gather(jobs["masked"].aggregator_folder))
    for word in ("No attack results were given", "folder was given (--site)", "No differential privacy"):
        assert word in page


def test_a_changed_transcript_is_the_first_thing_that_a_board_reads(masked):
    entry = sorted((masked / "aggregator" / "transcript" / "entries").iterdir())[1]
    data = bytearray(entry.read_bytes())
    data[100] ^= 1
    entry.write_bytes(bytes(data))
    page = render(gather(masked / "aggregator"))
    assert page.index("Needs attention") < page.index("Who took part")
    assert "The transcript does not verify" in page


def test_a_run_that_has_not_ended_is_said_to_be_so(masked):
    journal = masked / "aggregator" / "journal.jsonl"
    journal.write_text(journal.read_text().splitlines()[0] + "\n")
    assert "The run has not ended: 1 of 2 rounds are done" in render(gather(masked / "aggregator"))


def test_a_site_s_own_receipts_are_held_against_the_record(masked):
    site = masked / "sites" / "ct-a"
    facts = gather(masked / "aggregator", site=site)
    assert facts.verified.verdicts[0].receipts == 2
    receipts = site / "books" / "receipts.jsonl"
    first, *others = map(json.loads, receipts.read_text().splitlines())
    name = next(key for key, value in first.items() if isinstance(value, str) and len(value) == 64)
    first[name] = ("1" if first[name][0] == "0" else "0") + first[name][1:]
    receipts.write_text("".join(json.dumps(line) + "\n" for line in (first, *others)))
    changed = gather(masked / "aggregator", site=site)
    assert not changed.verified.verified
    assert "The transcript does not verify" in render(changed)


def test_a_site_s_policy_and_lack_of_approvals_are_shown(masked):
    page = render(gather(masked / "aggregator", site=masked / "sites" / "ct-a"))
    assert "Site ct-a answered" in page
    assert "None: every run is refused." in page
    assert "protections of updates" in page


def test_attack_results_are_counted_and_limits_named(jobs, tmp_path):
    found = read_attacks(attack_results(tmp_path / "a.json"), mode="masked")
    expected = [verdicts["masked"] for verdicts in EXPECTED.values()]
    assert found.refused == expected.count("refused")
    assert len(found.limits) == expected.count("succeeded")
    assert found.missing == ()
    page = render(gather(jobs["masked"].aggregator_folder, attacks=tmp_path / "a.json"))
    assert f"{found.refused} were refused" in page
    # A board reads what is done and what there is against it, not a name.
    assert "one of two sites takes its own update from the sum" in page
    assert "a site can insist on a larger one (min_cohort)" in page


def test_a_deviation_and_what_was_not_run_stand_out(jobs, tmp_path):
    path = attack_results(tmp_path / "a.json", deviations=["two-sets on masked: succeeded"])
    tree = json.loads(path.read_text())
    tree["rows"] = tree["rows"][:-1]
    path.write_text(json.dumps(tree))
    page = render(gather(jobs["masked"].aggregator_folder, attacks=path))
    assert "verdicts that this version does not claim" in page
    assert f"Not in these results: {list(EXPECTED)[-1]}" in page


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{}], "deviations": []}'])
def test_what_is_no_attack_result_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match="secfed audit attack"):
        read_attacks(tmp_path / "a.json", mode="masked")


def test_a_folder_of_no_run_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="neither a deployed run's folder"):
        gather(tmp_path)


def test_hostile_names_are_text_and_nothing_else(masked):
    journal = masked / "aggregator" / "journal.jsonl"
    (masked / "aggregator" / "roster.cbor").unlink()
    journal.write_text(journal.read_text().replace("ct-a", "<script>alert(1)</script>"))
    page = render(gather(masked / "aggregator"))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_command_writes_it_beside_the_run_and_refuses_what_makes_no_sense(masked, monkeypatch, capfd):
    run = masked / "aggregator"
    status, out, _ = call(monkeypatch, capfd, "report", "--governance", run, "--json")
    assert status == 0
    assert json.loads(out) == {"report": str(run / "governance.html")}
    for arguments, words in (
        (["--governance", run, run], "about one run"),
        ([run, "--site", masked], "belong to --governance"),
    ):
        status, _, err = call(monkeypatch, capfd, "report", *arguments)
        assert status == 2
        assert words in err


@pytest.mark.skipif(find_browser() is None and os.environ.get(REQUIRED) != "1", reason="no browser is on the path")
@pytest.mark.parametrize("width", [360, 1280])
def test_it_opens_in_silence_and_never_scrolls_sideways(jobs, tmp_path, width):
    facts = gather(jobs["masked"].aggregator_folder, attacks=attack_results(tmp_path / "a.json"))
    page = build_governance_page(facts, out=tmp_path / "governance.html")
    with Browser() as browser:
        browser.open(page.resolve().as_uri(), width=width)
        assert browser.named("Runtime.exceptionThrown") == browser.named("Log.entryAdded") == []
        asked = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
        assert [url for url in asked if url != "about:blank"] == [page.resolve().as_uri()]
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("document.querySelectorAll('section').length") == 8
