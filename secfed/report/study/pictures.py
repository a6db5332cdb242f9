"""The best, the median and the worst test case of the reference and the best method, side by side per modality."""

import re
from collections.abc import Sequence
from pathlib import Path

from secfed.report.markup import Markup, join, tag
from secfed.report.naming import modality_name
from secfed.report.overlays import READING, overlay_figure, overlay_legend
from secfed.report.run_folder import Overlay, read_overlays
from secfed.study.record import OVERLAYS

_CASES = ("best", "median", "worst")
_NAME = re.compile(r"(?P<variant>.*), (?P<case>best|median|worst) case(?P<rest>.*)", re.DOTALL)


def pictures_part(folder: Path, *, generated: bool) -> Markup:
    """All pictures in the order of their modalities, methods and cases, or why there are none."""
    overlays, problem = read_overlays(folder, OVERLAYS, kind="study")
    if not overlays:
        return tag("p", problem or "There are no pictures.", class_="missing")
    organs = list(dict.fromkeys(organ for overlay in overlays for organ in overlay.organs))
    kind = "Generated scans, no patient's. " if generated else "Scans of patients: handle this file as patient data. "
    groups: dict[tuple[str, str], list[Overlay]] = {}
    for overlay in overlays:
        groups.setdefault((overlay.modality, _split(overlay.model)[0]), []).append(overlay)
    parts = []
    for modality in dict.fromkeys(name for name, _ in groups):
        parts.append(tag("h3", modality_name(modality)))
        parts += [_group(variant, found, organs) for (name, variant), found in groups.items() if name == modality]
    return join(
        tag("p", f"{kind}The cases were chosen by mean Dice over organs after testing, not by eye.", class_="note"),
        overlay_legend(organs),
        parts,
        tag("p", READING, class_="note"),
    )


def _group(variant: str, overlays: Sequence[Overlay], organs: Sequence[str]) -> Markup:
    ranked = sorted(overlays, key=lambda overlay: _rank(overlay.model))
    figures = [overlay_figure(overlay, organs, name=_title(overlay.model)) for overlay in ranked]
    return join(tag("p", tag("b", variant), class_="method"), tag("div", figures, class_="overlays triple"))


def _split(model: str) -> tuple[str, str]:
    found = _NAME.fullmatch(model)
    return (model, "") if found is None else (found["variant"], f"{found['case']} case{found['rest']}")


def _title(model: str) -> str:
    variant, case = _split(model)
    return case or variant


def _rank(model: str) -> int:
    case = _split(model)[1].partition(" ")[0]
    return _CASES.index(case) if case in _CASES else len(_CASES)
