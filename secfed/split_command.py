"""`secfed data split`: deal a download to sites and test sets. It checks arguments, calls one function, shows it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secfed.command_line import JsonOption, print_json, printable
from secfed.data.cases import Modality
from secfed.errors import ConfigError


def split_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A data set with labels, in any layout.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write: one folder per site and test set.")],
    ct: Annotated[int, typer.Option("--ct", min=0, metavar="N", help="Sites with CT.")] = 0,
    mri: Annotated[int, typer.Option("--mri", min=0, metavar="N", help="Sites with MRI.")] = 0,
    test_share: Annotated[
        float, typer.Option("--test-share", metavar="X", help="Of each modality's patients, those that are tested.")
    ] = 0.25,
    validation: Annotated[
        int, typer.Option("--validation", min=0, metavar="N", help="Patients that each site keeps for validation.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed deals alike.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Deal the patients of a download to sites of one modality and to test sets, as folders of links.

    No scan is opened, copied or changed. Who goes where follows from names and the seed alone; a patient stands in one
    folder only, with all scans, and a scan without a label in none. It prints the tables for a run's configuration.

    Example: secfed data split amos22 splits --ct 2 --mri 2 --test-share 0.25 --validation 4
    """
    from secfed.data.splits import PROVENANCE, SplitRequest, write_splits

    wanted = {Modality.CT: ct, Modality.MR: mri}
    if not any(wanted.values()):
        raise ConfigError("give --ct, --mri or both: how many sites there are")
    request = SplitRequest(
        sites={modality: count for modality, count in wanted.items() if count},
        test_share=test_share,
        validation=validation,
        seed=seed,
    )
    folders = write_splits(source, out, request)
    dealt = json.loads((out / PROVENANCE).read_text(encoding="utf-8"))["patients"]
    if as_json:
        folder_of = {name: str(folder) for name, folder in folders.items()}
        scans = {name: len(patients) for name, patients in dealt.items()}
        print_json({"source": str(source), "out": str(out), "folders": folder_of, "scans": scans})
        return
    console = Console()
    for name, folder in sorted(folders.items(), key=lambda found: found[0].startswith("test-")):
        test = name.startswith("test-")
        patients, held = len(set(dealt[name])), len(dealt[name])
        who = f"{patients} patients" if test else f"{patients - validation} patients train, {validation} validate"
        kind = "" if test else f'modality = "{"CT" if name.startswith("ct-") else "MR"}"\n'
        text = (
            f"[[{'test' if test else 'sites'}]]     # {who}, {held} scans\n"
            f'name = "{name}"\n{kind}folder = {json.dumps(printable(str(folder)))}\n'
        )
        console.print(text, markup=False, highlight=False, soft_wrap=True)
