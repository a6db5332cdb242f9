"""`secfed aggregator`: the aggregator's side of a deployment. Each command calls one function and shows what came back.

Run at the aggregator.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from secfed.command_line import JsonOption, print_json

aggregator_app = typer.Typer(
    no_args_is_help=True, help="At the aggregator: run its services, let sites in, start and follow runs."
)
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="The aggregator's folder.")]
NameOption = Annotated[str, typer.Option("--name", metavar="NAME", help="The run's name; its folder is runs/NAME.")]


@aggregator_app.command("run")
def aggregator_run(folder: FolderArgument) -> None:
    """Run SuperLink and SuperExec until SIGTERM, and start again what ends; the sites' nodes are admitted first.

    The process for systemd (docs/deploy.md). The SuperLink listens where aggregator.toml says, on loopback by default:
    only /v1/fleet/ is for sites, and a reverse proxy should pass on nothing else.

    Example: secfed aggregator run /srv/secfed-aggregator
    """
    from secfed.deployment.aggregator_side import note_start, note_stop, supervise_aggregator
    from secfed.deployment.nodes import admit_nodes
    from secfed.deployment.supervisor import install_signals

    console = Console(stderr=True)
    supervisor = supervise_aggregator(folder)
    install_signals(supervisor.stop)

    def ready() -> None:
        added, removed = admit_nodes(folder)
        note_start(folder)
        for word, names in (("admitted", added), ("removed", removed)):
            if names:
                console.print(f"{word}: {', '.join(names)}", highlight=False)
        console.print("Ready. Next: secfed aggregator train. SIGTERM or Ctrl-C ends it.", highlight=False)

    supervisor.run(on_ready=ready)
    note_stop(folder)


@aggregator_app.command("admit")
def aggregator_admit(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Let in the nodes that the newest accepted version names, and put out the others, while the services run.

    Example: secfed provision accept /srv/secfed-aggregator 0004 && secfed aggregator admit /srv/secfed-aggregator
    """
    from secfed.deployment.nodes import admit_nodes

    added, removed = admit_nodes(folder)
    if as_json:
        print_json({"admitted": list(added), "removed": list(removed)})
    else:
        Console().print(
            f"admitted: {', '.join(added) or 'nobody new'}; removed: {', '.join(removed) or 'nobody'}", highlight=False
        )


@aggregator_app.command("sites")
def aggregator_sites(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """List the sites that were let in, and which of them are connected now; `secfed aggregator run` must be at work.

    Example: secfed aggregator sites /srv/secfed-aggregator
    """
    from secfed.deployment.nodes import connections

    found = connections(folder)
    if as_json:
        print_json({"sites": [asdict(one) for one in found]})
        return
    table = Table("site", "connected", "since", "what to do")
    for one in found:
        table.add_row(one.site, "yes" if one.online else "no", one.since, one.todo)
    Console().print(table)


@aggregator_app.command("train")
def aggregator_train(
    folder: FolderArgument,
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The plan; see docs/configuration.md.")],
    name: NameOption,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last finished round.")] = False,
    attach: Annotated[bool, typer.Option("--attach", help="Follow a run that is at work.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a run with all sites of the roster, and follow it to its end.

    `secfed aggregator run` must be at work. Stopping this command does not stop the run; --attach follows it again. The
    sites, test sets and references of CONFIG.toml are of one machine and are left out.

    Exit code 0: done. 2: the plan cannot be used. 4: the run's folder is taken. 6: a round could not be completed.

    Example: secfed aggregator train /srv/secfed-aggregator plan.toml --name spring
    """
    from secfed.deployment import training
    from secfed.deployment.absences import Absences
    from secfed.deployment.run_place import Progress, flower_runs
    from secfed.display import RoundsBar
    from secfed.errors import RunFolderError

    console = Console(stderr=True, quiet=as_json)
    with console.status("Preparing"):
        place = training.prepare(folder, name, config)
    absences = Absences(place)
    if not attach:
        if flower_runs(place) and not resume:
            raise RunFolderError(
                f"{place}: was started before: --resume goes on, --attach follows, --name takes another"
            )
        if (doubt := training.storage_warning(folder, place)) is not None:
            console.print(f"warning: {doubt}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        with console.status("Submitting to the SuperLink"):
            training.start(folder, place)
    try:
        with RoundsBar("Rounds", quiet=as_json) as bar:

            def show(now: Progress) -> None:
                bar.move(now.completed, now.rounds)
                for line in absences.news():
                    bar.say(line)

            done = training.follow(folder, place, progress=show)
    except KeyboardInterrupt:
        console.print(
            f"The run goes on. Follow it again: secfed aggregator train {folder} {config} --name {name} --attach"
        )
        raise typer.Exit(130) from None
    if as_json:
        print_json({"run": str(place), "rounds": done.progress.completed, "status": done.status})
    else:
        Console().print(
            f"Done: {done.progress.completed} rounds. Check it: secfed audit verify {place}", soft_wrap=True
        )


@aggregator_app.command("stop")
def aggregator_stop(folder: FolderArgument, name: NameOption, as_json: JsonOption = False) -> None:
    """End a run that is at work; its finished rounds stay, and `train --resume` goes on from there.

    Example: secfed aggregator stop /srv/secfed-aggregator --name spring
    """
    from secfed.deployment.run_place import run_place
    from secfed.deployment.training import stop

    stopped = stop(folder, run_place(folder, name))
    if as_json:
        print_json({"stopped": stopped})
    else:
        Console().print("Stopped." if stopped else "It was not at work.")
