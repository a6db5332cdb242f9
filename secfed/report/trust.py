"""What each protection shows to whom and whom it asks to be trusted, in the same plain words wherever it is said.

Read by the page, the terminal and the preflight. The claims behind the words are those of SECURITY.md.
"""

from privacy.secagg.threshold import SMALL_COHORT, small_cohort_warning

AGGREGATOR_SAW = {
    "masked": "The aggregator received masked updates only and learned their sum.",
    "encrypted": "The aggregator saw ciphertexts only, neither updates nor their sum nor the model.",
    "plain": "The aggregator received every site's update unprotected.",
}

TRUST = {
    "masked": "Masking trusts no single site: fewer than a third of the sites, together with the aggregator, learn no "
    "single update of another. The aggregator learns the sum of every round, and with it the model.",
    "encrypted": "Encryption trusts the aggregator with nothing but availability, and every site with everything: any "
    "one site that works with the aggregator can read every update of every site and every round. Masking withstands "
    "that one site, and shows the aggregator every sum.",
    "plain": "Plain mode trusts the aggregator with every update.",
}

METRICS_FROM_BOOKS = "Metrics from the sites' books: the aggregator of an encrypted run cannot see them."

NOT_PRIVATE = {
    "masked": "No differential privacy in this run: masking hides single updates, the sum is seen.",
    "encrypted": "No differential privacy in this run: the aggregator sees ciphertexts, every site sees the sum.",
    "plain": "No differential privacy in this run, and no masking: single updates are seen.",
}


def cohort_warning(protection: str, sites: int) -> str | None:
    """What has to be said of a sum over so few sites under this protection; None where there are enough, or in plain.

    Masked, the aggregator sees the sum; encrypted, the sites alone do.
    """
    if protection == "masked":
        return small_cohort_warning(sites)
    if protection == "encrypted" and sites <= 2:
        return "With two sites, each takes its own update from the sum that it decrypts and has the other's."
    if protection == "encrypted" and sites < SMALL_COHORT:
        return (
            f"Every site reads the sum over {sites} sites, and a sum of few is close to each of them: below "
            f"{SMALL_COHORT}, encryption hides a site from the aggregator, hardly from the other sites."
        )
    return None
