"""What each attack amounts to without masking: the aggregator has the updates already.

In mode "plain" a site sends the integers of its update as they are; there is nothing to break. These findings say so
with the same figures, so that the two modes can be compared row by row.
"""

import numpy as np

from privacy.fixed_point import decode_sum
from privacy.streams import little_endian_bytes
from secfed.audit.consortium import Consortium
from secfed.audit.finding import Finding, recovered, recovery
from secfed.audit.target import Target

_SITES = 5


def reads_the_update(target: Target, seed: int) -> Finding:
    """The aggregator parses the bytes that one site sent."""
    world = Consortium(target, count=_SITES, seed=seed, set_up=False)
    sent = {name: little_endian_bytes(vector).tobytes() for name, vector in world.vectors.items()}
    received = {name: np.frombuffer(data, dtype="<u4").astype(np.uint32) for name, data in sent.items()}
    error = np.abs((world.total(world.names, vectors=received) - world.total(world.names)).view(np.int32)).max()
    victim = world.names[-1]
    fraction = recovered(received[victim], world.vectors[victim])
    values = decode_sum(received[victim], vector_format=world.vector_format)
    largest = float(np.abs(values - world.values[victim]).max())
    return recovery(
        fraction,
        control=f"the sum of {_SITES} sites is exact, largest error {error}",
        outcome=f"no attack is needed: the aggregator reads {victim}'s update, within {largest:.1g} of its values",
    )
