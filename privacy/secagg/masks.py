"""Masks: the streams that hide one client's vector and cancel in the sum (Bonawitz et al. 2017, section 4).

Applied by clients, removed by the aggregator. With u < v in the order of names, u adds the stream that both share and v
subtracts it; each client adds a stream of its own on top. Every stream's key binds the round's context and the index of
the vector, so that two vectors, two rounds or two models never share one.

It does not protect the sum itself: when all masks are gone, the sum is what it is.
"""

from collections.abc import Mapping, Sequence

from privacy.errors import MisuseError
from privacy.streams import Keystream, Sign, Words, add_streams, derive_key


def pair_sign(own: str, peer: str) -> Sign:
    """What `own` does with the stream it shares with `peer`: 1 adds, -1 subtracts.

    Raises:
        MisuseError: both names are the same.
    """
    if own == peer:
        raise MisuseError(f"{own!r} shares no mask with itself")
    return 1 if own < peer else -1


def self_mask(self_seed: bytes, *, context: bytes, vector_index: int) -> Keystream:
    """The stream that a client adds on its own."""
    return Keystream(derive_key(self_seed, label="self mask", context={"round": context, "vector": vector_index}))


def pair_mask(pair_secret: bytes, *, context: bytes, vector_index: int) -> Keystream:
    """The stream that two clients share."""
    return Keystream(derive_key(pair_secret, label="pair mask", context={"round": context, "vector": vector_index}))


def apply_masks(
    vector: Words,
    *,
    name: str,
    self_seed: bytes,
    pair_secrets: Mapping[str, bytes],
    context: bytes,
    vector_index: int = 0,
) -> Words:
    """A masked copy of a vector of shape (length,): uniform modulo 2^32 to whoever lacks a single seed."""
    masked = vector.copy()
    streams: list[tuple[Keystream, Sign]] = [(self_mask(self_seed, context=context, vector_index=vector_index), 1)]
    for peer, secret in sorted(pair_secrets.items()):
        stream = pair_mask(secret, context=context, vector_index=vector_index)
        streams.append((stream, pair_sign(name, peer)))
    add_streams(masked, streams)
    return masked


def remove_masks(
    total: Words,
    *,
    self_seeds: Sequence[bytes],
    pair_secrets: Mapping[tuple[str, str], bytes],
    context: bytes,
    vector_index: int = 0,
) -> None:
    """Take from a sum, in place, the survivors' own streams and the streams of pairs (survivor, dropped)."""
    streams: list[tuple[Keystream, Sign]] = [
        (self_mask(seed, context=context, vector_index=vector_index), -1) for seed in self_seeds
    ]
    for (survivor, dropped), secret in sorted(pair_secrets.items()):
        stream = pair_mask(secret, context=context, vector_index=vector_index)
        streams.append((stream, pair_sign(dropped, survivor)))
    add_streams(total, streams)
