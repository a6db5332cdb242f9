"""What each model took: time, bytes per site and round, exchanges, and the share of work that protection cost."""

from secfed.report.markup import DASH, Markup, across, duration, join, number, percent, size, tag
from secfed.report.naming import model_name, ordered
from secfed.results import JobRecord, RunRecord

_MEASURES = (
    "Protection",
    "Rounds",
    "Passes over the data",
    "Wall time",
    "Training work",
    "Protection work",
    "Protection work / wall time",
    "Up, per site and round",
    "Down, per site and round",
    "Exchanges per round",
    "Fewest sites in a sum",
)


def cost_section(record: RunRecord) -> Markup:
    """One column per trained model."""
    if not record.jobs:
        return tag("p", "This run recorded no cost.", class_="missing")
    jobs = [job for model in ordered(job.model for job in record.jobs) if (job := record.job(model)) is not None]
    columns = [_cells(job) for job in jobs]
    rows = [(measure, [column[index] for column in columns]) for index, measure in enumerate(_MEASURES)]
    table = across([model_name(job.model, record) for job in jobs], rows, "What training each model took.", "Measure")
    encrypted = any(job.protection == "encrypted" for job in jobs)
    travels = "In an encrypted run ciphertexts go up, and the encrypted sum of the round before comes down. "
    note = (
        "Training and protection work are summed over the sites and the aggregator, so they may exceed the wall time "
        "where sites work side by side. Bytes are message contents without transport overhead, "
        f"averaged over sites and rounds. {travels if encrypted else ''}"
        "An exchange is one request to the sites that the aggregator waits for. "
        "Passes are samples drawn divided by samples held, all parties together."
    )
    return join(table, tag("p", note, class_="note"))


def bytes_per_site_and_round(total: int, job: JobRecord) -> float | None:
    """Mean bytes of one site in one round; None where there were no rounds or sites."""
    messages = job.rounds * len(job.samples_seen)
    return total / messages if messages else None


def _cells(job: JobRecord) -> tuple[str, ...]:
    # A reference trains in one place, so whatever it passed around inside the program is no cost of federation.
    travels = job.training == "federated"
    up, down = (bytes_per_site_and_round(total, job) for total in (job.bytes_up, job.bytes_down))
    return (
        job.protection if travels else DASH,
        str(job.rounds),
        number(job.effective_passes(), 2),
        duration(job.seconds),
        duration(job.training_seconds),
        duration(job.protection_seconds) if travels else DASH,
        percent(job.protection_share()) if travels else DASH,
        size(up) if travels and up else DASH,
        size(down) if travels and down else DASH,
        number(job.exchanges / job.rounds, 1) if travels and job.rounds else DASH,
        str(job.survivors_min) if travels and job.survivors_min is not None else DASH,
    )
