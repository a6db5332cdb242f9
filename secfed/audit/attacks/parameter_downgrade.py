"""Weaker parameters of encryption, offered to a site: a smaller ring, a larger modulus, CKKS, sums that wrap.

In a deployment sites compute the parameters from the plan and offer them to nobody; what is attacked here is the parser
that stands where an offer would be read, and the announcement that names other parameters.
"""

import hashlib
from collections.abc import Mapping

from privacy.cbor import Encodable, to_cbor
from privacy.fixed_point import HALF_MODULUS
from privacy.he.parameters import HE_SUITE, HeParameters
from secfed.audit.encrypted_group import EncryptedGroup, accept, with_announcement
from secfed.audit.finding import Finding, Tries, not_applicable, on_figure, protocol_attack
from secfed.audit.target import Target


def weaker_parameters(target: Target, seed: int) -> Finding:
    """Offer a site six settings that are weaker than its own, or say that sums could be wrong; and announce others."""
    group = EncryptedGroup(target, count=5, seed=seed)
    control = group.control()
    own, tries = group.parameters, Tries()
    offers: Mapping[str, Mapping[str, Encodable]] = {
        "a smaller ring": {"ring_degree": 2048},
        "a larger modulus": {"modulus_bits": (54, 55)},
        "a modulus beyond the table": {"modulus_bits": (60, 60)},
        "CKKS": {"scheme": "CKKS", "plain_modulus": 0, "scale_bits": 20, "modulus_bits": (54, 55)},
        "a plaintext modulus that wraps": {"plain_modulus": 65537},
        "a plaintext modulus that is no prime": {"plain_modulus": own.plain_modulus + 2 * own.ring_degree},
        "fewer clients": {"max_clients": 2},
        "no scheme": {"scheme": "none"},
    }
    taken = []
    for name, changed in offers.items():
        if tries(target.read_parameters, _offer(own, changed), own) is not None:
            taken.append(name)
    # The larger modulus alone is a setting that this program knows; sites of this run agreed on another.
    announcement = group.announce().announcement
    for digest in (hashlib.sha256(b"other parameters").digest(), HeParameters.exact(max_clients=2000).digest):
        shown = with_announcement(announcement, parameters=digest)
        tries.accepts(group.try_on, group.names[0], accept, shown, group.before)
    exact = target.read_parameters(own.to_bytes(), own) == own
    return Finding(
        control=f"{control}; the agreed setting is {'taken' if exact else 'refused'}",
        outcome=f"taken were {taken or 'none'} of {sorted(offers)}; sums reach {HALF_MODULUS - 1}; {tries}",
        figure=float(tries.accepted),
        unit=f"weaker settings that a site took, of {tries.total}",
        verdict=on_figure(tries.accepted, above=0),
    )


def _offer(own: HeParameters, changed: Mapping[str, Encodable]) -> bytes:
    fields: Mapping[str, Encodable] = {
        "scheme": own.scheme,
        "ring_degree": own.ring_degree,
        "modulus_bits": own.modulus_bits,
        "plain_modulus": own.plain_modulus,
        "scale_bits": own.scale_bits,
        "max_clients": own.max_clients,
    }
    return to_cbor({**fields, **changed, "suite": HE_SUITE})


ATTACKS = (
    protocol_attack(
        name="parameter-downgrade",
        threat="the aggregator offers weaker parameters of encryption, or such that sums wrap",
        defence="a site's own parameters are the floor; their digest is in every signature",
        masked=not_applicable("masks have no parameters to offer; the suite is fixed"),
        plain=not_applicable("nothing is encrypted"),
        encrypted=weaker_parameters,
    ),
)
