"""What the study was to show, and what it found: aims of the issue, held against the study's own cells.

Every figure comes from `secfed.study`, like those of the page. A claim whose cells are not there says so.
"""

import dataclasses
from collections.abc import Callable, Sequence

from secfed.study.record import CellRecord, Claim, StudyRecord
from secfed.study.scores import matched
from secfed.study.statistics import Comparison, Estimate, compare, estimate, ratio
from secfed.study.training import training_ratios

NONE, GIN, IPA, LEAD = "none", "GIN", "GIN-IPA", "clean + mixed maps"
FEDERATED, CENTRALISED = "federated, GIN", "centralised, GIN"
CT_ONLY, MR_ONLY = "CT sites only, GIN", "MRI sites only, GIN"
PLAIN, MASKED, ENCRYPTED = "plain", "masked", "encrypted"
EPSILON_8, NO_NOISE = "distributed, epsilon 8", "no noise"
SEVERAL = 3.0
HARD_ORGANS = {"abdomen": ("pancreas", "gallbladder"), "whole_heart": ("myocardium", "right_atrium")}

Cells = Sequence[CellRecord]


def with_claims(record: StudyRecord) -> StudyRecord:
    """The record with its claims."""
    made = [build(record) for build in _CLAIMS]
    return dataclasses.replace(record, claims=tuple(claim for claim in made if claim is not None))


def cells_named(record: StudyRecord, experiment: str, variant: str) -> tuple[CellRecord, ...]:
    """The complete cells of a variant; none where there is no such variant."""
    found = record.experiment(experiment)
    variants = [] if found is None else [one for one in found.variants if one.name == variant]
    return record.complete(variants[0]) if variants else ()


def _ratio_to_centralised(record: StudyRecord) -> Claim | None:
    share = _ratio(record, ("federated", FEDERATED), ("federated", CENTRALISED), ("CT", "MR"))
    return _claim(
        record,
        "federated",
        "Federated, masked, GIN against centralised, GIN: mean Dice over CT and MRI",
        ">= 98 %",
        None if share is None else f"{share.mean:.1%} {_interval(share, percent=True)}",
        None if share is None else share.mean >= 0.98,
        note=_passes_note(record),
    )


def _passes_note(record: StudyRecord) -> str:
    """Whether both sides of the ratio saw their data equally often, as the cells recorded it."""
    experiment = record.experiment("federated")
    ratios = () if experiment is None else training_ratios(record, experiment)
    found = next((row for row in ratios if row.variant == FEDERATED and row.modality is None), None)
    if found is None or found.passes is None or found.centralised_passes is None:
        return "passes over the data are not recorded"
    like = "the same passes" if found.like_for_like else "NOT the same passes"
    return f"{like} over the data: {found.passes:.2f} and {found.centralised_passes:.2f}"


def _same_model(record: StudyRecord) -> Claim | None:
    hashes: dict[int, dict[str, str]] = {}
    for name in (PLAIN, MASKED, ENCRYPTED):
        for cell in cells_named(record, "protection", name):
            if cell.job is not None:
                hashes.setdefault(cell.seed, {})[name] = cell.job.model_hash
    whole = {seed: found for seed, found in hashes.items() if len(found) == 3}
    equal = [seed for seed, found in whole.items() if len(set(found.values())) == 1]
    shown = next((found[PLAIN][:12] for found in whole.values()), "")
    return _claim(
        record,
        "protection",
        "Masked and encrypted against plain: the final model",
        "identical, bit for bit",
        f"identical at {len(equal)} of {len(whole)} seeds ({shown}...)" if whole else None,
        len(equal) == len(whole) if whole else None,
    )


def _gin_on_unseen(record: StudyRecord) -> Claim | None:
    aim = "several-fold for the hard organs"
    folds = []
    for organ in HARD_ORGANS.get(_task(record), ()):
        gin, none = (_estimate(record, ("unseen", name), "MR", organ) for name in (GIN, NONE))
        if gin is not None and none is not None:
            fold = gin.mean / none.mean if none.mean > 0 else float("inf")
            folds.append((fold, f"{organ} {none.mean:.3f} -> {gin.mean:.3f} ({fold:.1f} times)"))
    overall = [_estimate(record, ("unseen", name), "MR") for name in (NONE, GIN)]
    if not folds or None in overall:
        return _claim(record, "unseen", _GIN_CLAIM, aim, None, None)
    means = " -> ".join(f"{one.mean:.3f}" for one in overall if one is not None)
    return _claim(
        record,
        "unseen",
        _GIN_CLAIM,
        aim,
        f"{', '.join(text for _, text in folds)}; mean over organs {means}",
        all(fold >= SEVERAL for fold, _ in folds),
        note=f"met where each is {SEVERAL:g} times or more; the paper: pancreas 0.073 -> 0.437",
    )


def _task(record: StudyRecord) -> str:
    experiment = record.experiment("unseen")
    return "" if experiment is None else experiment.task


