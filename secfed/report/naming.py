"""Plain names, a fixed order and a fixed colour for what the rows call by a key, the same on the whole page."""

from collections.abc import Iterable
from dataclasses import dataclass

from secfed.results import NO_DP, RunRecord

_MODALITIES = {"CT": "CT", "MR": "MRI"}
_PROTECTIONS = {
    "plain": "no protection (plain)",
    "masked": "secure aggregation (masked)",
    "encrypted": "homomorphic encryption (encrypted)",
}
_AUGMENTATIONS = {"gin": "GIN", "none": "none"}
_ORDER = ("federated", "centralised", "federated_without_augmentation", "modality:", "site:", "")
_FIXED_LINES = {"federated": 0, "centralised": 1, "federated_without_augmentation": 2}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
LINE_COUNT = 9


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """CSS variable of the colour and Plotly dash of a model's line."""

    colour: str
    dash: str


def organ_name(organ: str) -> str:
    """'kidney_right' -> 'Kidney, right'."""
    name, _, side = organ.partition("_")
    return f"{name.capitalize()}, {side}" if side in ("left", "right") else organ.replace("_", " ").capitalize()


def has_guarantee(privacy: str) -> bool:
    """Whether a row's `privacy` names an epsilon; clipping without noise has none."""
    return privacy not in ("off", "none", "", NO_DP)


def modality_name(modality: str) -> str:
    """'MR' -> 'MRI'."""
    return _MODALITIES.get(modality, modality)


def protection_name(protection: str) -> str:
    """'masked' -> 'secure aggregation (masked)'."""
    return _PROTECTIONS.get(protection, protection)


def augmentation_name(augmentation: str) -> str:
    """'gin (width 8)' -> 'GIN (width 8)'."""
    method, _, variant = augmentation.partition(" ")
    return f"{_AUGMENTATIONS.get(method, method)} {variant}".strip()


def model_name(model: str, record: RunRecord) -> str:
    """'site:ct-1' -> 'ct-1 alone'."""
    kind, _, rest = model.partition(":")
    if model == "federated_without_augmentation":
        return f"Federated, no {(augmentation_of(record) or 'augmentation').partition(' ')[0]}"
    if rest and kind == "site":
        return f"{rest} alone"
    if rest and kind == "modality":
        return f"{modality_name(rest)} data only"
    return model.replace("_", " ").capitalize()


def augmentation_of(record: RunRecord) -> str | None:
    """Name of the federated model's augmentation; None where it had none or there is no such model."""
    found = next((row.augmentation for row in record.results if row.model == "federated"), None)
    return None if found in (None, "none") else augmentation_name(str(found))


def ordered(models: Iterable[str]) -> list[str]:
    """Federated first, then its references, then what single sites reach."""
    return sorted(set(models), key=lambda model: (_rank(model), model))


def line_style(model: str, models: Iterable[str]) -> LineStyle:
    """Style of a model among all that are drawn together; the main three always look the same."""
    others = [name for name in ordered(models) if name not in _FIXED_LINES]
    index = _FIXED_LINES.get(model)
    if index is None:
        index = len(_FIXED_LINES) + others.index(model) % (LINE_COUNT - len(_FIXED_LINES))
    return LineStyle(colour=f"--line-{index}", dash=_DASHES[index % len(_DASHES)])


def _rank(model: str) -> int:
    return next(
        index
        for index, start in enumerate(_ORDER)
        if model == start or (":" in start and model.startswith(start)) or not start
    )
