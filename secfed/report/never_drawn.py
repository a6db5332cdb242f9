"""What has to be said of organs that no training case has drawn, in the same words on the terminal and on the page."""

from collections.abc import Sequence

from secfed.report.markup import words
from secfed.report.naming import model_name, ordered
from secfed.results import RunRecord


def of_whole_run(record: RunRecord) -> tuple[str, ...]:
    """Organs that no job of the run had drawn; whatever one job had drawn, some site has."""
    if not record.jobs:
        return ()
    first, *others = record.jobs
    return tuple(organ for organ in first.never_drawn if all(organ in job.never_drawn for job in others))


def warning(organs: Sequence[str]) -> str:
    """For a run in which nobody has drawn them; at least one."""
    names = _names(organs)
    what = "it" if len(organs) == 1 else "them"
    return (
        f"No training case of any site has drawn {names}, so no model of this run can learn {what}: the voxels that "
        f"they give to {what} are guessed, and the scores for {what}, and means that include {what}, say nothing. "
        f"Add a site that has drawn {what}, or see how labels are spelt: secfed data inspect --config CONFIG.toml."
    )


def of_single_models(record: RunRecord) -> list[str]:
    """A sentence for every model that lacks organs that others of the run had drawn."""
    everywhere = set(of_whole_run(record))
    jobs = {job.model: job for job in record.jobs}
    return [
        f"The model “{model_name(model, record)}” was trained where nobody has drawn {_names(lacking)}, and cannot "
        "have learned it: its scores for it say nothing."
        for model in ordered(jobs)
        if (lacking := [organ for organ in jobs[model].never_drawn if organ not in everywhere])
    ]


def _names(organs: Sequence[str]) -> str:
    parts = (organ.partition("_") for organ in organs)
    return words(f"{side} {name}" if side in ("left", "right") else f"{name} {side}".strip() for name, _, side in parts)