def _ipa(record: StudyRecord) -> Claim | None:
    return _difference_claim(
        record,
        ("unseen", IPA),
        ("unseen", GIN),
        claim="GIN-IPA with consistency against GIN, unseen MRI: mean Dice",
        aim="better",
        good=lambda unseen, _: unseen.difference.low is not None and unseen.difference.low > 0,
        note="twice the views per step at the same passes",
    )


def _ahead_of_gin(record: StudyRecord) -> Claim | None:
    return _difference_claim(
        record,
        ("unseen", LEAD),
        ("unseen", GIN),
        claim=f"Ahead of GIN on unseen MRI: '{LEAD}'",
        aim=">= +.150 on MRI, >= -.020 on CT",
        good=lambda unseen, seen: unseen.difference.mean >= 0.15 and seen.difference.mean >= -0.02,
        note="two views a step at the same passes; phantoms have piecewise constant tissue, which favours maps of "
        "intensity: texture in real scans may not",
    )


def _difference_claim(
    record: StudyRecord,
    ours: tuple[str, str],
    theirs: tuple[str, str],
    *,
    claim: str,
    aim: str,
    good: Callable[[Comparison, Comparison], bool],
    note: str,
) -> Claim | None:
    unseen, seen = (_compare(record, ours, theirs, modality) for modality in ("MR", "CT"))
    if unseen is None or seen is None:
        return _claim(record, ours[0], claim, aim, None, None)
    value = f"MRI {_signed(unseen.difference)}, CT {_signed(seen.difference)}"
    return _claim(record, ours[0], claim, aim, value, good(unseen, seen), note=note)


def _both_modalities(record: StudyRecord) -> Claim | None:
    found = {
        modality: _compare(record, ("federated", FEDERATED), ("federated", name), modality)
        for modality, name in (("CT", CT_ONLY), ("MR", MR_ONLY))
    }
    known = {modality: one for modality, one in found.items() if one is not None}
    text = ", ".join(f"{modality} {_signed(one.difference)}" for modality, one in known.items())
    return _claim(
        record,
        "federated",
        "Federated CT and MRI with GIN against the sites of one modality with GIN, each on its own modality",
        "better on both",
        text if len(known) == 2 else None,
        all(one.difference.mean > 0 for one in known.values()) if len(known) == 2 else None,
    )


def _price_of_privacy(record: StudyRecord) -> Claim | None:
    share = _ratio(record, ("privacy", EPSILON_8), ("privacy", NO_NOISE), ("MR",))
    return _claim(
        record,
        "privacy",
        "Epsilon 8 per patient, distributed noise, pretrained on phantoms of another population, against no noise",
        ">= 95 %",
        None if share is None else f"{share.mean:.1%} {_interval(share, percent=True)}",
        None if share is None else share.mean >= 0.95,
        note="simulated noise: not a DP guarantee; the same set-up without noise, test modality MRI",
    )


_GIN_CLAIM = "Unseen modality, trained on CT, tested on MRI: GIN against no augmentation"

_CLAIMS: tuple[Callable[[StudyRecord], Claim | None], ...] = (
    _ratio_to_centralised,
    _same_model,
    _gin_on_unseen,
    _ipa,
    _ahead_of_gin,
    _both_modalities,
    _price_of_privacy,
)


def _claim(
    record: StudyRecord, experiment: str, claim: str, aim: str, value: str | None, met: bool | None, *, note: str = ""
) -> Claim | None:
    """None where the study does not ask; without a value, the hole stays visible."""
    if record.experiment(experiment) is None:
        return None
    return Claim(claim=claim, aim=aim, value="no data" if value is None else value, met=met, note=note)


def _estimate(record: StudyRecord, place: tuple[str, str], modality: str, organ: str = "mean") -> Estimate | None:
    found = matched([cells_named(record, *place)], [modality], organ=organ)
    return None if found is None else estimate(found.tables[0])


def _compare(record: StudyRecord, ours: tuple[str, str], theirs: tuple[str, str], modality: str) -> Comparison | None:
    found = matched([cells_named(record, *ours), cells_named(record, *theirs)], [modality])
    return None if found is None else compare(*found.tables)


def _ratio(
    record: StudyRecord, ours: tuple[str, str], theirs: tuple[str, str], modalities: Sequence[str]
) -> Estimate | None:
    found = matched([cells_named(record, *ours), cells_named(record, *theirs)], modalities)
    return None if found is None else ratio(*found.tables)


def _signed(found: Estimate) -> str:
    return f"{found.mean:+.3f} {_interval(found)}"


def _interval(found: Estimate, *, percent: bool = False) -> str:
    if found.low is None or found.high is None:
        return f"(n = {found.seeds} seed)"
    shown = [f"{value:.1%}" if percent else f"{value:+.3f}" for value in (found.low, found.high)]
    return f"[{shown[0]}, {shown[1]}], {found.seeds} seed{'' if found.seeds == 1 else 's'}"
