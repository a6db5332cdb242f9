"""`secfed data`: generate scans, look at data sets, and prepare them. Each command calls one function and shows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from secfed.command_line import JsonOption, print_json
from secfed.config import LayoutName, PreprocessingConfig, TaskName, load_sources, load_training_plan
from secfed.data.cases import Case, Modality
from secfed.data.site_data import DataEntry, FolderEntry, entry_of
from secfed.errors import ConfigError, DataError
from secfed.named_bar import named_bar
from secfed.site_config import load_site_file

if TYPE_CHECKING:
    from secfed.data.preprocessing import ReadCase
    from secfed.inspection.facts import InspectedDataSet

data_app = typer.Typer(no_args_is_help=True, help="Make data, look at them, prepare them.")

FoldersArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FOLDER...", help="Data sets, or CSV files of tables; without, --site or a run's --config."),
]
SiteDataOption = Annotated[
    Path | None, typer.Option("--site", metavar="FOLDER", help="A site's folder: what its site.toml has in [[data]].")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A plan's or a run's TOML: its task and preprocessing; without FOLDER, a run's data sets. Default: ours.",
    ),
]
LayoutOption = Annotated[
    str | None, typer.Option("--layout", metavar="NAME", help=f"Of the folders: {', '.join(get_args(LayoutName))}.")
]
ModalityOption = Annotated[
    Modality | None,
    typer.Option("--modality", help="Of all scans, instead of what the layout says.", case_sensitive=False),
]
OrgansOption = Annotated[
    str | None, typer.Option("--organs", metavar="NAMES", help="The only ones that count as drawn: liver,spleen.")
]
ChannelOption = Annotated[
    int | None, typer.Option("--channel", min=0, metavar="N", help="The one to read of scans with several.")
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="abdomen or whole_heart; default: what is drawn.")
]


@data_app.command("phantom")
def data_phantom(
    out: Annotated[Path, typer.Option("--out", help="Folder to write, in AMOS22 layout.")],
    ct: Annotated[int, typer.Option("--ct", min=0, help="Number of CT volumes.")] = 40,
    mri: Annotated[int, typer.Option("--mri", min=0, help="Number of MRI volumes.")] = 40,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed writes the same volumes.")] = 0,
    population: Annotated[str, typer.Option("--population", help="Anatomy and scanners: north or south.")] = "north",
    task: Annotated[str, typer.Option("--task", help="What is scanned: abdomen or whole_heart.")] = "abdomen",
    as_json: JsonOption = False,
) -> None:
    """Generate labelled CT and MRI volumes of abdomens or hearts as NIfTI files.

    Anatomy is random; CT comes from Hounsfield units, MRI from signal equations. In an abdomen eight organs are
    labelled, in a heart the seven structures of MM-WHS, with its label values.

    Example: secfed data phantom --out data/hearts --task whole_heart --ct 40 --mri 40 --seed 0 --population north
    """
    from secfed.data.phantom.writer import write_mixed_phantom
    from secfed.display import counting_bar

    with counting_bar("Generating volumes", total=ct + mri, quiet=as_json) as advance:
        write_mixed_phantom(
            out, ct=ct, mri=mri, seed=seed, population=population, task=task, on_case=lambda _: advance()
        )
    if as_json:
        print_json({"folder": str(out), "task": task, "ct": ct, "mri": mri, "seed": seed, "population": population})
    else:
        Console().print(f"{ct} CT and {mri} MRI volumes in {out}", soft_wrap=True)


@data_app.command("inspect")
def data_inspect(
    folders: FoldersArgument = None,
    site: SiteDataOption = None,
    layout: LayoutOption = None,
    modality: ModalityOption = None,
    organs: OrgansOption = None,
    channel: ChannelOption = None,
    task: TaskOption = None,
    config: ConfigOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also a page with a slice of every scan.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in data sets and what is wrong with them, before anything is prepared or trained.

    Every scan is read as a run would read it, one at a time, and nothing is written but the page. Tables have counts,
    spacing, size, organs and grey values; problems come with the file, the reason and what to do. An error keeps a case
    out of a run, a warning is for somebody to look at. The page shows patients: keep it where the scans are kept.

    Exit code 0: a run can use all cases, whatever the warnings. 2: an option is wrong. 3: there is an error.

    Example: secfed data inspect /data/amos22 --html amos22.html
    """
    from secfed.inspection.inspect import InspectionOrder, inspect_data
    from secfed.inspection.page import InspectionPage
    from secfed.inspection.terminal import print_inspection

    entries = _entries(folders, site, config, layout=layout, modality=modality, organs=organs, channel=channel)
    preprocessing, told = _plan(config, task)
    order = InspectionOrder(entries=entries, config=preprocessing, task=told, at_site=site is not None)
    page = None if html is None else InspectionPage(preprocessing)
    if html is not None and not html.parent.is_dir():
        raise ConfigError(f"--html {html}: there is no folder {html.parent}")
    with named_bar("Inspecting", quiet=as_json) as bar:

        def done(found: "InspectedDataSet", case: Case, read: "ReadCase | None") -> None:
            if page is not None:
                page.add(found, case, read)
            bar.move(case.patient)

        inspection = inspect_data(order, on_start=bar.start, on_case=done)
    if page is not None and html is not None:
        try:
            page.write(html, inspection)
        except OSError as error:
            raise ConfigError(f"--html {html}: cannot be written: {error.strerror}") from error
    if as_json:
        print_json({**inspection.as_dict(), "html": None if html is None else str(html)})
    else:
        print_inspection(inspection, Console())
        if html is not None:
            Console().print(f"Page: {html}", markup=False, highlight=False, soft_wrap=True)
    if inspection.num_errors:
        raise typer.Exit(DataError.exit_code)


