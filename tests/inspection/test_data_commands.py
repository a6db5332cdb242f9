"""`secfed data inspect` and `secfed data prepare` as somebody calls them: exit codes, JSON, and one page offline."""

import functools
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_line import call
from small_volumes import save_image, save_label
from table_folder import write_lines, write_site, write_table

from secfed import named_bar
from secfed.config import parse_run_config
from secfed.experiment.data import data_tasks

PLAN = 'task = "abdomen"\n[preprocessing]\nspacing_mm = [5.0, 3.0, 3.0]\n'
HOSTILE = '<script>alert("x")</script>&<img src=x onerror=y>'


@pytest.fixture
def secfed(monkeypatch, capfd):
    return functools.partial(call, monkeypatch, capfd, columns=200)


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))


def elements(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(text)
    return parser.found


def test_a_folder_in_order_ends_with_0_and_its_tables(secfed, tmp_path):
    code, out, err = secfed("data", "inspect", write_table(tmp_path / "scans"))
    assert code == 0
    for word in ("scans", "training", "spacing z, mm", "Liver", "warning:", "nobody draws", "what to do:"):
        assert word in out
    assert "4 cases, 0 errors, 1 warning." in out
    assert "Traceback" not in err


def test_an_error_ends_with_3_and_its_file_reason_and_advice(secfed, tmp_path):
    write_table(tmp_path / "scans")
    save_label(tmp_path / "scans" / "1-label.nii.gz", 1, 9)
    for command in (("inspect",), ("prepare", "--cache", tmp_path / "cache")):
        code, out, _ = secfed("data", command[0], tmp_path / "scans", *command[1:])
        assert code == 3
        assert f"error: {tmp_path / 'scans' / '1-label.nii.gz'} (bert): holds the label value 9" in out
        assert "what to do: known are 0, 1, 2: correct the label" in out


def test_json_is_one_object_and_nothing_else(secfed, tmp_path):
    folder = write_table(tmp_path / "scans")
    code, out, err = secfed("data", "inspect", folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["data_sets"][0]["cases"]["training"]["patients"] == 4
    code, out, err = secfed("data", "prepare", folder, "--cache", tmp_path / "cache", "--jobs", 1, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["scans"] == 4


def test_a_site_is_looked_at_and_prepared_by_its_own_file(secfed, tmp_path):
    site = write_site(tmp_path / "site", a=write_table(tmp_path / "one"), b=write_table(tmp_path / "two", ("emil",)))
    (tmp_path / "plan.toml").write_text(PLAN)
    code, out, _ = secfed("data", "inspect", "--site", site, "--config", tmp_path / "plan.toml", "--json")
    assert code == 0
    assert [found["name"] for found in json.loads(out)["data_sets"]] == ["a", "b"]
    command = ("data", "prepare", "--site", site, "--config", tmp_path / "plan.toml", "--jobs", 1)
    code, out, _ = secfed(*command)
    assert code == 0
    assert "5 scans of 5 patients" in out
    assert "voxels of 5 x 3 x 3 mm" in out
    code, out, _ = secfed(*command, "--json")
    assert json.loads(out)["taken_from_cache"] == 5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("inspect",), "FOLDER...) or --site"),
        (("inspect", "x", "--site", "y"), "one of the two"),
        (("inspect", "x", "--layout", "dicom"), "known layouts are amos22"),
        (("inspect", "x", "--task", "brain"), "known tasks are abdomen"),
        (("inspect", "x", "--organs", ","), "names none"),
        (("inspect", "x", "--html", "absent/page.html"), "there is no folder absent"),
        (("inspect", "x", "--config", "absent.toml"), "no such file"),
        (("inspect", "--site", "absent"), "site.toml"),
        (("prepare", "x"), "--cache FOLDER is needed"),
    ],
)
def test_a_wrong_option_is_named(secfed, arguments, word):
    code, out, err = secfed("data", *arguments)
    assert (code, out) == (2, "")
    assert word in err


def test_a_site_takes_no_options_of_folders(secfed, tmp_path):
    site = write_site(tmp_path / "site", a=write_table(tmp_path / "one"))
    code, _, err = secfed("data", "inspect", "--site", site, "--modality", "ct")
    assert (code, "a site's are in site.toml" in err) == (2, True)
    code, _, err = secfed("data", "prepare", "--site", site, "--cache", tmp_path / "cache")
    assert (code, "a site's caches are in its site.toml" in err) == (2, True)


