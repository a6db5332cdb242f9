"""`secfed data convert`: DICOM to NIfTI. It checks its arguments, calls one function and shows what came back."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secfed.command_line import JsonOption, print_json
from secfed.errors import ConfigError, DataError


def convert_command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder of one series' DICOM slices, or CHAOS as downloaded.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Of one series its file, as scan.nii.gz; of CHAOS a folder.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Convert DICOM slices to NIfTI files, which everything else reads; of CHAOS the masks, too.

    Slices are put in order by where they lie. Refused, with the file and the reason, are slices of several series,
    missing or uneven ones, a stack that leans, many slices in one file, and pixels that no decoder is installed for.
    Nothing of the DICOM header is kept but place and spacing: no name, number, date or UID. The source is only read.

    CHAOS keeps its layout, so that OUT is read as it is. A series that cannot be converted is named, and the rest goes
    on; what is there is left as it is, so a stopped call goes on.

    Exit code 0: all is converted. 2: an option is wrong. 3: a series cannot be converted.

    Example: secfed data convert CHAOS_Train_Sets chaos && secfed data inspect chaos
    """
    try:
        import PIL
        import pydicom
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"converting needs {error.name}, which is not installed: pip install 'secfed[dicom]'"
        ) from None
    del PIL, pydicom
    from secfed.conversion.convert import convert
    from secfed.conversion.terminal import print_conversion
    from secfed.named_bar import named_bar

    with named_bar("Converting", quiet=as_json) as bar:
        found = convert(source, out, on_start=bar.start, on_series=bar.move)
    if as_json:
        print_json(found.as_dict())
    else:
        print_conversion(found, Console())
    if found.problems:
        raise typer.Exit(DataError.exit_code)