@data_app.command("prepare")
def data_prepare(
    folders: FoldersArgument = None,
    site: SiteDataOption = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="FOLDER", help="Where prepared volumes go; a site has its own.")
    ] = None,
    layout: LayoutOption = None,
    modality: ModalityOption = None,
    organs: OrgansOption = None,
    channel: ChannelOption = None,
    task: TaskOption = None,
    config: ConfigOption = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, metavar="N", help="Cases at a time; default: one per CPU.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fill the cache that training reads, so that the first round waits for no scan.

    What is there is taken as it is, so a stopped call goes on where it was, and a site that trains under the same plan
    finds everything, as does `secfed run CONFIG --cache FOLDER`. Give the plan: other voxels, another task or other
    organs are other entries; of a run's TOML alone, its sites and test sets are prepared. A scan that cannot be used is
    named, with what to do, and the rest goes on. The cache holds patient data in the clear.

    Exit code 0: all cases are in the cache. 2: an option is wrong. 3: a case cannot be used, or the cache not written.

    Example: secfed data prepare --site /srv/secfed/ct-a --config plan.toml
    """
    from secfed.preparation.prepare import CachedEntry, PreparationOrder, cpus_available, prepare_data
    from secfed.preparation.terminal import print_preparation

    entries = _entries(folders, site, config, layout=layout, modality=modality, organs=organs, channel=channel)
    preprocessing, told = _plan(config, task)
    if site is not None and cache is None:
        caches = [data.cache for data in load_site_file(site).data]
    elif site is None and cache is not None:
        caches = [cache] * len(entries)
    else:
        raise ConfigError("--cache FOLDER is needed for folders, and a site's caches are in its site.toml")
    order = PreparationOrder(
        entries=tuple(CachedEntry(data=entry, cache=own) for (_, entry), own in zip(entries, caches, strict=True)),
        config=preprocessing,
        task=told,
        jobs=cpus_available() if jobs is None else jobs,
        at_site=site is not None,
    )
    try:
        with named_bar("Preparing", quiet=as_json) as bar:
            found = prepare_data(order, on_start=bar.start, on_case=bar.move)
    except KeyboardInterrupt:
        # Caught here, because Typer turns one that reaches it into a silent exit.
        Console(stderr=True).print("stopped; what is prepared stays, and the same command goes on from there")
        raise typer.Exit(130) from None
    if as_json:
        print_json(found.as_dict())
    else:
        print_preparation(found, Console())
    if found.failed:
        raise typer.Exit(DataError.exit_code)


def _entries(
    folders: Sequence[Path] | None,
    site: Path | None,
    config: Path | None,
    *,
    layout: str | None,
    modality: Modality | None,
    organs: str | None,
    channel: int | None,
) -> tuple[tuple[str, DataEntry], ...]:
    """Data sets with the names that they are shown by."""
    sources = load_sources(config) if config is not None and not folders and site is None else ()
    if not sources and bool(folders) == (site is not None):
        raise ConfigError(
            "give data sets (FOLDER...) or --site FOLDER, one of the two; or neither, and the TOML of a run as --config"
        )
    if sources or site is not None:
        if any(option is not None for option in (layout, modality, organs, channel)):
            told = "a site's are in site.toml" if site is not None else f"those of a run are in {config}"
            raise ConfigError(f"--layout, --modality, --organs and --channel are for folders: {told}")
        if site is not None:
            return tuple((data.name, data) for data in load_site_file(site).data)
        found = tuple((one.name, entry_of(one, one.folder)) for one in sources if one.folder is not None)
        if not found:
            raise ConfigError(f"{config}: all its data sets are phantoms, which a run makes for itself")
        return found
    known = get_args(LayoutName)
    if layout is not None and layout not in known:
        raise ConfigError(f"--layout = '{layout}': known layouts are {', '.join(known)}")
    named = tuple(name.strip() for name in (organs or "").split(",") if name.strip())
    if organs is not None and not named:
        raise ConfigError("--organs names none; give names such as liver,spleen")
    # The same folder twice would be two data sets of one content.
    places = list(dict.fromkeys(folders or ()))
    names = [place.resolve().name for place in places]
    return tuple(
        (
            name if names.count(name) == 1 else str(place),
            FolderEntry(
                folder=place,
                modality=None if modality is None else modality.value,
                layout=next((one for one in known if one == layout), None),
                organs=named or None,
                channel=channel,
            ),
        )
        for name, place in zip(names, places, strict=True)
    )


def _plan(config: Path | None, task: str | None) -> tuple[PreprocessingConfig, str | None]:
    """The preprocessing and the task that were asked for; no task where nobody names one."""
    known = get_args(TaskName)
    if task is not None and task not in known:
        raise ConfigError(f"--task = '{task}': known tasks are {', '.join(known)}")
    if config is None:
        return PreprocessingConfig(), task
    plan = load_training_plan(config)
    if task not in (None, plan.task):
        raise ConfigError(f"--task = '{task}', but the task of {config} is '{plan.task}'")
    return plan.preprocessing, plan.task
