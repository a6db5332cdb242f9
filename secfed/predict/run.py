"""The whole of `secfed predict`: find the model and the scans, segment each, write labels, and score them where it can.

Runs on the machine of whoever predicts. One scan that cannot be used is a failure with a reason and what to do, and the
rest goes on. Scores are those of the written labels, on the scan's own voxels; a run's report scores on the model's
grid, which is coarser as a rule, so the two differ.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clients.evaluation import CaseScore, class_scores, score_case
from secfed.data.cases import Modality
from secfed.data.preprocessing import NiftiVolume, PreparedCase, normalise, read_label, read_volume, resample_image
from secfed.data.readers import DataSet
from secfed.errors import ConfigError, DataError, RunFolderError
from secfed.model import build_model, load_flat
from secfed.predict.label_file import StoredGrid, stored_grid, write_labels, write_sidecar
from secfed.predict.preview import write_preview
from secfed.predict.restore import labels_on_scan
from secfed.predict.scans import SEGMENTATION_SUFFIX, Failure, Scan, find_scans, parse_label_ids
from secfed.predict.sidecar import sidecar, volumes_ml
from secfed.predict.trained_model import FEDERATED, Network, TrainedModel, open_model

OnMove = Callable[[float, int, str], None]
"""Told how many scans are done, in parts of one, of how many, and which one is at work."""

_SHOWN_FILES = 3


@dataclass(frozen=True, kw_only=True)
class PredictionOrder:
    """What to segment with what; secfed.predict.scans and secfed.predict.trained_model say what the paths may be."""

    model_path: Path
    images: tuple[Path, ...]
    out: Path
    model: str = FEDERATED
    plan_file: Path | None = None
    site: Path | None = None
    modality: Modality | None = None
    labels: Path | None = None
    label_values: str | None = None
    device: str = "auto"
    batch_size: int = 16
    preview: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class OutputFiles:
    """What is written for one scan."""

    segmentation: Path
    sidecar: Path
    preview: Path | None

    @classmethod
    def of(cls, scan: Scan, order: PredictionOrder) -> "OutputFiles":
        """In the order's folder, under the scan's name."""
        stem = f"{scan.name}{SEGMENTATION_SUFFIX}"
        return cls(
            segmentation=order.out / f"{stem}.nii.gz",
            sidecar=order.out / f"{stem}.json",
            preview=order.out / f"{stem}.html" if order.preview else None,
        )

    def existing(self) -> list[Path]:
        """Those that are there; a link counts, wherever it leads."""
        return [path for path in (self.segmentation, self.sidecar, self.preview) if path and os.path.lexists(path)]


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """One scan that was segmented. `scores` are of the organs that its labels have, empty without labels."""

    scan: Scan
    modality: Modality
    files: OutputFiles
    layers: str
    volumes_ml: dict[str, float]
    scores: tuple[CaseScore, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What came of an order."""

    trained: TrainedModel
    out: Path
    device: str
    segmented: tuple[Segmented, ...]
    failures: tuple[Failure, ...]


def predict_scans(order: PredictionOrder, *, on_move: OnMove = lambda *_: None) -> Prediction:
    """Segment everything that the order names.

    Raises:
        ConfigError: an option is wrong, or a file would be overwritten; then nothing has been written.
        RunFolderError: there is no such model, or it is damaged.
    """
    device = _device(order.device)
    trained = open_model(order.model_path, model=order.model, plan_file=order.plan_file, site=order.site)
    if order.label_values is not None and order.labels is None:
        raise ConfigError(f"--label-values = '{order.label_values}': says what the values in --labels mean; add these")
    scans, failures = find_scans(
        order.images,
        label_map=trained.label_map,
        modality=order.modality,
        labels=order.labels,
        label_ids=None
        if order.label_values is None
        else parse_label_ids(order.label_values, label_map=trained.label_map),
    )
    _require_free([OutputFiles.of(scan, order) for scan in scans], order)
    segmenter = _Segmenter(trained, device=device, batch_size=order.batch_size)
    segmented: list[Segmented] = []
    failed = list(failures)
    for index, scan in enumerate(scans):
        on_move(index, len(scans), scan.name)

        def on_share(share: float, index: int = index, name: str = scan.name) -> None:
            on_move(index + share, len(scans), name)

        try:
            done, problem = _segment(scan, segmenter, order, on_share=on_share)
        except _CaseError as error:
            failed.append(error.failure)
            continue
        segmented.append(done)
        failed += problem
    on_move(len(scans), len(scans), "")
    return Prediction(
        trained=trained, out=order.out, device=device.type, segmented=tuple(segmented), failures=tuple(failed)
    )


