"""What this run protected and what it did not, in words for a governance board."""

from secfed.report.markup import Markup, join, percent, tag
from secfed.report.naming import has_guarantee, model_name
from secfed.report.run_folder import ReportedRun
from secfed.report.trust import cohort_warning
from secfed.results import NO_DP, SIMULATED_NOISE, PrivacyRecord, RunRecord

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
    """One statement for each price that federated models have."""
    models = list(dict.fromkeys(row.model for row in record.results if row.training == "federated"))
    jobs = {model: None if (job := record.job(model)) is None else job.privacy for model in models}
    texts = {row.model: row.privacy for row in record.results if row.training == "federated"}
    stated: dict[str, Markup] = {}
    for model in models:
        paid = jobs[model]
        if paid is not None and paid.epsilon is not None:
            stated.setdefault(paid.text(), _bought(paid))
        elif has_guarantee(texts[model]):
            stated.setdefault(texts[model], _statement("Differential privacy", f"The run states: {texts[model]}."))
        else:
            clipped = " Patients were clipped, and no noise was added." if texts[model] == NO_DP else ""
            stated.setdefault(
                texts[model],
                _statement(
                    "Differential privacy: none",
                    "No DP guarantee. Nothing bounds what the shared models or the sums say about one patient: someone "
                    f"with the model may be able to tell whether a patient's scan was used to train it.{clipped}",
                ),
            )
    return list(stated.values())


def _bought(paid: PrivacyRecord) -> Markup:
    """Epsilon with all without which it means nothing, what it allows an attacker, and what it leaves out."""
    multiplier = "" if paid.noise_multiplier is None else f"noise multiplier {paid.noise_multiplier:.4g}, "
    cap = (
        f"An attacker who accepts 1 % false alarms finds at most {percent(paid.tpr_cap)} of those who took part. "
        if paid.tpr_cap is not None
        else ""
    )
    simulated = (
        f"{SIMULATED_NOISE[0].upper()}{SIMULATED_NOISE[1:]}. The noise of this run follows from its seed, so whoever "
        "knows the seed takes it off again; at real sites it comes from the operating system. "
        if paid.simulated
        else ""
    )
    return _statement(
        "Differential privacy" + (" (simulated noise)" if paid.simulated else ""),
        f"{simulated}The ledgers of the sites say: {paid.text().partition(';')[0]} ({multiplier}sampling "
        f"probability {paid.sampling_prob:g}, clip norm {paid.clip_norm:g}); the site that paid most counts. {cap}"
        "It is about one patient at one site: not about a person who stands in the data of two, and not about runs "
        "without noise on the same data.",
    )


def _sum(record: RunRecord) -> Markup:
    job = record.job("federated")
    text = (
        "The sum of a round is the average step that the sites' scans ask for. It is not private by itself: sites that "
        "pool what they know can subtract their own updates from it, and what is left belongs to the others."
    )
    if job is not None and job.privacy is not None and job.privacy.mode in ("distributed", "silo"):
        text += (
            " Noise of all sites is in it, and a site that takes its own off leaves that of the others: the epsilon "
            "above is against everybody but the sites, unless max_colluders counts them."
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
