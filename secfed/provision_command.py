"""`secfed provision`: how a consortium comes together. Each command calls one function and shows what came back.

Run by the consortium (`init`, `sign`), a site (`site`), the aggregator (`aggregator`), and the last two (`accept`); all
run `check`.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secfed.command_line import JsonOption, print_json

provision_app = typer.Typer(
    no_args_is_help=True, help="Found a consortium, join it, sign its members, and check what is still missing."
)


@provision_app.command("init")
def provision_init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the consortium's private keys will be.")],
    consortium: Annotated[str, typer.Option("--consortium", metavar="NAME", help="a-z, 0-9 and '-'.")],
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="For how long a roster holds.")] = 90,
    as_json: JsonOption = False,
) -> None:
    """Found a consortium: its signing key, its anchor, its certificate authority.

    Run it on a machine that neither the aggregator nor a site controls. The key decides who is a member; nothing of it
    ever goes to the aggregator. A short --days limits for how long a member that was taken out can still be accepted
    somewhere.

    Example: secfed provision init consortium --consortium abdomen --days 60
    """
    from secfed.provision_page import print_founded
    from secfed.provisioning.consortium import found_consortium, settings_for
    from secfed.provisioning.fingerprint import fingerprint

    settings = settings_for(name=consortium, roster_days=days)
    anchor = found_consortium(folder, settings)
    if as_json:
        print_json({"folder": str(folder), "consortium": consortium, "anchor_fingerprint": fingerprint(anchor)})
    else:
        print_founded(str(folder), consortium, anchor, Console())


@provision_app.command("site")
def provision_site(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The site's folder, to be made.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The site's name in the roster.")],
    consortium: Annotated[str, typer.Option("--consortium", metavar="NAME", help="The consortium to join.")],
    superlink: Annotated[str, typer.Option("--superlink", metavar="HOST:PORT", help="Where the aggregator is.")],
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="The scans: a folder or a CSV table.")],
    reviewer: Annotated[
        str | None,
        typer.Option("--reviewer", metavar="HEX", help="Public key of who reviews code here; default: a new one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a site's keys, a site.toml to edit, and the request to join; only the request leaves the site.

    Run it at the site. Keys that exist stay. The request holds public halves and is signed by both keys; tell the
    consortium its fingerprint by telephone.

    Example: secfed provision site /srv/secfed/ct-a --name ct-a --consortium abdomen --superlink fl.example.org:443
    --data /data/amos22
    """
    from secfed.provision_page import print_new_site
    from secfed.provisioning.reviewer import public_half_or_new
    from secfed.provisioning.site_folder import check_new_site, make_site_folder

    check_new_site(name=name, consortium=consortium, superlink=superlink, data=data)
    public, written = public_half_or_new(folder, reviewer)
    made = make_site_folder(folder, name=name, consortium=consortium, superlink=superlink, data=data, reviewer=public)
    if as_json:
        print_json(
            {
                "site": made.name,
                "request": str(made.request),
                "fingerprint": made.fingerprint,
                "reviewer_key": None if written is None else str(written),
            }
        )
    else:
        print_new_site(made, str(folder), None if written is None else str(written), Console())


