"""What all commands share: options for JSON and for a site's folder, and how JSON and foreign names are printed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
SiteOption = Annotated[Path, typer.Option("--site", metavar="FOLDER", help="The site's folder: it holds a site.toml.")]


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output, for scripts."""
    sys.stdout.write(json.dumps(value) + "\n")


def printable(text: str) -> str:
    """A foreign name with a mark for every character that a terminal would act on or cannot show."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
