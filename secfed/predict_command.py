"""`secfed predict`: checks its options, calls one function and shows what came back."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from secfed.command_line import JsonOption, print_json
from secfed.data.cases import Modality
from secfed.errors import DataError


def predict_command(
    model_path: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, an exported model file, or a deployed run's folder.")
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="NIfTI files, folders of them, or data sets.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where labels are written.")] = Path(
        "segmentations"
    ),
    modality: Annotated[
        Modality | None,
        typer.Option("--modality", help="Of all scans, where names or data sets do not tell it.", case_sensitive=False),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="PATH", help="Score against this label, or a folder of labels named alike."),
    ] = None,
    label_values: Annotated[
        str | None,
        typer.Option(
            "--label-values", metavar="TEXT", help="What values in --labels mean: amos22, mm-whs, or 6=liver,1=spleen."
        ),
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="A page with slices and contours for every scan.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    device: Annotated[
        str, typer.Option("--device", help="auto (a GPU where there is one), cpu or cuda.", metavar="NAME")
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Slices or windows at a time; fewer need less memory.")
    ] = 16,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Which model of a run folder, as centralised or site:ct-a.")
    ] = "federated",
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="The plan of a model file that holds none.")
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option("--site", metavar="FOLDER", help="A site's folder, where layers of a deployed run stay at sites."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Segment scans with a trained model, and write labels on the scans' own voxels.

    MODEL is a run folder, a file of `secfed site export`, or a deployed run's folder at the aggregator. IMAGE is a
    NIfTI file, a folder of them, or a data set that a site could train on.

    For a scan `a.nii.gz` it writes `a_seg.nii.gz`, on the same grid and with the same geometry, and `a_seg.json`, which
    says which value is which organ, in which colour and how many millilitres. Scans are prepared as the model's plan
    says, and pass the normalisation layers that a test of the model would give them. Nothing is overwritten without
    --overwrite.

    Names such as amos_0001 and ct_train_1001_image tell the modality; for others say --modality. Data sets bring their
    own labels, and with labels Dice and HD95 are shown. A scan that cannot be used is named, and the rest goes on. Exit
    code 0: all are segmented. 2: an option is wrong. 3: at least one file could not be used. 4: no such model.

    Example: secfed predict runs/demo scan.nii.gz --modality CT --out segmentations --preview
    """
    from secfed.named_bar import named_bar
    from secfed.predict.order import PredictionOrder
    from secfed.predict.page import as_dict, print_prediction
    from secfed.predict.run import predict_scans
    from secfed.problem_lines import problem_lines

    order = PredictionOrder(
        model_path=model_path,
        images=tuple(images),
        out=out,
        model=model,
        plan_file=plan,
        site=site,
        modality=modality,
        labels=labels,
        label_values=label_values,
        device=device,
        batch_size=batch_size,
        preview=preview,
        overwrite=overwrite,
    )
    with named_bar("Segmenting", quiet=as_json, counted=False) as bar:
        bar.at(0, None, "opening the model")
        found = predict_scans(order, on_move=bar.at)
    if as_json:
        print_json(as_dict(found))
    else:
        print_prediction(found, Console())
    Console(stderr=True).print(problem_lines(found.problems), end="", soft_wrap=True)
    if found.problems:
        raise typer.Exit(DataError.exit_code)
