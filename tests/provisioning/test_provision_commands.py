"""The commands of a consortium, as whoever follows docs/deploy.md types them; and what they say on the way."""

import json

import pytest
from command_line import call
from provisioned import NAMES

from secfed.deployment.bundle import bundle_bytes
from secfed.provenance import code_digest


def said(monkeypatch, capfd, *arguments, code=0):
    """The JSON that a command printed."""
    status, out, err = call(monkeypatch, capfd, *arguments, "--json")
    assert status == code, err
    return json.loads(out)


@pytest.fixture
def typed(monkeypatch, capfd, tmp_path):
    """Everything up to the sites' requests, by commands."""
    founded = said(monkeypatch, capfd, "provision", "init", tmp_path / "cons", "--consortium", "abdomen")
    for name in NAMES:
        made = said(
            monkeypatch, capfd, "provision", "site", tmp_path / name, "--name", name, "--consortium", "abdomen",
            "--superlink", "fl.example.org:443", "--data", tmp_path / "scans",
        )  # fmt: skip
        assert made["request"] == str(tmp_path / name / f"{name}.request")
    said(monkeypatch, capfd, "provision", "aggregator", tmp_path / "agg", "--consortium", "abdomen", "--host", "h.org")
    return founded["anchor_fingerprint"]


def requests(tmp_path):
    return [tmp_path / name / f"{name}.request" for name in NAMES]


def test_from_nothing_to_members_and_out_again(monkeypatch, capfd, tmp_path, typed):
    signed = said(
        monkeypatch, capfd, "provision", "sign", tmp_path / "cons", *requests(tmp_path),
        "--aggregator", tmp_path / "agg" / "server.csr", "--yes",
    )  # fmt: skip
    assert (signed["version"], signed["members"], signed["anchor_fingerprint"]) == (1, list(NAMES), typed)
    for name in (*NAMES, "agg"):
        accepted = said(
            monkeypatch, capfd, "provision", "accept", tmp_path / name, signed["folder"], "--anchor-fingerprint", typed
        )
        assert (accepted["version"], accepted["before"]) == (1, 0)
    checked = said(monkeypatch, capfd, "provision", "check", tmp_path / "ct-a", code=2)
    assert [point["status"] for point in checked["points"]].count("wrong") == 1  # there are no scans here
    assert said(monkeypatch, capfd, "provision", "check", tmp_path / "agg")["ready"]
    out = said(monkeypatch, capfd, "provision", "sign", tmp_path / "cons", "--revoke", "mr-b", "--days", "7")
    assert (out["version"], out["members"], out["revoked"]) == (2, ["ct-a", "mr-c"], ["mr-b"])


def test_a_person_is_told_what_to_do_next(monkeypatch, capfd, tmp_path):
    _, out, _ = call(monkeypatch, capfd, "provision", "init", tmp_path / "cons", "--consortium", "abdomen")
    assert "Next: secfed provision sign" in out
    assert "read it out to every site" in out
    _, out, _ = call(
        monkeypatch, capfd, "provision", "site", tmp_path / "ct-a", "--name", "ct-a", "--consortium", "abdomen",
        "--superlink", "h.org:443", "--data", tmp_path,
    )  # fmt: skip
    for step in ("edit", "send", "secfed provision accept", "secfed provision check", "hand it to who reviews code"):
        assert step in out
    _, out, _ = call(monkeypatch, capfd, "provision", "check", tmp_path / "ct-a")
    assert "Not ready" in out
    assert "-> Send the request to the consortium" in out


def test_signing_asks_for_each_fingerprint_and_stops_at_a_no(monkeypatch, capfd, tmp_path, typed):
    asked = []

    def answer(question):
        asked.append(question)
        return len(asked) < 2

    monkeypatch.setattr("typer.confirm", answer)
    status, _, err = call(monkeypatch, capfd, "provision", "sign", tmp_path / "cons", *requests(tmp_path))
    assert status == 2
    assert "was not confirmed; nothing was signed" in err
    assert len(asked) == 2
    assert not (tmp_path / "cons" / "rosters").exists()


def test_scripts_must_say_that_fingerprints_were_compared(monkeypatch, capfd, tmp_path, typed):
    status, out, err = call(monkeypatch, capfd, "provision", "sign", tmp_path / "cons", *requests(tmp_path), "--json")
    assert (status, out) == (2, "")
    assert "then add --yes" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init", "X", "--consortium", "Ab domen"], "Ab domen"),
        (["site", "X", "--name", "A", "--consortium", "c", "--superlink", "h:1", "--data", "."], "name = 'A'"),
        (["site", "X", "--name", "a", "--consortium", "c", "--superlink", "h", "--data", "."], "superlink = 'h'"),
        (
            ["site", "X", "--name", "a", "--consortium", "c", "--superlink", "h:1", "--data", ".", "--reviewer", "12"],
            "64 hexadecimal digits",
        ),
        (["aggregator", "X", "--consortium", "c", "--host", "H.org"], "H.org"),
        (["check", "X"], "holds none of"),
        (["accept", "X", "Y"], "neither a site's folder"),
        (["sign", "X"], "no consortium was founded here"),
    ],
)
def test_bad_input_is_one_line_that_names_it(monkeypatch, capfd, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(monkeypatch, capfd, "provision", *arguments)
    assert status == 2
    assert words in err
    assert "Traceback" not in err


def test_a_reviewer_approves_lists_and_withdraws(monkeypatch, capfd, tmp_path, typed):
    site = tmp_path / "ct-a"
    key = ["--key", site / "reviewer.key", "--by", "R. Viewer", "--reason", "review 7"]
    made = said(monkeypatch, capfd, "site", "approve", "--site", site, *key)
    assert made["code"] == code_digest()
    listed = said(monkeypatch, capfd, "site", "approvals", "--site", site)
    assert [entry["bundle"] for entry in listed["approvals"]] == [made["bundle"]]
    status, _, err = call(monkeypatch, capfd, "site", "approvals", "--site", site, "--withdraw", made["bundle"][:8])
    assert status == 2
    assert "names who withdraws" in err
    said(monkeypatch, capfd, "site", "approvals", "--site", site, "--withdraw", made["bundle"][:8], "--by", "R. Viewer")
    _, out, _ = call(monkeypatch, capfd, "site", "approvals", "--site", site)
    assert "every run is refused" in out
    events = [json.loads(line)["event"] for line in (site / "books" / "audit.jsonl").read_text().splitlines()]
    assert events == ["release approved", "approval withdrawn"]


def test_a_bundle_of_another_program_is_not_approved_by_mistake(monkeypatch, capfd, tmp_path, typed):

    (tmp_path / "other.fab").write_bytes(bundle_bytes("0" * 64))
    site = tmp_path / "ct-a"
    status, _, err = call(
        monkeypatch, capfd, "site", "approve", "--site", site, "--key", site / "reviewer.key", "--by", "R",
        "--reason", "r", "--bundle", tmp_path / "other.fab",
    )  # fmt: skip
    assert status == 2
    assert "a reviewer approves what runs here" in err


@pytest.mark.parametrize("command", [["site", "run", "--site"], ["aggregator", "run"]])
def test_nothing_is_started_for_a_folder_that_is_not_ready(monkeypatch, capfd, tmp_path, typed, command):
    folder = tmp_path / ("ct-a" if command[0] == "site" else "agg")
    status, _, err = call(monkeypatch, capfd, *command, folder)
    assert status == 2
    assert "is not ready" in err
    assert "-> " in err
