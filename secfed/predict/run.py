"""The whole of `secfed predict`: find the model and the scans, segment each, write labels, and score them where it can.

Runs on the machine of whoever predicts. One scan that cannot be used is a failure with a reason and what to do, and the
rest goes on. Scores are those of the written labels, on the scan's own voxels; a run's report scores on the model's
grid, which is coarser as a rule, so the two differ.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clients.evaluation import CaseScore, score_case
from secfed.data.cases import Case, Modality
from secfed.data.label_volumes import read_classes
from secfed.data.preprocessing import PreparedCase
from secfed.data.problems import CaseProblem
from secfed.data.volumes import NiftiVolume, read_volume
from secfed.errors import ConfigError, DataError
from secfed.predict.label_file import stored_grid, write_labels, write_sidecar
from secfed.predict.order import OutputFiles, Prediction, PredictionOrder, Segmented
from secfed.predict.preview import write_preview
from secfed.predict.scans import Scan, find_scans, parse_label_ids, problem_with
from secfed.predict.segmenter import Segmenter, device_named
from secfed.predict.sidecar import sidecar, volumes_ml
from secfed.predict.trained_model import TrainedModel, open_model

OnMove = Callable[[float, int, str], None]
"""Told how many scans are done, in parts of one, of how many, and which one is at work."""

_SHOWN_FILES = 3


def predict_scans(order: PredictionOrder, *, on_move: OnMove = lambda *_: None) -> Prediction:
    """Segment everything that the order names.

    Raises:
        ConfigError: an option is wrong, or a file would be overwritten; then nothing has been written.
        RunFolderError: there is no such model, or it is damaged.
    """
    device = device_named(order.device)
    trained = open_model(order.model_path, model=order.model, plan_file=order.plan_file, site=order.site)
    if order.label_values is not None and order.labels is None:
        raise ConfigError(f"--label-values = '{order.label_values}': says what the values in --labels mean; add these")
    scans, unusable = find_scans(
        order.images,
        label_map=trained.label_map,
        modality=order.modality,
        labels=order.labels,
        label_ids=None
        if order.label_values is None
        else parse_label_ids(order.label_values, label_map=trained.label_map),
    )
    _require_free([OutputFiles.of(scan, order) for scan in scans], order)
    segmenter = Segmenter(trained, device=device, batch_size=order.batch_size)
    segmented: list[Segmented] = []
    problems = list(unusable)
    for index, scan in enumerate(scans):
        on_move(index, len(scans), scan.name)

        def on_share(share: float, index: int = index, name: str = scan.name) -> None:
            on_move(index + share, len(scans), name)

        try:
            done, found = _segment(scan, segmenter, order, on_share=on_share)
        except _CaseError as error:
            problems.append(error.problem)
            continue
        segmented.append(done)
        problems += found
    on_move(len(scans), len(scans), "")
    return Prediction(
        trained=trained, out=order.out, device=device.type, segmented=tuple(segmented), problems=tuple(problems)
    )


class _CaseError(Exception):
    def __init__(self, problem: CaseProblem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


def _segment(
    scan: Scan, segmenter: Segmenter, order: PredictionOrder, *, on_share: Callable[[float], None]
) -> tuple[Segmented, list[CaseProblem]]:
    """The scan segmented and written, and what kept it from being scored."""
    started = time.perf_counter()
    trained, files = segmenter.trained, OutputFiles.of(scan, order)
    if scan.modality is None:
        reason = "neither its name nor a data set says whether it is CT or MR"
        raise _CaseError(problem_with(scan.image, reason, "add --modality CT or --modality MR", scan=scan.name))
    modality = scan.modality
    with _stage(scan, scan.image, "see that the file is whole and holds one 3D volume; fetch or convert it anew"):
        volume, grid = read_volume(scan.image, channel=scan.channel), stored_grid(scan.image)
    with _stage(
        scan, scan.image, f"see that it is a scan, and {modality} as it was taken for; --modality says otherwise"
    ):
        labels = segmenter.labels(volume, scan, modality, on_share=on_share)
    problems = []
    reference = None
    try:
        reference = _reference(scan, volume, modality, trained)
    except DataError as error:
        todo = (
            "the scan is segmented but not scored; give a label on the scan's own voxels, and say with --label-values "
            "what its numbers mean"
        )
        problems.append(problem_with(scan.label or scan.image, error, todo, scan=scan.name))
    scores = () if reference is None else _scores(scan, modality, volume, labels, reference, trained)
    volumes = volumes_ml(labels, grid.affine, trained.label_map)
    network = trained.for_scan(modality)
    with _stage(scan, files.segmentation, "see that the folder is there to be written to and the disk has room"):
        _make_room(files, order)
        write_labels(
            files.segmentation,
            labels,
            grid,
            highest=trained.label_map.num_classes - 1,
            description=f"secfed {trained.name}, model {network.sha256[:16]}",
        )
        if order.preview:
            write_preview(
                files.page,
                volume,
                labels,
                reference=reference,
                trained=trained,
                title=scan.name,
                modality=modality,
                volumes=volumes,
                scores=scores,
            )
        write_sidecar(
            files.sidecar,
            sidecar(trained, scan=scan, modality=modality, network=network, volumes=volumes, scores=scores),
        )
    seconds = time.perf_counter() - started
    done = Segmented(
        scan=scan,
        modality=modality,
        segmentation=files.segmentation,
        sidecar=files.sidecar,
        page=files.page if order.preview else None,
        layers=network.layers,
        volumes_ml=volumes,
        scores=scores,
        seconds=seconds,
    )
    return done, problems


def _reference(scan: Scan, volume: NiftiVolume, modality: Modality, trained: TrainedModel) -> NDArray[np.uint8] | None:
    if scan.label is None:
        return None
    if not scan.organs:
        raise DataError(f"{scan.label}: names none of the model's organs, {', '.join(trained.label_map.organs)}")
    case = Case(
        patient=scan.name,
        image=scan.image,
        label=scan.label,
        modality=modality,
        masks=scan.masks,
    )
    return read_classes(
        case,
        volume,
        meanings=scan.label_ids,
        annotated=scan.organs,
        label_map=trained.label_map,
        source=scan.label.parent.name,
    )


def _scores(
    scan: Scan,
    modality: Modality,
    volume: NiftiVolume,
    labels: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    trained: TrainedModel,
) -> tuple[CaseScore, ...]:
    case = PreparedCase(
        patient=scan.name,
        modality=modality,
        image=volume.voxels,
        label=reference,
        spacing_mm=volume.spacing_mm,
        source=scan.image,
        unlabelled=tuple(
            trained.label_map.index(organ) for organ in trained.label_map.organs if organ not in scan.organs
        ),
    )
    return tuple(score_case(case, labels, label_map=trained.label_map))


def _make_room(files: OutputFiles, order: PredictionOrder) -> None:
    try:
        order.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{order.out}: the folder cannot be made: {error.strerror}") from error
    # Asked again, because much time may have passed since the beginning.
    if not order.overwrite and (there := files.existing()):
        raise DataError(f"{there[0]}: was written by somebody else meanwhile")
    # What describes the former labels must not stand beside others, wherever this process is stopped.
    for path in (files.sidecar, files.page):
        path.unlink(missing_ok=True)


@contextmanager
def _stage(scan: Scan, path: Path, todo: str) -> Iterator[None]:
    try:
        yield
    except (DataError, OSError) as error:
        raise _CaseError(problem_with(path, error, todo, scan=scan.name)) from error
    except (MemoryError, RuntimeError) as error:
        # Torch says so by an error of its own on a GPU, and by a plain one on a CPU.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        smaller = "take a smaller --batch-size, or --device cpu on a machine with more memory"
        raise _CaseError(problem_with(path, "does not fit into memory", smaller, scan=scan.name)) from error


def _require_free(outputs: Sequence[OutputFiles], order: PredictionOrder) -> None:
    there = [] if order.overwrite else [path for files in outputs for path in files.existing()]
    if there:
        more = f" and {len(there) - _SHOWN_FILES} more" if len(there) > _SHOWN_FILES else ""
        shown = ", ".join(map(str, there[:_SHOWN_FILES]))
        raise ConfigError(f"--out = '{order.out}': {shown}{more}: there already; choose another --out or --overwrite")
