"""What a private run says of itself: epsilon never without what it needs, simulated noise named, and none without."""

import dataclasses
import io
import json
import subprocess
import sys

import pytest
from private_runs import charges_of, one_site, private_config, site_folder
from rich.console import Console
from small_federation import provision, tree
from typer.testing import CliRunner

from clients.budget import sign_higher_cap, standings
from clients.site import Site
from secfed.cli import app
from secfed.config import load_run_config
from secfed.display import summary
from secfed.errors import ConfigError, SecfedError
from secfed.experiment.run import Progress, run_experiment
from secfed.ledger_command import ledger_page
from secfed.preflight.check import check
from secfed.preflight.members import RunToLookAt
from secfed.preflight.page import print_preflight
from secfed.report import build_report
from secfed.report.naming import has_guarantee
from secfed.results import NO_DP, SIMULATED_NOISE, PrivacyRecord, RunRecord
from secfed.site_config import save_site_file

NEEDED = ("delta 1e-05", "per patient", "zero-out", "PLD (dp-accounting")
SILENT = Progress(
    data_started=lambda *_: None,
    volume_done=lambda *_: None,
    jobs_started=lambda *_: None,
    job_moved=lambda *_: None,
)


@pytest.fixture(scope="module")
def runs(scans, tmp_path_factory):
    """A finished run with simulated noise, and one that only clips."""
    found = {}
    for mode in ("distributed", "clip_only"):
        out = tmp_path_factory.mktemp(mode) / "run"
        protection = "masked" if mode == "distributed" else "plain"
        found[mode] = (
            run_experiment(
                private_config(scans, mode, protection=protection),
                out=out,
                engine="in_process",
                resume=False,
                cores=1,
                progress=SILENT,
            ),
            out,
        )
    return found


def shown(record):
    console = Console(record=True, width=2000, file=io.StringIO())
    summary(record).print(console, run_folder="run", report="page")
    return console.export_text()


def test_every_row_and_the_job_say_what_was_paid_and_that_its_noise_was_simulated(runs):
    record, out = runs["distributed"]
    (job,) = record.jobs
    assert job.privacy is not None
    assert job.privacy.simulated
    assert 5.6 < job.privacy.epsilon < 5.7
    assert {row.privacy for row in record.results} == {job.privacy.text()}
    assert job.privacy.text().startswith("distributed: epsilon 5.6")
    assert job.privacy.text().endswith(SIMULATED_NOISE)
    assert all(word in job.privacy.text() for word in NEEDED)
    points = [point for point in record.curves if point.metric == "epsilon"]
    assert [point.round for point in points] == [1, 2]
    assert points[0].value < points[1].value == job.privacy.epsilon
    assert RunRecord.load(out) == dataclasses.replace(record)
    assert [point for point in record.curves if point.metric != "epsilon"] == []


def test_no_place_shows_epsilon_without_delta_unit_relation_accountant_and_simulation(runs, tmp_path):
    record, out = runs["distributed"]
    page = build_report([out], out=tmp_path / "page.html").read_text(encoding="utf-8")
    body = page.partition("<main>")[2].partition("</main>")[0]
    for text in (shown(record), body, json.dumps(json.loads((out / "run.json").read_text())["results"][0])):
        assert "epsilon" in text
        assert all(word in text for word in NEEDED)
        assert SIMULATED_NOISE.lower() in text.lower()
    assert "Epsilon paid" in body
    assert "Differential privacy (simulated noise)" in body
    assert "No DP guarantee" not in body
    assert "No differential privacy" not in shown(record)


def test_clipping_without_noise_is_labelled_no_dp_everywhere(runs, tmp_path):
    record, out = runs["clip_only"]
    page = build_report([out], out=tmp_path / "page.html").read_text(encoding="utf-8")
    body = page.partition("<main>")[2].partition("</main>")[0]
    assert {row.privacy for row in record.results} == {NO_DP}
    assert not has_guarantee(NO_DP)
    for text in (shown(record), body):
        assert NO_DP in text
        assert "epsilon" not in text.lower()
    assert "No DP guarantee." in body


def test_noise_that_was_not_simulated_carries_no_such_label():
    real = PrivacyRecord(
        mode="local",
        epsilon=3.0,
        delta=1e-5,
        unit="patient",
        relation="zero-out",
        accountant="PLD (dp-accounting 0.6.0)",
        noise_multiplier=1.0,
        sampling_prob=0.5,
        clip_norm=1.0,
        simulated=False,
    )
    assert SIMULATED_NOISE not in real.text()
    assert all(word in real.text() for word in NEEDED)


def write_config(folder, scans, **tables):
    import tomli_w

    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tree(scans, **tables)))
    return path


def private_tables(**privacy):
    return {
        "training": {"optimizer_state": "reset"},
        "federation": {"rounds": 3, "min_cohort": 4, "example_cap": 4},
        "privacy": {"mode": "distributed", "delta": 1e-5, "sampling_prob": 0.7, **privacy},
    }


