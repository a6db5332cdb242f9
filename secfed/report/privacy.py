"""What this run protected and what it did not, in words for a governance board."""

from secfed.report.markup import Markup, join, tag
from secfed.report.naming import has_guarantee, model_name
from secfed.report.run_folder import ReportedRun
from secfed.report.trust import cohort_warning
from secfed.results import RunRecord

_AGGREGATOR = {
    "masked": (
        "Each site added masks to its update before sending it. The masks of all sites cancel in the sum, so the "
        "aggregator learned the sum of the updates of a round and no single update. Before a sum was opened, the "
        "sites in it signed to one another who they are. “secfed audit verify” checks this run's transcript."
    ),
    "encrypted": (
        "The sites encrypted their updates under a key that they share, and the aggregator added the ciphertexts. The "
        "aggregator saw ciphertexts only, neither updates nor their sum nor the model, and no metrics. Every site "
        "decrypted the sums and took the server's step itself, so the model stayed with the sites: it leaves only by "
        "“secfed site export” at a site. The price is trust: any one site that works with the aggregator can read "
        "every update of every site and round. “secfed audit verify” checks this run's transcript without a key."
    ),
    "plain": (
        "Updates travelled unmasked. Whoever runs the aggregator could read each site's update, and from an update "
        "parts of the scans behind it can be reconstructed. Use this mode for comparison only."
    ),
}


def privacy_section(run: ReportedRun) -> Markup:
    """Protection, guarantee, what the sum still reveals, who sees what else."""
    record = run.record
    items = [
        *_protections(record),
        *_guarantees(record),
        _sum(record),
        _statement(
            "What is not hidden",
            "Which sites took part and when, how many rounds there were, the size of messages, the code and settings "
            "of the run. Every site has the shared model of every round, and the final model holds what all "
            "sites' scans taught it.",
        ),
        _statement(
            "Where it ran",
            "This page cannot tell whether every site ran on a machine of its own. In a simulation all parties share "
            "one machine: it shows what the protocol lets the aggregator see, not that anyone was kept apart.",
        ),
        _statement("This page", _page_text(run)),
    ]
    return tag("dl", items, class_="statements")


def _protections(record: RunRecord) -> list[Markup]:
    """One statement where all federated models were protected alike, else one for each, under its name."""
    modes = {row.model: row.protection for row in record.results if row.training == "federated"}
    alike = len(set(modes.values())) <= 1
    return [
        _statement(
            "Against the aggregator" if alike else f"Against the aggregator: {model_name(model, record)}",
            _AGGREGATOR.get(mode, f"Updates travelled under the protection “{mode}”."),
        )
        for model, mode in (list(modes.items())[:1] if alike else modes.items())
    ]


def _guarantees(record: RunRecord) -> list[Markup]:
    modes = dict.fromkeys(row.privacy for row in record.results if row.training == "federated")
    return [
        _statement(
            "Differential privacy: none",
            "No DP guarantee. Nothing bounds what the shared models or the sums say about one patient: someone with "
            "the model may be able to tell whether a patient's scan was used to train it.",
        )
        if not has_guarantee(mode)
        else _statement("Differential privacy", f"The run states: {mode}.")
        for mode in modes
    ]


def _sum(record: RunRecord) -> Markup:
    job = record.job("federated")
    text = (
        "The sum of a round is the average step that the sites' scans ask for. It is not private by itself: sites that "
        "pool what they know can subtract their own updates from it, and what is left belongs to the others."
    )
    if job is not None and job.protection == "encrypted":
        text += " Here the sites see it, and the aggregator does not."
    survivors = None if job is None else job.survivors_min
    if survivors is not None:
        warning = cohort_warning(job.protection, survivors) if job is not None and survivors > 1 else None
        text += f" The smallest sum of this run held {survivors} site{'' if survivors == 1 else 's'}."
        text += "" if warning is None else f" {warning}"
    return _statement("What the sum still reveals", text)


def _page_text(run: ReportedRun) -> str:
    figures = "Scores are means over patients; a mean over few patients can still point at one of them. "
    if run.overlays and not run.synthetic:
        figures += "The overlays show scans of patients: handle this file as patient data."
    elif run.overlays:
        figures += "The overlays show generated scans, no patient's."
    return figures + " The page loads nothing from the network and sends nothing."


def _statement(title: str, text: str) -> Markup:
    return join(tag("dt", title), tag("dd", text))
