"""`secfed site`: what a site's own people do with its folder.

Run at the site, on its own files. Each command calls one function and shows what came back.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secfed.command_line import JsonOption, SiteOption, print_json

site_app = typer.Typer(
    no_args_is_help=True,
    help="At a site: its node, the code it approves, its privacy budget, its encrypted runs and their model.",
)


@site_app.command("run")
def site_run(site: SiteOption) -> None:
    """Take part: run the site's SuperNode and its worker until SIGTERM, and start again what ends.

    The process for systemd (docs/deploy.md). It opens connections to the aggregator only, and nobody connects to the
    site. SIGTERM lets the message in progress be finished.

    Example: secfed site run --site /srv/secfed/ct-a
    """
    from secfed.deployment.site_side import note_start, note_stop, supervise_site
    from secfed.deployment.supervisor import install_signals

    console = Console(stderr=True)
    supervisor = supervise_site(site)
    install_signals(supervisor.stop)

    def ready() -> None:
        note_start(site)
        console.print(
            "Connecting. Refusals and their reasons: books/site.log. SIGTERM or Ctrl-C ends it.", soft_wrap=True
        )

    supervisor.run(on_ready=ready)
    note_stop(site)


@site_app.command("approve")
def site_approve(
    site: SiteOption,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The reviewer's private key.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who approves.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="On what grounds: a review, a ticket.")],
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="A bundle's file; default: the one of the installed release."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Approve the release that is installed here, so that runs for it are answered; an act of the site's reviewer.

    A run names the program that it is for. The site runs its own installed program and no other, and only where its
    reviewer has signed for it. After an update of the program, the new release has to be approved.

    Example: secfed site approve --site /srv/secfed/ct-a --key reviewer.key --by "R. Viewer" --reason "review 7"
    """
    from secfed.deployment.bundle import bundle_bytes, bundle_digest, code_of
    from secfed.deployment.site_side import site_log
    from secfed.errors import ConfigError
    from secfed.provenance import code_digest
    from secfed.provisioning.approvals import Approvals
    from secfed.provisioning.reviewer import load_reviewer_key
    from secfed.site_config import load_site_file

    file = load_site_file(site)
    data = bundle_bytes() if bundle is None else bundle.read_bytes()
    if code_of(data) != code_digest():
        raise ConfigError(
            f"{bundle}: made for the program {code_of(data)[:16]}..., and {code_digest()[:16]}... is installed here: a "
            "reviewer approves what runs here"
        )
    approvals = Approvals.of(site, file)
    made = approvals.add(
        bundle=bundle_digest(data), code=code_digest(), by=by, reason=reason, key=load_reviewer_key(key)
    )
    site_log(site, file).append("release approved", bundle=made.bundle, code=made.code, by=made.by, reason=made.reason)
    if as_json:
        print_json({"bundle": made.bundle, "code": made.code, "by": made.by, "time": made.time})
    else:
        Console().print(f"Approved: bundle {made.bundle}, program {made.code}.", soft_wrap=True, highlight=False)


@site_app.command("approvals")
def site_approvals(
    site: SiteOption,
    withdraw: Annotated[
        str | None, typer.Option("--withdraw", metavar="BUNDLE", help="Take an approval back, by its first digits.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who withdraws.")] = "",
    as_json: JsonOption = False,
) -> None:
    """List which releases this site answers for, or withdraw one; a withdrawal needs no key and holds at once.

    Example: secfed site approvals --site /srv/secfed/ct-a
    """
    from secfed.deployment.site_side import site_log
    from secfed.errors import ConfigError
    from secfed.provenance import code_digest
    from secfed.provisioning.approvals import Approvals
    from secfed.site_config import load_site_file

    file = load_site_file(site)
    approvals = Approvals.of(site, file)
    if withdraw is not None:
        if not by.strip():
            raise ConfigError("--by NAME: a withdrawal names who withdraws")
        approvals.withdraw(withdraw)
        site_log(site, file).append("approval withdrawn", bundle=withdraw, by=by)
    found = approvals.all()
    if as_json:
        entries = [{"bundle": one.bundle, "code": one.code, "by": one.by, "time": one.time} for one in found]
        print_json({"site": file.name, "installed": code_digest(), "approvals": entries})
        return
    for one in found:
        here = "installed here" if one.code == code_digest() else "another release"
        Console().print(
            f"{one.bundle[:16]}  {here}  {one.time}  {one.by}: {one.reason}", soft_wrap=True, highlight=False
        )
    if not found:
        Console().print("Nothing is approved: every run is refused.")


