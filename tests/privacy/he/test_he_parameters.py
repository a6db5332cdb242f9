"""The setting of an encrypted run: its primes, its security, and why no sum can come out wrong."""

import math
from dataclasses import replace

import pytest
from he_world import APPROXIMATE, COMMON, EXACT
from tenseal import sealapi

from privacy.errors import MisuseError, RangeError
from privacy.fixed_point import Segment, VectorFormat
from privacy.he.moduli import MAX_MODULUS_BITS, coefficient_primes, is_prime, smallest_batching_prime
from privacy.he.parameters import CHECK_SLOTS, MAX_SUM, HeParameters

SETTINGS = (EXACT, HeParameters.exact(max_clients=5000), APPROXIMATE, COMMON)


def test_primes_are_those_of_a_sieve():
    sieve = [True] * 10_000
    for number in range(2, 100):
        for multiple in range(2 * number, 10_000, number):
            sieve[multiple] = False
    assert [n for n in range(10_000) if is_prime(n)] == [n for n in range(2, 10_000) if sieve[n]]


@pytest.mark.parametrize("number", [2047, 3215031751, 3825123056546413051, (2**31 - 1) * (2**61 - 1)])
def test_strong_pseudoprimes_are_no_primes(number):
    assert not is_prime(number)


@pytest.mark.parametrize(
    "degree,bits", [(4096, (48, 49)), (4096, (54, 55)), (8192, (60, 40, 40)), (8192, (50, 50, 50))]
)
def test_coefficient_primes_are_those_that_seal_takes(degree, bits):
    assert [prime.value() for prime in sealapi.CoeffModulus.Create(degree, list(bits))] == list(
        coefficient_primes(degree, bits)
    )


@pytest.mark.parametrize("degree", sorted(MAX_MODULUS_BITS))
def test_security_table_is_that_of_seal(degree):
    assert sealapi.CoeffModulus.MaxBitCount(degree, sealapi.SEC_LEVEL_TYPE.TC128) == MAX_MODULUS_BITS[degree]


def test_plaintext_modulus_is_the_smallest_that_holds_every_sum():
    found = smallest_batching_prime(4096, above=2**32)
    assert found == EXACT.plain_modulus
    assert found // 2 > MAX_SUM
    assert not [n for n in range(2**32 + 1, found, 2 * 4096) if is_prime(n)]


@pytest.mark.parametrize("clients", [2, 100, 1024, 1025, 65536])
def test_noise_of_all_clients_together_stays_below_half_a_step(clients):
    parameters = HeParameters.exact(max_clients=clients)
    assert 2 * 21.5 * clients * parameters.plain_modulus < math.prod(parameters.moduli)
    assert sum(parameters.modulus_bits) <= 109


def test_a_format_gives_its_number_of_clients():
    vector_format = VectorFormat(segments=(Segment(name="delta", length=3, max_abs=1.0),), max_clients=40)
    assert HeParameters.for_format(vector_format).max_clients == 40


@pytest.mark.parametrize("parameters", SETTINGS, ids=lambda parameters: f"{parameters.scheme}{parameters.modulus_bits}")
def test_parameters_survive_their_encoding(parameters):
    assert HeParameters.from_bytes(parameters.to_bytes(), floor=parameters) == parameters


def test_digest_is_the_published_one_and_names_every_field():
    assert EXACT.digest.hex() == "af718e5a57e72d23982e9c8fcf10db60699930b8ad9c43866193717f60fedba5"
    others = [
        replace(EXACT, max_clients=99),
        replace(EXACT, modulus_bits=(48, 50)),
        replace(EXACT, plain_modulus=smallest_batching_prime(4096, above=EXACT.plain_modulus)),
        replace(EXACT, ring_degree=8192, plain_modulus=smallest_batching_prime(8192, above=2**32)),
        *SETTINGS[1:],
    ]
    assert len({parameters.digest for parameters in [EXACT, *others]}) == len(others) + 1


def test_messages_have_the_stated_size():
    assert EXACT.values_per_chunk == 4096 - CHECK_SLOTS
    assert EXACT.chunk_bytes / EXACT.values_per_chunk < 12.02
    assert [EXACT.chunks(length) for length in (1, 4092, 4093, 8184, 8185)] == [1, 1, 2, 2, 3]
    assert COMMON.chunk_bytes == 2 * 8192 * (8 + 5)
    with pytest.raises(MisuseError, match="length = 0"):
        EXACT.chunks(0)


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"scheme": "BGV"}, "scheme = 'BGV'"),
        ({"ring_degree": 2048}, "ring_degree = 2048 must be one of"),
        ({"modulus_bits": (55, 55)}, "110 bits; 128 bits of security allow 109"),
        ({"modulus_bits": (48,)}, "two or more numbers"),
        ({"modulus_bits": (48, 61)}, "within"),
        ({"modulus_bits": ()}, "two or more numbers"),
        ({"scale_bits": 3}, "scale_bits = 3 must be 0"),
    ],
)
def test_insecure_or_contradictory_settings_are_refused(changes, reason):
    with pytest.raises(MisuseError, match=reason):
        replace(EXACT, **changes)


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"max_clients": 1}, "max_clients = 1 must lie in"),
        ({"max_clients": 2**17}, "must lie in"),
        ({"max_clients": 1500}, "more than the 1489 additions"),
        ({"modulus_bits": (40, 49)}, "more than the 5 additions"),
        ({"plain_modulus": smallest_batching_prime(4096, above=2**31)}, "must be a prime above"),
        ({"plain_modulus": 2**32 + 8192 + 1}, "must be a prime above"),
        ({"plain_modulus": smallest_batching_prime(4096, above=2**41)}, "must be a prime above"),
    ],
)
def test_settings_whose_sums_could_be_wrong_are_refused(changes, reason):
    with pytest.raises(RangeError, match=reason):
        replace(EXACT, **changes)


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"scale_bits": 0}, "leaves noise"),
        ({"scale_bits": 15}, "leaves noise"),
        ({"scale_bits": 61}, "leaves noise"),
        ({"scale_bits": 22}, "exceed modulus_bits"),
        ({"max_clients": 1025}, "at most 1024 for CKKS"),
    ],
)
def test_ckks_settings_whose_sums_do_not_round_are_refused(changes, reason):
    with pytest.raises(RangeError, match=reason):
        replace(APPROXIMATE, **changes)
    with pytest.raises(MisuseError, match="plain_modulus"):
        replace(APPROXIMATE, plain_modulus=EXACT.plain_modulus)
