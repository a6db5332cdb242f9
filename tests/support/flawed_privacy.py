"""Ways to get differential privacy wrong while the ledger charges as if it were right; each patches a site's software.

Every function takes pytest's monkeypatch. Tests import them by name, because `tests/support` is on pytest's path.
"""

from dataclasses import replace

import numpy as np

import clients.patient_training
import clients.private_contribution as place
from privacy.streams import Keystream

SLICES = 4
LAZY_SITE = "site-02"


def two_thirds_of_the_noise(patch):
    _scale_noise(patch, lambda split: 2 / 3)


def noise_divided_by_the_number_of_sites(patch):
    # sigma / n at each of n sites makes sigma / sqrt(n) in the sum; sigma / sqrt(H) is what was agreed.
    _scale_noise(patch, lambda split: np.sqrt(split.certain_honest) / split.invited)


def the_same_noise_in_every_round(patch):
    honest = place._Round.stream

    def stream(self, label):
        if label != "noise":
            return honest(self, label)
        return Keystream(self.site.noise_key(label=label, context={"release": bytes(32)}))

    patch.setattr(place._Round, "stream", stream)


def no_clipping(patch):
    honest = clients.patient_training.PatientLoop
    patch.setattr(
        clients.patient_training, "PatientLoop", lambda *args, **named: honest(*args, **{**named, "clip_norm": 1e6})
    )


def slices_as_if_they_were_patients(patch):
    honest = place.poisson_lot

    def lot(patients, sampling_prob, stream):
        return tuple(index // SLICES for index in honest(SLICES * patients, sampling_prob, stream))

    patch.setattr(place, "poisson_lot", lot)


def one_site_without_its_share(patch):
    honest = place._encode

    def encode(asked, made, *rest):
        return honest(asked, replace(made, shared=made.shared[:0]) if asked.site.name == LAZY_SITE else made, *rest)

    patch.setattr(place, "_encode", encode)


FLAWS = {
    flaw.__name__: flaw
    for flaw in (
        two_thirds_of_the_noise,
        noise_divided_by_the_number_of_sites,
        the_same_noise_in_every_round,
        no_clipping,
        slices_as_if_they_were_patients,
        one_site_without_its_share,
    )
}


def _scale_noise(patch, factor):
    honest = place.noise_split

    def split(*args, **named):
        agreed = honest(*args, **named)
        return replace(agreed, noise_multiplier=agreed.noise_multiplier * float(factor(agreed)))

    patch.setattr(place, "noise_split", split)
