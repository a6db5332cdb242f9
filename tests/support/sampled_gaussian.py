"""One step of the sampled Gaussian mechanism in closed form, apart from any accountant."""

import numpy as np
from scipy.special import ndtr


def threshold(loss, q, sigma):
    """Where the loss of a release x, ln(1 - q + q exp((2 x - 1) / (2 sigma^2))), has this value; -inf below it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = np.expm1(loss) + q
        return np.where(inner > 0, sigma**2 * np.log(np.maximum(inner, 1e-300) / q) + 0.5, -np.inf)


def one_step(epsilon, q, sigma, *, patient_first):
    """Closed form of the hockey-stick divergence of one step, for any real epsilon, in one of the two directions."""
    grown = np.exp(epsilon)
    if patient_first:
        x = threshold(epsilon, q, sigma)
        absent, present = ndtr(-x / sigma), ndtr((1 - x) / sigma)
        return (1 - q) * absent + q * present - grown * absent
    x = threshold(-epsilon, q, sigma)
    absent, present = ndtr(x / sigma), ndtr((x - 1) / sigma)
    return absent - grown * ((1 - q) * absent + q * present)