def test_a_task_that_is_not_the_plan_s_is_refused(secfed, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    code, _, err = secfed("data", "inspect", "x", "--config", tmp_path / "plan.toml", "--task", "whole_heart")
    assert (code, "is 'abdomen'" in err) == (2, True)


def test_the_page_is_offline_has_no_script_and_a_slice_per_case(secfed, tmp_path):
    write_table(tmp_path / "scans")
    save_label(tmp_path / "scans" / "1-label.nii.gz", 9)
    code, _, _ = secfed("data", "inspect", tmp_path / "scans", "--html", tmp_path / "page.html")
    assert code == 3
    text = (tmp_path / "page.html").read_text()
    found = elements(text)
    names = [name for name, _ in found]
    assert "script" not in names
    assert names.count("figure") == 4
    assert names.count("svg") == 3
    assert text.count("cannot be used, see above") == 1
    assert text.count('class="alone"') == 6
    loaded = [own.get("href") or own.get("src") for name, own in found if name in ("image", "img", "link", "iframe")]
    assert all(place.startswith("data:image/png;base64,") for place in loaded)
    policy = next(own["content"] for name, own in found if "http-equiv" in own)
    assert policy.startswith("default-src 'none'; script-src 'none'")
    assert "holds the label value 9" in text


def test_names_are_escaped_on_the_page_and_printable_in_the_terminal(secfed, tmp_path):
    folder = tmp_path / "a<b>&'\x1b[31m"
    save_image(folder / "i.nii.gz")
    save_label(folder / "l.nii.gz", 9)
    write_lines(folder, (f'"{HOSTILE.replace(chr(34), chr(34) * 2)}\x1b[2J",i.nii.gz,l.nii.gz,CT,training',))
    code, out, _ = secfed("data", "inspect", folder, "--html", tmp_path / "page.html")
    assert code == 3
    assert "\x1b[2J" not in out
    assert "\x1b[31m" not in re.sub(r"\x1b\[31merror", "error", out)
    text = (tmp_path / "page.html").read_text()
    assert not {"script", "img", "b>&'"} & {name for name, _ in elements(text)}
    assert "&lt;script&gt;" in text


def test_a_path_that_is_no_text_still_makes_a_page(secfed, tmp_path):
    folder = Path(str(tmp_path / "scans-\udcff"))
    write_table(folder)
    code, out, _ = secfed("data", "inspect", folder, "--html", tmp_path / "page.html")
    assert code == 0
    assert "scans-" in out
    assert "scans-?" in (tmp_path / "page.html").read_text()


def test_ctrl_c_keeps_what_is_prepared_and_waits_for_no_case_that_is_not_begun(secfed, tmp_path, monkeypatch):
    folder, seen = write_table(tmp_path / "scans", [f"p{number}" for number in range(40)]), []

    def stopped(_bar, name):
        seen.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(named_bar.NamedBar, "move", stopped)
    command = ("data", "prepare", folder, "--cache", tmp_path / "cache", "--jobs", 2)
    code, out, err = secfed(*command)
    assert (code, out, len(seen)) == (130, "", 1)
    assert "the same command goes on from there" in err
    kept = list((tmp_path / "cache").glob("[0-9a-f]*"))
    assert 1 <= len(kept) < 120
    monkeypatch.undo()
    code, out, _ = secfed(*command[:-1], 1, "--json")
    assert code == 0
    assert json.loads(out)["taken_from_cache"] >= len(kept)


def test_a_split_prints_the_tables_of_a_run_that_takes_them(secfed, tmp_path):
    source = write_table(tmp_path / "scans", ("anna", "bert", "cleo", "dora", "emil", "anna"))
    command = ("data", "split", source, tmp_path / "splits", "--ct", 2, "--test-share", 0.2, "--validation", 1)
    code, out, _ = secfed(*command)
    assert code == 0
    assert "1 patients train, 1 validate" in out
    found = parse_run_config(tomllib.loads(out))
    assert [(site.name, site.modality) for site in found.sites] == [("ct-1", "CT"), ("ct-2", "CT")]
    assert [test.name for test in found.test] == ["test-ct"]
    patients = [{case.patient for case in task.read().cases} for task in data_tasks(found, run_folder=tmp_path)]
    assert sorted(name for own in patients for name in own) == ["anna", "bert", "cleo", "dora", "emil"]
    code, out, _ = secfed(*command, "--json")
    assert (code, sum(json.loads(out)["scans"].values())) == (0, 6)


def test_a_split_into_no_site_or_too_many_is_named(secfed, tmp_path):
    source = write_table(tmp_path / "scans")
    for options, word in (
        ((), "give --ct, --mri or both"),
        (("--ct", 9), "9 sites of CT"),
        (("--mri", 1), "1 sites of MR"),
    ):
        code, _, err = secfed("data", "split", source, tmp_path / "splits", *options)
        assert (code, word in err) == (2, True)
        assert not (tmp_path / "splits").exists()
