"""The verdict that each attack should have on each mode, so that a change for the worse is noticed.

A verdict "succeeded" on mode masked is a stated limit: what no masking prevents, or what sites have not switched on.
SECURITY.md names each of them. A change here is a change of a claim, and belongs into the changelog.
"""

from collections.abc import Mapping

from secfed.audit.rows import AttackRow, Mode, Verdict

_READ: Mapping[Mode, Verdict] = {"plain": "succeeded", "masked": "refused"}
_OPEN: Mapping[Mode, Verdict] = {"plain": "succeeded", "masked": "succeeded"}
_CLOSED: Mapping[Mode, Verdict] = {"plain": "refused", "masked": "refused"}
_MASKED_ONLY: Mapping[Mode, Verdict] = {"plain": "not applicable", "masked": "refused"}

EXPECTED: Mapping[str, Mapping[Mode, Verdict]] = {
    "both-lists": _READ,
    "two-sets": _READ,
    "two-sets-beyond-the-bound": _OPEN,
    "smaller-sum": _READ,
    "collusion-below-t": _READ,
    "collusion-of-t-sites": _OPEN,
    "key-substitution": _READ,
    "ciphertext-substitution": _MASKED_ONLY,
    "lowered-threshold": _READ,
    "tiny-cohort": _READ,
    "sybil-cohort": _READ,
    "two-sites": _OPEN,
    "replayed-messages": _MASKED_ONLY,
    "restart-from-disk": _READ,
    "restored-backup": _OPEN,
    "stage-restart": _READ,
    "round-restart": _READ,
    "mask-reuse": _READ,
    "zero-uploads": _MASKED_ONLY,
    "narrow-masks": _READ,
    "guessed-seed": _READ,
    "repeated-secrets": _MASKED_ONLY,
    "differencing-same-model": _READ,
    "differencing-hidden-sum": _READ,
    "differencing-new-session": _READ,
    "differencing-changed-model": _OPEN,
    "differencing-cohort-change": _READ,
    "differencing-many-sums": _OPEN,
    "model-inconsistency": _READ,
    "wraparound": _CLOSED,
    "bad-share": _MASKED_ONLY,
    "bad-wrap": _MASKED_ONLY,
    "bad-upload": _MASKED_ONLY,
    "false-complaint": _MASKED_ONLY,
    "false-update": _OPEN,
    "forged-evidence": _READ,
    "published-aggregate": _READ,
    "gradient-inversion": _READ,
    "gradient-inversion-of-the-sum": _OPEN,
    "imprint-layer": _CLOSED,
    "trap-weights": _OPEN,
    "membership-inference": _OPEN,
}


def deviation(row: AttackRow) -> str | None:
    """A sentence where a row has another verdict than expected, or where none is known for its attack."""
    expected = EXPECTED.get(row.attack, {}).get(row.mode)
    if expected == row.verdict:
        return None
    return f"{row.attack} on {row.mode}: {row.verdict}, expected was {expected or 'nothing: add it to the registry'}"