@site_app.command("runs")
def site_runs(site: SiteOption, as_json: JsonOption = False) -> None:
    """List the encrypted runs that a site has taken part in, the newest first, and how far it got in each.

    It reads the site's own files and asks nobody. "end not confirmed": the last round is done, but not enough sites
    showed yet that they ended on this model. "key lost": only the site's books tell of the run.

    Example: secfed site runs --site /srv/secfed/ct-a
    """
    from clients.export import standings
    from clients.site import Site
    from secfed.display import print_standings

    opened = Site(site)
    found, problems = standings(opened)
    if as_json:
        runs = [standing.as_dict() for standing in found]
        print_json({"site": opened.name, "runs": runs, "problems": list(problems)})
    else:
        print_standings(opened.name, found, problems, Console())


@site_app.command("export")
def site_export(
    site: SiteOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Safetensors file to write; it must not exist.")],
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Which run, as `secfed site runs` names it or begins to.")
    ] = None,
    unfinished: Annotated[
        int | None,
        typer.Option(
            "--unfinished",
            min=1,
            metavar="ROUNDS",
            help="Export a run that has not ended; ROUNDS must be the number of rounds that are done.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the final model of an encrypted run to a file: the only way by which a model leaves the consortium.

    In an encrypted run the aggregator has no model; every site has the same one. Any site can export it, and needs
    nobody's consent for that: what the others may do with the file is for the consortium's contract to say. The
    optimiser's moments stay behind. The site's books/site.log notes time, target and SHA-256 of every export. The file
    is not encrypted, and a model says something about the patients that it was trained on.

    Example: secfed site export --site /srv/secfed/ct-a --out model.safetensors
    """
    from clients.export import export_model
    from clients.site import Site
    from secfed.display import print_export

    written = export_model(Site(site), out=out, run=run, unfinished=unfinished)
    if as_json:
        print_json(written.as_dict())
    else:
        print_export(written, Console())


@site_app.command("ledger")
def site_ledger(
    site: SiteOption,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG.toml", help="Say how many rounds of this run still fit.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a site's patients have paid in epsilon, what their cap leaves, and whether the ledgers are whole.

    It reads the site's own files and writes nothing. Each ledger is checked entry by entry, and against the heads that
    stand in the site's books. Exit code 0: in order. 1: at least one is not.

    Example: secfed site ledger --site /srv/secfed/ct-a --config my-study.toml
    """
    from clients.site import Site
    from secfed.config import load_run_config
    from secfed.ledger_command import ledger_page, print_ledger

    page = ledger_page(Site(site), None if config_file is None else load_run_config(config_file))
    if as_json:
        print_json(page.as_dict())
    else:
        print_ledger(page, Console())
    if page.failed:
        raise typer.Exit(1)


@site_app.command("raise-cap")
def site_raise_cap(
    site: SiteOption,
    signed_off_by: Annotated[str, typer.Option("--signed-off-by", metavar="NAME", help="Who answers for it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why these patients may pay more.")],
    as_json: JsonOption = False,
) -> None:
    """Let a site's patients pay up to the `max_epsilon` that its site.toml names now, where a ledger has less.

    An act of the site's owner, and of nobody else: raise `policy.max_epsilon` in site.toml first, then sign here. Name
    and reason stay in the ledger for good, and every audit of it shows them. A lower `max_epsilon` needs no signature:
    it holds from the next run on.

    Example: secfed site raise-cap --site /srv/secfed/ct-a --signed-off-by "A. Keeper" --reason "ethics vote 12"
    """
    from clients.budget import sign_higher_cap
    from clients.site import Site
    from secfed.ledger_command import print_raised

    raised = sign_higher_cap(Site(site), signed_off_by=signed_off_by, reason=reason)
    if as_json:
        print_json({"raised": [{"ledger": name, "before": low, "after": high} for name, low, high in raised]})
    else:
        print_raised(raised, Console())
