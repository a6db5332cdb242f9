"""The plan in a transcript: readable, the one in the aggregator's folder, and the one that the sites signed for.

Run by the auditor.
"""

from pathlib import Path

from privacy.secagg.findings import Findings
from secfed.aggregator_files import PLAN
from secfed.config import TrainingPlan


def read_plan(data: bytes, folder: Path, notes: Findings) -> TrainingPlan | None:
    """The plan of a session's entry, compared with the one in the aggregator's `folder` where there is one."""
    try:
        plan = TrainingPlan.model_validate_json(data)
    except ValueError as error:
        notes.fail(f"the plan cannot be read: {str(error).splitlines()[0]}")
        return None
    path = folder / PLAN
    if path.is_file():
        try:
            given = TrainingPlan.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            notes.fail(f"{PLAN} cannot be read", where=PLAN)
            return plan
        if given.digest() != plan.digest():
            notes.fail(f"{PLAN} is another plan than the transcript holds", where=PLAN)
    return plan


def check_plan_hash(announced: bytes, plan: TrainingPlan | None, notes: Findings) -> None:
    """Whether the round was announced under the plan; nothing is said where that cannot be read."""
    if plan is not None:
        with notes.claim("the sites trained under the plan that the transcript holds"):
            notes.require(announced == plan.digest(), "the sites were shown another plan")
