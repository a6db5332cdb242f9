"""The rule that ties a threshold to a cohort size, and what has to be said of small cohorts.

A malicious aggregator may show two survivor sets to two halves of the cohort: an honest client answers one of them, a
client that colludes answers both. With threshold t, cohort n and n_c colluding clients, it cannot collect t shares of
both kinds for the same client if 2 t > n + n_c. The default covers every n_c below n / 3.
"""

from privacy.errors import MisuseError


def default_threshold(cohort_size: int) -> int:
    """floor(2 n / 3) + 1, at most n: 2 of 2, 3 of 3, 3 of 4, 4 of 5, 7 of 10, 67 of 100.

    Raises:
        MisuseError: the cohort has fewer than two clients, so that no sum hides anything.
    """
    if cohort_size < 2:
        raise MisuseError(f"cohort_size = {cohort_size} must be at least 2")
    return 2 * cohort_size // 3 + 1


SMALL_COHORT = 5
"""Below this many clients, masking alone does not hide one of them: the sum of few is close to each."""


def small_cohort_warning(cohort_size: int) -> str | None:
    """What has to be said of a sum over so few clients, in plain words; None where masking is enough to hide one."""
    if cohort_size <= 2:
        return "A sum over two sites hides nothing: each can take its own update from it and has the other's."
    if cohort_size < SMALL_COHORT:
        return (
            f"A sum over {cohort_size} sites hides little: below {SMALL_COHORT}, masking alone does not hide a site, "
            "because the sum of few is close to each."
        )
    return None
