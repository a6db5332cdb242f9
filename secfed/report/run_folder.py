"""What the page shows of one run folder, read once: results, configuration and the optional figures.

Only `run.json` must be there. Whatever else is missing or damaged becomes a sentence for the page, never a crash.
"""

import json
import tomllib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from secfed.config import ModelConfig
from secfed.results import RunRecord

OVERLAYS = "figures/overlays.npz"
AGGREGATOR_VIEW = "figures/aggregator_view.json"
CONFIG = "config.toml"


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A slice with its reference and predicted labels, arrays (H, W) as stored.

    Row 0 is posterior and column 0 the patient's left; label i + 1 is `organs[i]`; `spacing_mm` is (row, column).
    """

    image: NDArray[np.float32]
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    model: str
    patient: str
    modality: str
    site_or_set: str
    slice_index: int
    spacing_mm: tuple[float, float]
    organs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AggregatorView:
    """How often each value of the top byte occurred in one site's upload, 256 counts each.

    `masked_counts` is what arrived; `plain_counts` is the same update before protection, None where none was made.
    """

    site: str
    round: int
    protection: str
    masked_counts: tuple[int, ...]
    plain_counts: tuple[int, ...] | None
    entries: int


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """A site as the configuration describes it."""

    name: str
    modality: str


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """One run folder. A figure that could not be read is None and its `..._problem` says why."""

    folder: Path
    record: RunRecord
    config_text: str | None
    config: dict[str, Any]
    overlays: tuple[Overlay, ...]
    overlays_problem: str | None
    view: AggregatorView | None
    view_problem: str | None

    @property
    def sites(self) -> tuple[SiteFacts, ...]:
        """Sites of the configuration; empty where it is not there."""
        tables = [table for table in self._tables("sites") if "name" in table]
        return tuple(SiteFacts(name=str(site["name"]), modality=str(site.get("modality", ""))) for site in tables)

    @property
    def synthetic(self) -> bool | None:
        """Whether every scan was generated; None where the configuration does not say."""
        tables = self._tables("sites") + self._tables("test")
        return all("phantom" in table for table in tables) if tables else None

    @property
    def spacing_mm(self) -> str | None:
        """Voxel size of the preprocessed grid along z, y and x, as text."""
        table = self.config.get("preprocessing")
        spacing = table.get("spacing_mm") if isinstance(table, dict) else None
        if not isinstance(spacing, list) or not all(isinstance(value, int | float) for value in spacing):
            return None
        return " \N{MULTIPLICATION SIGN} ".join(f"{value:g}" for value in spacing)

    @property
    def network(self) -> str | None:
        """What was trained, as "unet in 2D"; None where the configuration does not say."""
        try:
            return ModelConfig.model_validate(self.config.get("model")).label()
        except ValidationError:
            return None

    def _tables(self, key: str) -> list[dict[str, Any]]:
        tables = self.config.get(key)
        return [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []


def read_run_folder(folder: Path) -> ReportedRun:
    """Read everything that the page shows.

    Raises:
        RunFolderError: `run.json` is missing or cannot be used.
    """
    record = RunRecord.load(folder)
    text, config = _config(folder / CONFIG)
    overlays, overlays_problem = read_overlays(folder, OVERLAYS, kind="run folder")
    view, view_problem = _view(folder)
    return ReportedRun(
        folder=folder,
        record=record,
        config_text=text,
        config=config,
        overlays=overlays,
        overlays_problem=overlays_problem,
        view=view,
        view_problem=view_problem,
    )


def _config(path: Path) -> tuple[str | None, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None, {}
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return text, {}


def read_overlays(folder: Path, name: str, *, kind: str) -> tuple[tuple[Overlay, ...], str | None]:
    """The slices of a folder's file of that name, and why there are none."""
    path = folder / name
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            entries = json.loads(arrays["meta"].tobytes().decode())
            overlays = tuple(_overlay(arrays, index, entry) for index, entry in enumerate(entries))
    except FileNotFoundError:
        return (), f"This {kind} has no {name}."
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return (), f"{name} cannot be used: {type(error).__name__}: {error}"
    return overlays, None if overlays else f"{name} holds no slice."


def _overlay(arrays: Any, index: int, entry: dict[str, Any]) -> Overlay:
    image, reference, prediction = (arrays[f"{index}_{name}"] for name in ("image", "reference", "prediction"))
    if image.ndim != 2 or not image.size or not image.shape == reference.shape == prediction.shape:
        raise ValueError(f"slice {index} has shapes {image.shape}, {reference.shape} and {prediction.shape}")
    height_mm, width_mm = (float(value) for value in entry["spacing_mm"])
    if not (0 < height_mm < np.inf and 0 < width_mm < np.inf):
        raise ValueError(f"slice {index} has spacing_mm = {entry['spacing_mm']}")
    return Overlay(
        image=image.astype(np.float32),
        reference=reference.astype(np.uint8),
        prediction=prediction.astype(np.uint8),
        model=str(entry["model"]),
        patient=str(entry["patient"]),
        modality=str(entry["modality"]),
        site_or_set=str(entry["site_or_set"]),
        slice_index=int(entry["slice_index"]),
        spacing_mm=(height_mm, width_mm),
        organs=tuple(str(organ) for organ in entry["organs"]),
    )


def _view(folder: Path) -> tuple[AggregatorView | None, str | None]:
    path = folder / AGGREGATOR_VIEW
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        view = AggregatorView(
            site=str(tree["site"]),
            round=int(tree["round"]),
            protection=str(tree["protection"]),
            masked_counts=_counts(tree["masked_counts"]),
            plain_counts=None if tree["plain_counts"] is None else _counts(tree["plain_counts"]),
            entries=int(tree["entries"]),
        )
    except FileNotFoundError:
        return None, f"This run folder has no {AGGREGATOR_VIEW}."
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return None, f"{AGGREGATOR_VIEW} cannot be used: {type(error).__name__}: {error}"
    return view, None


def _counts(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) != 256 or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError("a histogram must be a list of 256 counts")
    if not any(values):
        raise ValueError("a histogram counts nothing")
    return tuple(values)
