"""What all commands share: the option for JSON, the option that names a site's folder, and how JSON is printed."""

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
