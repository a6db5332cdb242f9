"""Masks that repeat, or that do not fill the modulus: what is left of two uploads when a mask cancels.

Seen from outside, by an aggregator that only compares the uploads it receives.
"""

import numpy as np

from privacy.secagg import masks
from privacy.streams import Words
from secfed.audit.attacks import encrypted_noise, encrypted_rounds
from secfed.audit.consortium import Consortium
from secfed.audit.finding import DIFFERENCE, Finding, not_applicable, on_figure, protocol_attack, recovered
from secfed.audit.plain import reads_the_update
from secfed.audit.target import Target
from secfed.audit.uniformity import LEVEL, p_value

_WORDS = 2**14


def mask_reuse(target: Target, seed: int) -> Finding:
    """Subtract two uploads of one site in two rounds; with one mask, the difference of its updates is left."""
    world = Consortium(target, count=4, seed=seed)
    changed = {name: world.encode(world.values[name] / 2, label=f"changed {name}") for name in world.names}
    first, second = world.play(1), world.play(2, vectors=changed, model=b"n" * 32)
    error = np.abs((second.aggregate.total - world.total(world.names, vectors=changed)).view(np.int32)).max()
    fractions = [
        recovered(first.uploads[name] - second.uploads[name], world.vectors[name] - changed[name])
        for name in world.names
    ]
    return Finding(
        control=f"both rounds give their sums, largest error {error}",
        outcome=f"{len(fractions)} pairs of uploads of one site in two rounds were subtracted",
        figure=max(fractions),
        unit=DIFFERENCE,
        verdict=on_figure(max(fractions), above=0.01),
    )


def zero_uploads(target: Target, seed: int) -> Finding:
    """All sites upload zeros in two rounds: every upload, and every difference of two, has to look like noise."""
    world = Consortium(target, count=4, seed=seed, length=_WORDS)
    zeros = {name: np.zeros(_WORDS, dtype=np.uint32) for name in world.names}
    rounds = [world.play(1, vectors=zeros), world.play(2, vectors=zeros, model=b"n" * 32)]
    uploads = [played.uploads[name] for played in rounds for name in world.names]
    differences = [uploads[i] - uploads[j] for i in range(len(uploads)) for j in range(i)]
    # The same secret serves several vectors in one round under other indices; those streams must differ as well.
    streams = [masks.self_mask(b"s" * 32, context=bytes(32), vector_index=index).words(_WORDS) for index in (0, 1)]
    tested = [*uploads, *differences, streams[0] - streams[1]]
    smallest = min(p_value(words) for words in tested)
    plain = p_value(world.vectors[world.names[0]])
    return Finding(
        control=f"both sums of zeros are {_largest(rounds[0].aggregate.total)} and "
        f"{_largest(rounds[1].aggregate.total)}; the test gives p = {plain:.1g} for an unmasked update",
        outcome=f"{len(tested)} uploads and differences, tested over bytes and over bits",
        figure=smallest,
        unit=f"smallest p-value; below {LEVEL:g} is not noise",
        verdict="succeeded" if smallest < LEVEL else "refused",
    )


def narrow_masks(target: Target, seed: int) -> Finding:
    """Look at the uploads of real updates for what a mask of fewer than 32 bits leaves visible."""
    world = Consortium(target, count=4, seed=seed, length=_WORDS)
    control = world.control()
    played = world.play(2)
    smallest = min(p_value(upload) for upload in played.uploads.values())
    plain = p_value(world.vectors[world.names[0]])
    return Finding(
        control=f"{control}; the test gives p = {plain:.1g} for an unmasked update",
        outcome=f"{len(played.uploads)} uploads of {_WORDS} words, tested over bytes and over bits",
        figure=smallest,
        unit=f"smallest p-value; below {LEVEL:g} is not noise",
        verdict="succeeded" if smallest < LEVEL else "refused",
    )


def _largest(words: Words) -> int:
    return int(np.abs(words.view(np.int32)).max())


ATTACKS = (
    protocol_attack(
        name="mask-reuse",
        threat="one mask serves two rounds, so that subtracting two uploads removes it",
        defence="ratcheted pair keys, fresh self seeds, and the round in every mask's key",
        masked=mask_reuse,
        plain=reads_the_update,
        encrypted=encrypted_rounds.equal_updates,
    ),
    protocol_attack(
        name="zero-uploads",
        threat="masks of different rounds, sites or vectors are related",
        defence="one key per stream, derived with round and vector index",
        masked=zero_uploads,
        plain=not_applicable("plain mode has no masks"),
        encrypted=encrypted_noise.zero_uploads,
    ),
    protocol_attack(
        name="narrow-masks",
        threat="masks that do not fill the modulus leave the high bits readable",
        defence="AES-256-CTR words, uniform over all 32 bits",
        masked=narrow_masks,
        plain=reads_the_update,
        encrypted=encrypted_noise.visible_updates,
    ),
)
