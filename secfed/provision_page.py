"""`secfed provision`: what each step made, and what whoever did it has to do next, in the order in which it is done.

The steps themselves are in `secfed.provisioning`.
"""

from rich.console import Console

from secfed.provisioning.adoption import Adopted
from secfed.provisioning.aggregator_service import NewAggregator
from secfed.provisioning.check import Checked, Status
from secfed.provisioning.consortium import Release
from secfed.provisioning.fingerprint import fingerprint
from secfed.provisioning.site_folder import NewSite

_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "soon": ("soon", "yellow"),
    "missing": ("missing", "red"),
    "wrong": ("wrong", "red"),
}


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_founded(folder: str, name: str, anchor: bytes, console: Console) -> None:
    """After `init`."""
    _say(
        console,
        f"Consortium '{name}' is founded in {folder}.",
        f"Its anchor is {fingerprint(anchor)}: read it out to every site, never send it with the files.",
        "Whoever has consortium.key decides who is a member: keep this folder off line, and a copy of it in a safe.",
        f"Next: secfed provision sign {folder} --aggregator server.csr SITE.request ...",
    )


def print_new_site(site: NewSite, folder: str, reviewer_key: str | None, console: Console) -> None:
    """After `site`."""
    _say(
        console,
        f"Site '{site.name}': keys are in {folder}, and never leave it.",
        *(() if site.wrote_site_file else ("site.toml was there already and stays as it is.",)),
        *(
            ()
            if reviewer_key is None
            else (f"The reviewer's key is {reviewer_key}: hand it to who reviews code here, and remove it.",)
        ),
        f"Next: 1. read and edit {folder}/site.toml: data and rules",
        f"      2. send {site.request} to the consortium, and read out its fingerprint by telephone:",
        f"         {site.fingerprint}",
        f"      3. with the folder that comes back: secfed provision accept {folder} RELEASE --anchor-fingerprint ...",
        f"      4. secfed provision check {folder} --connect",
    )


def print_new_aggregator(made: NewAggregator, folder: str, console: Console) -> None:
    """After `aggregator`."""
    _say(
        console,
        f"The aggregator's TLS key is in {folder}, and never leaves it.",
        f"Next: 1. send {made.request} to the consortium, and read out its fingerprint by telephone:",
        f"         {made.fingerprint}",
        f"      2. with the folder that comes back: secfed provision accept {folder} RELEASE --anchor-fingerprint ...",
    )


def print_release(release: Release, console: Console) -> None:
    """After `sign`."""
    roster = release.roster
    taken_out = (
        f"Taken out: {', '.join(release.revoked)}. A site refuses them from the moment that it accepts this version: "
        "see that all do."
    )
    _say(
        console,
        f"Version {roster.version} is signed: {', '.join(roster.names)}.",
        *((f"New: {', '.join(release.added)}.",) if release.added else ()),
        *((taken_out,) if release.revoked else ()),
        f"Next: send the folder {release.folder} to every site and to the aggregator; nothing in it is secret.",
        f"      They run: secfed provision accept FOLDER {release.folder.name}",
        f"      The first time they ask you for the anchor: {fingerprint(release.anchor)}",
    )
    if not release.has_server:
        _say(console, "No aggregator has asked for a certificate yet: add --aggregator server.csr when it has.")


def print_adopted(adopted: Adopted, console: Console) -> None:
    """After `accept`."""
    roster = adopted.roster
    before = "the first here" if adopted.before == 0 else f"version {adopted.before} before"
    _say(console, f"Version {roster.version} of '{roster.consortium}' ({before}): {', '.join(roster.names)}.")


def print_checked(found: Checked, console: Console) -> None:
    """After `check`: one line a point, and below it what to do."""
    _say(console, f"{found.kind} {found.name}" if found.kind != found.name else found.kind)
    for point in found.points:
        word, colour = _MARKS[point.status]
        console.print(f"  [{colour}]{word:8}[/] ", end="", highlight=False)
        _say(console, point.what)
        if point.todo:
            _say(console, f"           -> {point.todo}")
    _say(console, "Ready." if found.ready else "Not ready: see what is marked missing or wrong.")
