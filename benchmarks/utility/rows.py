"""The study's figures as benchmark rows: claims first, then Dice per variant and modality."""

from benchmarks.rows import Row
from secfed.study.record import StudyRecord
from secfed.study.summary import summarise


def rows_of(record: StudyRecord) -> list[Row]:
    """One row per claim that has data (1 met, 0 missed), then one per variant and test modality."""
    made = [
        Row(
            measure=f"claim: {claim.claim}",
            value=float(claim.met),
            unit="1 if met",
            target=claim.aim,
            met=claim.met,
            note=f"{claim.value}. {claim.note}" if claim.note else claim.value,
        )
        for claim in record.claims
        if claim.met is not None
    ]
    for experiment in summarise(record).experiments:
        table = experiment.methods
        for row in table.rows:
            for result in row.modalities:
                if result.mean is None:
                    continue
                interval = "" if result.mean.low is None else f"[{result.mean.low:.3f}, {result.mean.high:.3f}], "
                where = "in the federation" if result.seen else "unseen"
                made.append(
                    Row(
                        measure=f"{experiment.experiment.key}: {row.variant}, {result.modality} ({where})",
                        value=result.mean.mean,
                        unit="Dice",
                        note=f"{interval}{result.mean.seeds} seed(s), {result.mean.patients} patients",
                    )
                )
    return made
