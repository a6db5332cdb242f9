"""A masked upload looks like noise to a test that recognises the plain encoding, a short mask and a reused mask."""

import secrets

import numpy as np
import pytest
from scipy import stats

from privacy.fixed_point import Segment, VectorFormat, encode
from privacy.secagg.client import SecAggClient
from privacy.secagg.client_state import ClientFloors
from privacy.secagg.identity import Identity
from privacy.secagg.masks import apply_masks
from privacy.secagg.roster import Member, Roster
from privacy.secagg.server import SecAggServer
from privacy.streams import Keystream

LENGTH = 2**17
CONTEXT = bytes(range(32))
NAMES = ("east", "north", "west")


def byte_p_value(words):
    """Chi-square over the 256 values of all bytes."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    return float(stats.chisquare(counts).pvalue)


def bit_p_value(words):
    """Chi-square over how often each bit differs from the next higher one, and the highest from zero.

    Counting ones alone would miss an encoding that is symmetric about zero, where every bit is as often 0 as 1.
    """
    differences = words ^ (words >> np.uint32(1))
    ones = np.array([np.count_nonzero(differences & np.uint32(1 << bit)) for bit in range(32)])
    z = (ones - words.size / 2) / np.sqrt(words.size / 4)
    return float(stats.chi2.sf(np.sum(z**2), df=32))


def looks_uniform(words, *, level):
    return min(byte_p_value(words), bit_p_value(words)) > level


def plain_encoding():
    layout = VectorFormat(segments=(Segment(name="delta", length=LENGTH, max_abs=8.0),), max_clients=4)
    values = np.clip(np.random.default_rng(0).normal(size=LENGTH), -8, 8)
    return encode(values, vector_format=layout, rounding=Keystream(bytes(32)))


def masked(vector, *, context=CONTEXT, vector_index=0):
    """One upload with fixed seeds, so that this test gives the same numbers every time."""
    return apply_masks(
        vector,
        name="north",
        self_seed=b"n" * 32,
        pair_secrets={"east": b"e" * 32, "west": b"w" * 32},
        context=context,
        vector_index=vector_index,
    )


def test_masked_upload_is_uniform_and_the_plain_encoding_is_not():
    vector = plain_encoding()
    assert looks_uniform(masked(vector), level=1e-3)
    assert byte_p_value(vector) < 1e-12
    assert bit_p_value(vector) < 1e-12


@pytest.mark.parametrize("bits", [28, 31])
def test_masks_that_do_not_fill_the_modulus_are_recognised(bits):
    short = Keystream(b"k" * 32).words(LENGTH) & np.uint32(2**bits - 1)
    assert not looks_uniform(plain_encoding() + short, level=1e-6)


def test_zero_uploads_of_other_rounds_and_vectors_are_independent_and_of_the_same_are_not():
    zeros = np.zeros(LENGTH, dtype=np.uint32)
    first = masked(zeros)
    for other in (masked(zeros, context=bytes(32)), masked(zeros, vector_index=1)):
        assert looks_uniform(other, level=1e-3)
        assert looks_uniform(first - other, level=1e-3)
    assert not np.any(first - masked(zeros)), "the same context and index must give the same mask"


def test_zero_uploads_of_real_clients_are_uniform_and_independent_between_rounds():
    identities = {name: Identity.generate(name) for name in NAMES}
    members = tuple(Member(name, identities[name].public_key) for name in NAMES)
    roster = Roster(consortium="consortium", version=1, expires=2**40, members=members)
    session, floors = secrets.token_bytes(32), ClientFloors(min_cohort=3)
    clients = [
        SecAggClient.create(identity=identities[name], roster=roster, session=session, floors=floors) for name in NAMES
    ]
    server = SecAggServer(roster=roster, session=session)
    advertised = server.collect_advertisements([client.advertise_keys() for client in clients])
    encapsulated = server.collect_encapsulations([client.encapsulate_keys(advertised) for client in clients])
    confirmed = server.collect_confirmations([client.confirm_keys(encapsulated) for client in clients])
    for client in clients:
        client.accept_confirmations(confirmed)
    uploads = []
    for number in (1, 2):
        round_ = server.invite(round_number=number)
        round_.collect_shares([client.share(round_.invitation) for client in clients])
        announcement = round_.announce(model_hash=bytes(32), plan_hash=bytes(32), vector_length=LENGTH)
        for client in clients:
            assert client.accept(announcement, round_.shares) is None
        sent = [client.mask(np.zeros(LENGTH, dtype=np.uint32)) for client in clients]
        for header, vector in sent:
            round_.add_upload(header, vector)
        request = round_.request_agreement()
        round_.collect_agreements([client.agree(request) for client in clients])
        release = round_.request_unmask()
        assert not round_.finish([client.unmask(release) for client in clients]).total.any()
        uploads.append([vector for _, vector in sent])
    # Fresh entropy each time: the level keeps a false alarm below one run in a million.
    for first, second in zip(*uploads, strict=True):
        assert looks_uniform(first, level=1e-8)
        assert looks_uniform(first - second, level=1e-8)
    assert looks_uniform(uploads[0][0] + uploads[0][1], level=1e-8), "two of three uploads do not cancel"
