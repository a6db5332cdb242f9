"""An organ that no training case has drawn cannot be learned: the run says so before, after and on its page."""

import json
from dataclasses import replace

import pytest
import tomli_w
from command_line import call
from rich.console import Console
from small_federation import config, tree

from secfed.config import RunConfig, parse_run_config
from secfed.data.cases import ABDOMEN
from secfed.display import summary
from secfed.errors import RoundAborted
from secfed.experiment import run as run_module
from secfed.experiment.data import prepare_data
from secfed.experiment.drawn_organs import never_drawn, organs_drawn
from secfed.experiment.run import run_in_this_process
from secfed.report import build_report
from secfed.report.never_drawn import of_single_models, of_whole_run, warning
from secfed.results import RunRecord

TWO = ["liver", "spleen"]


def drawing(scans, **organs: list[str]) -> RunConfig:
    """The small federation, where these sites have drawn some organs alone."""
    base = tree(scans)
    for site in base["sites"]:
        if site["name"].replace("-", "_") in organs:
            site["organs"] = organs[site["name"].replace("-", "_")]
    return parse_run_config(base)


def absent(run_config: RunConfig, tmp_path) -> tuple[str, ...]:
    drawn = organs_drawn(run_config, run_folder=tmp_path)
    return never_drawn(drawn, drawn, task=run_config.task)


def test_a_federation_in_which_everything_is_drawn_somewhere_lacks_nothing(scans, tmp_path):
    assert absent(config(scans), tmp_path) == ()
    assert absent(drawing(scans, ct_a=TWO, ct_b=["aorta"], mr_a=["stomach"]), tmp_path) == ()


def test_what_no_site_has_drawn_is_found_in_the_task_s_order(scans, tmp_path):
    some = drawing(scans, ct_a=TWO, ct_b=["aorta"], mr_a=["pancreas"], mr_b=["liver", "kidney_left"])
    assert absent(some, tmp_path) == ("kidney_right", "gallbladder", "stomach")
    drawn = organs_drawn(some, run_folder=tmp_path)
    assert never_drawn(drawn, ["ct-a"], task="abdomen") == ABDOMEN.organs[2:]


def test_validation_and_test_cases_teach_nothing(scans, tmp_path):
    """mr-b alone has drawn everything; where all its cases are for validation, six organs are drawn nowhere."""
    folder = tmp_path / "mr-b"
    folder.mkdir()
    for kind in ("images", "labels"):
        (folder / kind).symlink_to(scans / "mr-b" / kind, target_is_directory=True)
    content = json.loads((scans / "mr-b" / "dataset.json").read_text())
    content["training"][0]["organs"] = TWO
    (folder / "dataset.json").write_text(json.dumps({**content, "training": content["training"][:1]}))
    base = tree(scans)
    for site in base["sites"]:
        site["organs"] = TWO
    base["sites"][3] = {"name": "mr-b", "modality": "MR", "folder": str(folder)}
    assert absent(parse_run_config(base), tmp_path) == ABDOMEN.organs[2:]


@pytest.fixture(scope="module")
def finished(scans, tmp_path_factory):
    """A run with single sites beside it, in which one site alone has drawn the spleen, and six organs nobody has."""
    base = tree(scans, federation={"rounds": 1}, protection={"mode": "plain"}, references=["single_site"])
    base["sites"] = base["sites"][:2]
    for site, organs in zip(base["sites"], (["liver"], TWO), strict=True):
        site["organs"] = organs
    run_config, out = parse_run_config(base), tmp_path_factory.mktemp("never-drawn") / "run"
    run_in_this_process(
        run_config,
        out=out,
        before=lambda folder: prepare_data(run_config, run_folder=folder, workers=1, on_volume=lambda _: None),
    )
    build_report([out], out=out / "report.html")
    return out


def test_the_record_and_the_page_say_what_was_not_drawn(finished):
    record, said = RunRecord.load(finished), warning(ABDOMEN.organs[2:])
    assert "has drawn right kidney, left kidney, pancreas, gallbladder, stomach and aorta, so no model" in said
    lacking = {job.model: job.never_drawn for job in record.jobs}
    six = ABDOMEN.organs[2:]
    assert lacking == {"federated": six, "site:ct-a": ("spleen", *six), "site:ct-b": six}
    page = (finished / "report.html").read_text()
    assert page.count(said) == 2
    assert "“ct-a alone” was trained where nobody has drawn spleen," in page
    assert "“ct-b alone” was trained where" not in page
    assert summary(record).as_dict()["never_drawn"] == list(six)


def test_the_terminal_says_it_after_the_run(finished, capsys):
    summary(RunRecord.load(finished)).print(Console(width=400), run_folder=finished, report=finished / "report.html")
    assert warning(ABDOMEN.organs[2:]) in capsys.readouterr().out


@pytest.mark.parametrize(("organs", "warned"), [(TWO, True), (list(ABDOMEN.organs), False)])
def test_the_terminal_says_it_before_anything_is_trained(scans, tmp_path, monkeypatch, capfd, organs, warned):
    """So that nobody waits for a model that cannot be."""

    def stop(*_: object, **__: object) -> None:
        raise RoundAborted("this far")

    monkeypatch.setattr(run_module, "run_jobs", stop)
    base = tree(scans)
    for site in base["sites"]:
        site["organs"] = organs
    (tmp_path / "run.toml").write_text(tomli_w.dumps(base))
    code, _, err = call(monkeypatch, capfd, "run", tmp_path / "run.toml", "--out", tmp_path / "out", columns=400)
    assert code == RoundAborted.exit_code
    assert ("warning: No training case of any site has drawn right kidney, left kidney, pancreas" in err) is warned


def test_nothing_is_said_of_a_run_that_lacks_nothing(finished):
    record = RunRecord.load(finished)
    whole = replace(record, jobs=tuple(replace(job, never_drawn=()) for job in record.jobs))
    assert of_whole_run(whole) == ()
    assert of_single_models(whole) == []


def test_a_record_made_before_it_was_asked_is_read(finished, tmp_path):
    content = json.loads((finished / "run.json").read_text())
    for job in content["jobs"]:
        del job["never_drawn"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert of_whole_run(RunRecord.load(tmp_path)) == ()