class _CaseError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class _Segmenter:
    """A network on its device; weights are loaded where a scan passes others than the one before."""

    def __init__(self, trained: TrainedModel, *, device: torch.device, batch_size: int) -> None:
        self.trained = trained
        self.device = device
        self.batch_size = batch_size
        with torch.random.fork_rng(devices=[]):
            model = build_model(trained.plan.model, num_classes=trained.label_map.num_classes)
        self._model = model.to(device)
        self._loaded: Network | None = None
        self._load(trained.average)

    def labels(
        self, volume: NiftiVolume, scan: Scan, modality: Modality, *, on_share: Callable[[float], None]
    ) -> NDArray[np.uint8]:
        """Labels (z, y, x) on the voxels of the volume, prepared as the plan's evaluation prepares it."""
        plan = self.trained.plan
        self._load(self.trained.for_scan(modality))
        spacing_mm = plan.preprocessing.spacing_mm
        image = normalise(
            resample_image(volume, spacing_mm), modality=modality, config=plan.preprocessing, source=scan.image
        )
        with torch.inference_mode():
            logits = class_scores(
                self._model, image, plan=plan, device=self.device, batch_size=self.batch_size, on_share=on_share
            )
            return labels_on_scan(
                logits, spacing_mm=spacing_mm, scan_shape=volume.voxels.shape, scan_spacing_mm=volume.spacing_mm
            )

    def _load(self, network: Network) -> None:
        if network is self._loaded:
            return
        try:
            load_flat(self._model, network.vector, network.layout)
        except ValueError as error:
            raise RunFolderError(
                f"{self.trained.source}: the model is of another architecture than its plan says: {error}"
            ) from error
        self._loaded = network


def _segment(
    scan: Scan, segmenter: _Segmenter, order: PredictionOrder, *, on_share: Callable[[float], None]
) -> tuple[Segmented, list[Failure]]:
    """The scan segmented and written, and what kept it from being scored."""
    started = time.perf_counter()
    trained, files = segmenter.trained, OutputFiles.of(scan, order)
    if scan.modality is None:
        reason = "neither its name nor a data set says whether it is CT or MR"
        raise _CaseError(Failure(path=scan.image, reason=reason, advice="add --modality CT or --modality MR"))
    modality = scan.modality
    with _stage(scan.image, "see that the file is whole and holds one 3D volume; fetch or convert it anew"):
        volume, grid = read_volume(scan.image), stored_grid(scan.image)
    with _stage(scan.image, f"see that it is a scan, and {modality} as it was taken for; --modality says otherwise"):
        labels = segmenter.labels(volume, scan, modality, on_share=on_share)
    problems = []
    reference = None
    try:
        reference = _reference(scan, volume, trained)
    except DataError as error:
        advice = (
            "the scan is segmented but not scored; give a label on the scan's own voxels, and say with --label-values "
            "what its numbers mean"
        )
        problems.append(_failure(scan.label or scan.image, error, advice))
    scores = () if reference is None else _scores(scan, modality, volume, labels, reference, trained)
    volumes = volumes_ml(labels, grid.affine, trained.label_map)
    layers = trained.for_scan(modality).layers
    with _stage(files.segmentation, "see that the folder is there to be written to and the disk has room"):
        _write(files, order, labels, grid, trained)
        write_sidecar(
            files.sidecar, sidecar(trained, scan=scan, modality=modality, layers=layers, volumes=volumes, scores=scores)
        )
        if files.preview is not None:
            write_preview(
                files.preview,
                volume,
                labels,
                reference=reference,
                trained=trained,
                title=scan.name,
                modality=modality,
                volumes=volumes,
                scores=scores,
            )
    seconds = time.perf_counter() - started
    done = Segmented(
        scan=scan, modality=modality, files=files, layers=layers, volumes_ml=volumes, scores=scores, seconds=seconds
    )
    return done, problems


def _reference(scan: Scan, volume: NiftiVolume, trained: TrainedModel) -> NDArray[np.uint8] | None:
    if scan.label is None:
        return None
    named = DataSet(name=scan.label.parent.name, training=(), validation=(), test=(), label_ids=scan.label_ids)
    return read_label(scan.label, volume=volume, data_set=named, label_map=trained.label_map)


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
    )
    annotated = set(scan.label_ids.values())
    return tuple(s for s in score_case(case, labels, label_map=trained.label_map) if s.organ in annotated)


def _write(
    files: OutputFiles, order: PredictionOrder, labels: NDArray[np.uint8], grid: StoredGrid, trained: TrainedModel
) -> None:
    try:
        order.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{order.out}: the folder cannot be made: {error.strerror}") from error
    # Asked again, because much time may have passed since the beginning.
    if not order.overwrite and (there := files.existing()):
        raise DataError(f"{there[0]}: was written by somebody else meanwhile")
    write_labels(
        files.segmentation,
        labels,
        grid,
        highest=trained.label_map.num_classes - 1,
        description=f"secfed {trained.name}, model {trained.average.sha256[:16]}",
    )


@contextmanager
def _stage(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except (DataError, OSError) as error:
        raise _CaseError(_failure(path, error, advice)) from error
    except (MemoryError, RuntimeError) as error:
        # Torch says so by an error of its own on a GPU, and by a plain one on a CPU.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        advice = "take a smaller --batch-size, or --device cpu on a machine with more memory"
        raise _CaseError(Failure(path=path, reason="does not fit into memory", advice=advice)) from error


def _failure(path: Path, error: Exception, advice: str) -> Failure:
    return Failure(path=path, reason=str(error).removeprefix(f"{path}: "), advice=advice)


def _require_free(outputs: Sequence[OutputFiles], order: PredictionOrder) -> None:
    there = [] if order.overwrite else [path for files in outputs for path in files.existing()]
    if there:
        more = f" and {len(there) - _SHOWN_FILES} more" if len(there) > _SHOWN_FILES else ""
        shown = ", ".join(map(str, there[:_SHOWN_FILES]))
        raise ConfigError(f"--out = '{order.out}': {shown}{more}: there already; choose another --out or --overwrite")


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device = '{name}': auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device = 'cuda': torch finds no CUDA device; auto falls back to the CPU")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")
