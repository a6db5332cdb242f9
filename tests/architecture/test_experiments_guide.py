"""docs/experiments.md can be followed: its configurations are accepted, and its commands are those that there are."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from secfed.cli import app
from secfed.config import RunConfig, parse_run_config
from secfed.experiment.checks import check_run

TEXT = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
STUDY, PUBLIC, PRIVATE = (tomllib.loads(block) for kind, block in BLOCKS if kind == "toml")
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("secfed ")]


def private_run() -> RunConfig:
    """As the page says: the study with another name and other tables, and without its references."""
    return parse_run_config({**{key: value for key, value in STUDY.items() if key != "references"}, **PRIVATE})


@pytest.mark.parametrize("made", [lambda: parse_run_config(STUDY), lambda: parse_run_config(PUBLIC), private_run])
def test_its_configurations_are_accepted(made):
    check_run(made())


def test_the_private_run_starts_from_what_the_public_one_leaves():
    assert private_run().start_from == Path("runs/public/model.safetensors")
    assert private_run().model == parse_run_config(PUBLIC).model
    assert private_run().preprocessing == parse_run_config(PUBLIC).preprocessing
    # 300 CT and 60 MRI with labels: a quarter is tested, and each of four sites keeps two for validation.
    assert private_run().privacy.patients == (300 - 75) + (60 - 15) - 4 * 2


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_and_their_options_are_those_that_there_are(line):
    words, command = shlex.split(line)[1:], typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    with command.make_context(command.name, words):
        pass


def test_an_option_that_is_not_there_would_be_found():
    with pytest.raises(Exception, match="No such option"):
        test_its_commands_and_their_options_are_those_that_there_are("secfed run study.toml --cash cache")


def test_it_goes_from_the_archive_to_the_report():
    assert len(COMMANDS) > 10
    for step in ("data inspect", "data split", "data prepare", "run study", "report", "run private", "predict"):
        assert any(line.startswith(f"secfed {step}") for line in COMMANDS), step


def test_the_split_s_folders_are_those_of_the_configuration():
    folders = {entry["name"]: entry["folder"] for entry in (*STUDY["sites"], *STUDY["test"])}
    assert folders == {name: f"splits/{name}" for name in ("ct-1", "ct-2", "mr-1", "mr-2", "test-ct", "test-mr")}