def test_preflight_prices_the_run_and_asks_the_site_s_cap(scans, tmp_path):
    config = load_run_config(write_config(tmp_path, scans, **private_tables(noise_multiplier=1.0)))
    folder = site_folder(provision(tmp_path / "job", config), "ct-a")
    site = Site(folder)

    def asked(max_epsilon):
        policy = site.file.policy.model_copy(update={"max_epsilon": max_epsilon})
        save_site_file(folder, site.file.model_copy(update={"policy": policy}))
        return check(RunToLookAt(config=config), clients=None, noise_tail=0, site_folder=folder, measure=False)

    found = asked(6.0)
    console = Console(record=True, width=2000, file=io.StringIO())
    print_preflight(found, console)
    text = console.export_text()
    assert "The whole run costs epsilon 7.0" in text
    assert all(word in text for word in (*NEEDED[:1], "per patient (zero-out)", "PLD (dp-accounting"))
    assert "2 of 3 rounds if they have paid nothing yet" in text
    assert found.as_dict()["privacy"]["differential_privacy"] is True
    assert found.exit_code == 0
    refused = asked(1.0)
    assert refused.exit_code == 5
    assert "one round costs more than max_epsilon = 1" in " ".join(f.reason for f in refused.refusals)


def test_preflight_refuses_what_no_noise_can_meet_before_anything_runs(scans, tmp_path):
    impossible = private_tables(epsilon=1e-9, delta=1e-10)
    config = load_run_config(write_config(tmp_path, scans, **impossible))
    with pytest.raises(ConfigError, match="out of reach"):
        check(RunToLookAt(config=config), clients=None, noise_tail=0, site_folder=None, measure=False)
    with pytest.raises(ConfigError, match="out of reach"):
        run_experiment(config, out=tmp_path / "run", engine="in_process", resume=False, cores=1, progress=SILENT)
    assert not (tmp_path / "run").exists()


def test_site_ledger_says_what_is_spent_and_left_and_finds_an_older_copy(scans, tmp_path):
    from private_runs import ask

    config_file = write_config(tmp_path, scans, **private_tables(noise_multiplier=1.0))
    site, session, model = one_site(tmp_path / "job", load_run_config(config_file), "ct-a")
    policy = site.file.policy.model_copy(update={"max_epsilon": 8.0})
    save_site_file(site.folder, site.file.model_copy(update={"policy": policy}))
    site = Site(site.folder)
    empty = CliRunner().invoke(app, ["site", "ledger", "--site", str(site.folder)])
    assert (empty.exit_code, "has no ledger" in empty.output) == (0, True)
    ask(site, session, model)
    path = standings(site)[0].path
    older = {file: file.read_bytes() for file in path.parent.iterdir()}
    ask(site, session, model, server_round=2)
    command = ["site", "ledger", "--site", str(site.folder), "--config", str(config_file), "--json"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0
    said = json.loads(found.output)
    (ledger,) = said["ledgers"]
    assert (ledger["charges"], ledger["cap_epsilon"], ledger["rounds_left"]) == (2, 8.0, 1)
    assert {ledger[name] for name in ("unit", "relation")} == {"patient", "zero-out"}
    assert said["simulated_noise"] is True
    assert {finding["status"] for finding in ledger["findings"]} == {"proved"}
    # A backup that forgets a charge is found by the head in the site's books.
    for file, data in older.items():
        file.write_bytes(data)
    back = CliRunner().invoke(app, command)
    assert back.exit_code == 1
    assert "this is an older copy" in back.output
    path.write_bytes(path.read_bytes().replace(b"patient", b"Patient", 1))
    with pytest.raises(SecfedError, match="damaged"):
        ledger_page(site, None)


def test_a_cap_is_raised_by_name_and_reason_up_to_the_policy_and_no_further(scans, tmp_path):
    from private_runs import ask

    site, session, model = one_site(tmp_path, private_config(scans, "distributed"))

    def with_cap(max_epsilon):
        policy = site.file.policy.model_copy(update={"max_epsilon": max_epsilon})
        save_site_file(site.folder, site.file.model_copy(update={"policy": policy}))
        return Site(site.folder)

    ask(with_cap(10.0), session, model)
    with pytest.raises(ConfigError, match=r"no ledger has a cap below policy.max_epsilon = 10"):
        sign_higher_cap(with_cap(10.0), signed_off_by="A. Keeper", reason="vote 12")
    higher = with_cap(30.0)
    with pytest.raises(ConfigError, match="needs the name of who signs it off, and a reason"):
        sign_higher_cap(higher, signed_off_by=" ", reason="vote 12")
    command = ["site", "raise-cap", "--site", str(site.folder), "--signed-off-by", "A. Keeper", "--reason", "vote 12"]
    assert CliRunner().invoke(app, command).exit_code == 0
    ask(higher, session, model, server_round=2)
    assert len(charges_of(site.folder)) == 2
    told = [finding.what for finding in standings(higher)[0].findings]
    assert any("the cap was raised from 10 to 30 by A. Keeper: vote 12" in what for what in told)


def test_a_wrong_privacy_setting_ends_the_command_with_one_line_and_no_traceback(scans, tmp_path):
    path = write_config(tmp_path, scans, **private_tables(epsilon=1e-9, delta=1e-10))
    found = subprocess.run(
        [sys.executable, "-m", "secfed.cli", "run", str(path), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 2
    assert "[privacy] mode = 'distributed'" in found.stderr
    assert "Traceback" not in found.stderr
