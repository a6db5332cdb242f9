"""The frame of every page: one HTML file that loads nothing, and is written whole or not at all.

A content security policy inside the page forbids the network and every script but those that are put here, so that
neither a library nor a hostile name in a folder can send or run anything.
"""

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from secfed.report.markup import Child, Markup, join, tag
from secfed.report.stylesheet import STYLESHEET


def document(
    title: str, body: Markup, *, data: Markup | None = None, scripts: Sequence[str] = (), style: str = STYLESHEET
) -> str:
    """The page as text; `data` is an element for the scripts to read, and `style` is trusted."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    # The scripts stand last, so that all tables and figures are on the screen before the plots are drawn.
    last = join(data, [Markup(f"<script>{script}</script>") for script in scripts])
    page = tag("html", tag("head", head), tag("body", tag("main", body), last), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def section(key: str, heading: str, *content: Child) -> Markup:
    """A part of the page that links can name."""
    return tag("section", tag("h2", heading), *content, id=key)


def write_page(out: Path, text: str) -> Path:
    """Replace the file at `out`; whoever reads it meanwhile has the former one."""
    handle, draft = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).chmod(0o644)
        Path(draft).replace(out)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return out