@provision_app.command("aggregator")
def provision_aggregator(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The aggregator's folder, to be made.")],
    consortium: Annotated[str, typer.Option("--consortium", metavar="NAME", help="The consortium that it serves.")],
    host: Annotated[
        list[str], typer.Option("--host", metavar="HOST", help="By which sites reach it; repeat for several.")
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where its SuperLink listens.")] = 8443,
    as_json: JsonOption = False,
) -> None:
    """Make the aggregator's TLS key and its request for a certificate; only the request leaves.

    Example: secfed provision aggregator /srv/secfed-aggregator --consortium abdomen --host fl.example.org
    """
    from secfed.provision_page import print_new_aggregator
    from secfed.provisioning.aggregator_service import make_aggregator_folder

    made = make_aggregator_folder(folder, consortium=consortium, hosts=host, port=port)
    if as_json:
        print_json({"request": str(made.request), "fingerprint": made.fingerprint})
    else:
        print_new_aggregator(made, str(folder), Console())


@provision_app.command("sign")
def provision_sign(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The consortium's folder.")],
    requests: Annotated[
        list[Path] | None, typer.Argument(metavar="SITE.request...", help="Requests of sites to take in.")
    ] = None,
    revoke: Annotated[
        list[str] | None, typer.Option("--revoke", metavar="NAME", help="Take a member out; repeat for several.")
    ] = None,
    aggregator: Annotated[
        Path | None, typer.Option("--aggregator", metavar="server.csr", help="The aggregator's request.")
    ] = None,
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=3650, help="For how long this version holds.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="The fingerprints were compared already: do not ask about each.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign the next version of the roster: take sites in, take sites out, or make the present one hold longer.

    It shows the fingerprint of every request and asks whether the site read out the same. The folder that it writes
    goes to every site and to the aggregator; nothing in it is secret.

    Example: secfed provision sign consortium ct-a.request mr-b.request --aggregator server.csr
    Example: secfed provision sign consortium --revoke ct-a
    """
    from secfed.provision_page import print_release
    from secfed.provisioning.consortium import sign_next
    from secfed.provisioning.fingerprint import fingerprint

    if not yes:
        _confirm(requests or [], aggregator, as_json=as_json)
    release = sign_next(folder, requests=requests or (), revoke=revoke or (), server_request=aggregator, days=days)
    if as_json:
        print_json(
            {
                "folder": str(release.folder),
                "version": release.roster.version,
                "expires": release.roster.expires,
                "members": list(release.roster.names),
                "added": list(release.added),
                "revoked": list(release.revoked),
                "aggregator": release.has_server,
                "anchor_fingerprint": fingerprint(release.anchor),
            }
        )
    else:
        print_release(release, Console())


@provision_app.command("accept")
def provision_accept(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A site's or the aggregator's folder.")],
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="What `secfed provision sign` wrote.")],
    anchor_fingerprint: Annotated[
        str | None,
        typer.Option("--anchor-fingerprint", metavar="TEXT", help="As the consortium read it out; the first time."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take over a version that the consortium signed, after checking it; an older one than the one here is refused.

    Example: secfed provision accept /srv/secfed/ct-a 0003 --anchor-fingerprint "3f2a 9c01 ..."
    """
    from secfed.provision_page import print_adopted
    from secfed.provisioning.adoption import adopt

    adopted = adopt(folder, release, anchor_fingerprint=anchor_fingerprint)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "version": adopted.roster.version,
                "before": adopted.before,
                "members": list(adopted.roster.names),
                "expires": adopted.roster.expires,
            }
        )
    else:
        print_adopted(adopted, Console())


@provision_app.command("check")
def provision_check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A site's, the aggregator's or the consortium's.")],
    connect: Annotated[bool, typer.Option("--connect", help="At a site: call the aggregator, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say in plain words what a folder still lacks, and who must do what; nothing is changed.

    Exit code 0: ready. 2: something is missing or wrong.

    Example: secfed provision check /srv/secfed/ct-a --connect
    """
    from secfed.errors import ConfigError
    from secfed.provision_page import print_checked
    from secfed.provisioning.check import check

    found = check(folder, connect=connect)
    if as_json:
        print_json(found.as_dict())
    else:
        print_checked(found, Console())
    if not found.ready:
        raise typer.Exit(ConfigError.exit_code)


def _confirm(requests: list[Path], aggregator: Path | None, *, as_json: bool) -> None:
    from secfed.errors import ConfigError
    from secfed.provisioning.fingerprint import fingerprint

    for path in (*requests, *(() if aggregator is None else (aggregator,))):
        try:
            shown = fingerprint(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        if as_json:
            raise ConfigError(f"{path} has the fingerprint {shown}: compare it with who sent it, then add --yes")
        if not typer.confirm(f"{path}: {shown}\nDid they read out the same by telephone?"):
            raise ConfigError(f"{path} was not confirmed; nothing was signed")
