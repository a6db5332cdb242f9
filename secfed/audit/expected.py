"""The verdict that each attack should have on each mode, so that a change for the worse is noticed.

A verdict "succeeded" on masked or encrypted is a stated limit: what the mode does not prevent, or what sites have not
switched on.
SECURITY.md names each of them. A change here is a change of a claim, and belongs into the changelog.
"""

from collections.abc import Mapping

from secfed.audit.rows import AttackRow, Mode, Verdict

_S: Verdict = "succeeded"
_R: Verdict = "refused"
_NA: Verdict = "not applicable"


def _verdicts(plain: Verdict, masked: Verdict, encrypted: Verdict) -> Mapping[Mode, Verdict]:
    return {"plain": plain, "masked": masked, "encrypted": encrypted}


# Both protections prevent it; neither does.
_CLOSED, _OPEN = _verdicts(_S, _R, _R), _verdicts(_S, _S, _S)
# It attacks keys or messages that plain does not have.
_KEYS = _verdicts(_NA, _R, _R)
# It attacks shares or evidence, which encrypted runs do not have; or what only they have.
_SHARES, _DEALERS, _GROUP = _verdicts(_S, _R, _NA), _verdicts(_NA, _R, _NA), _verdicts(_NA, _NA, _R)
# Masks prevent it, and a key that all sites share does not.
_HOLDERS = _verdicts(_S, _R, _S)
# Masks do not prevent it, and an aggregator that has no key cannot do it.
_AGGREGATOR = _verdicts(_S, _S, _R)
# Nothing depends on the mode.
_ALWAYS = _verdicts(_R, _R, _R)

EXPECTED: Mapping[str, Mapping[Mode, Verdict]] = {
    "both-lists": _SHARES,
    "two-sets": _CLOSED,
    "two-sets-beyond-the-bound": _OPEN,
    "smaller-sum": _CLOSED,
    "collusion-below-t": _HOLDERS,
    "collusion-of-t-sites": _OPEN,
    "collusion-of-one-site": _HOLDERS,
    "stolen-state": _HOLDERS,
    "key-substitution": _CLOSED,
    "ciphertext-substitution": _KEYS,
    "lowered-threshold": _CLOSED,
    "tiny-cohort": _CLOSED,
    "two-sites": _OPEN,
    "sybil-cohort": _CLOSED,
    "replayed-messages": _KEYS,
    "restart-from-disk": _CLOSED,
    "restored-backup": _AGGREGATOR,
    "stage-restart": _CLOSED,
    "round-restart": _CLOSED,
    "mask-reuse": _CLOSED,
    "zero-uploads": _KEYS,
    "narrow-masks": _CLOSED,
    "guessed-seed": _CLOSED,
    "repeated-secrets": _KEYS,
    "differencing-same-model": _CLOSED,
    "differencing-hidden-sum": _SHARES,
    "differencing-new-session": _CLOSED,
    "differencing-changed-model": _OPEN,
    "differencing-cohort-change": _HOLDERS,
    "differencing-many-sums": _OPEN,
    "model-inconsistency": _CLOSED,
    "wraparound": _ALWAYS,
    "bad-share": _DEALERS,
    "bad-wrap": _KEYS,
    "bad-upload": _KEYS,
    "false-complaint": _DEALERS,
    "false-update": _OPEN,
    "spoiled-sum": _verdicts(_NA, _NA, _S),
    "forged-evidence": _SHARES,
    "published-aggregate": _CLOSED,
    "two-group-keys": _GROUP,
    "parameter-downgrade": _GROUP,
    "split-consortium": _OPEN,
    "false-sum": _GROUP,
    "false-history": _GROUP,
    "key-reaction": _GROUP,
    "ckks-decryption-leak": _GROUP,
    "tag-guessing": _GROUP,
    "snapshot-forgery": _GROUP,
    "gradient-inversion": _CLOSED,
    "gradient-inversion-of-the-sum": _OPEN,
    "imprint-layer": _ALWAYS,
    "trap-weights": _AGGREGATOR,
    "membership-inference": _OPEN,
}


def deviation(row: AttackRow) -> str | None:
    """A sentence where a row has another verdict than expected, or where none is known for its attack."""
    expected = EXPECTED.get(row.attack, {}).get(row.mode)
    if expected == row.verdict:
        return None
    return f"{row.attack} on {row.mode}: {row.verdict}, expected was {expected or 'nothing: add it to the registry'}"
