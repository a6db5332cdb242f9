"""Plain, masked, BFV and CKKS runs of the same updates give the same integers, and the same model bit for bit.

Every mode encodes the real-valued updates under a plan of its own, adds what it may add, decodes and takes the server's
step, over several rounds with sites that drop out. Small cohorts go through both protocols from their first message;
for up to a hundred sites the masks and the group key are used directly.
"""

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.update import rounding_stream
from privacy.fixed_point import decode_sum, encode
from privacy.he.evaluator import CiphertextSum
from privacy.he.key_holder import GroupKey
from privacy.he.protocol import run_encrypted_aggregation
from privacy.secagg.masks import apply_masks, remove_masks
from privacy.secagg.protocol import run_secure_aggregation
from privacy.secagg.threshold import default_threshold
from secfed.config import ProtectionConfig, TrainingPlan
from secfed.federation_config import FederationConfig
from secfed.modality_sets import with_sets
from secfed.parameters import ParameterLayout, TensorSpec, model_digest
from secfed.protected_vector import (
    BUFFER_LIMIT,
    METRIC_LIMITS,
    ModelUpdate,
    encryption_parameters,
    pack,
    unpack_sum,
    vector_format,
)
from secfed.server_optimizer import ServerState, step

METRIC_SLOTS = 1 + len(METRIC_LIMITS)
SET = (TensorSpec("scale", (2,), "parameter"), TensorSpec("mean", (1,), "buffer"), TensorSpec("root", (2,), "moment"))
SET_SLOTS = 2 * (1 + sum(spec.size for spec in SET))
BFV_CHUNK, CKKS_CHUNK = 4092, 2044
DENORMAL = 5e-324
PLAIN, MASKED = ProtectionConfig(mode="plain"), ProtectionConfig(mode="masked")
BFV, CKKS = (ProtectionConfig(mode="encrypted", scheme=scheme) for scheme in ("bfv", "ckks"))
MODES = {"plain": PLAIN, "masked": MASKED, "bfv": BFV, "ckks": CKKS}


def names(count):
    return [f"site-{index:03d}" for index in range(count)]


def layout_of(length, *, sets=False):
    """Parameters, buffers and moments whose vector, with the slots of the metrics, has this many entries."""
    buffers, moments = 2, 3
    others = METRIC_SLOTS + buffers + moments + (SET_SLOTS if sets else 0)
    sizes = {"parameter": length - others, "buffer": buffers, "moment": moments}
    layout = ParameterLayout(tuple(TensorSpec(kind, (size,), kind) for kind, size in sizes.items()))
    return with_sets(layout, SET) if sets else layout


@dataclass(frozen=True, kw_only=True)
class Case:
    """`updates` has one real-valued update per site for each round, `absent` who drops out of it."""

    layout: ParameterLayout
    federation: FederationConfig
    updates: list[dict[str, ModelUpdate]]
    absent: list[list[str]]

    @property
    def sites(self):
        return sorted(self.updates[0])

    def survivors(self, number):
        return [name for name in self.sites if name not in self.absent[number]]

    def plan(self, protection):
        return TrainingPlan(federation=self.federation, protection=protection)

    def slots(self, protection):
        return vector_format(self.layout, self.plan(protection), cohort_size=len(self.sites))

    def encoded(self, number, protection):
        """Every site's integers of one round, as its own library makes them under this mode's plan."""
        plan, slots = self.plan(protection), self.slots(protection)
        return {
            name: encode(
                pack(update, slots=slots),
                vector_format=slots,
                rounding=rounding_stream(name.encode().ljust(32), plan=plan, server_round=number + 1),
            )
            for name, update in self.updates[number].items()
        }

    def model_of(self, sums, protection):
        """The state after the server's steps on these sums, each decoded and unpacked."""
        slots = self.slots(protection)
        initial = np.linspace(-1, 1, self.layout.size, dtype=np.float32)
        state = ServerState.initial(initial, self.layout)
        for total in sums:
            average = unpack_sum(decode_sum(total, vector_format=slots), slots=slots)
            state = step(state, average, federation=self.federation, layout=self.layout)
        return state


def special_values(limit, quantum, generator):
    """The ends of the range, nothing, next to nothing, and what lies on and beside the limits of rounding."""
    steps = generator.integers(-1000, 1000, size=4) * quantum
    ends = [limit, np.nextafter(limit, 0), limit - quantum / 2, limit - quantum]
    little = [0.0, DENORMAL, 1e-310, np.finfo(np.float64).tiny, quantum / 2, np.nextafter(quantum, 1), quantum]
    return np.clip([*ends, *little, *steps, *(steps + quantum / 2), *generator.uniform(0, limit, 3)], -limit, limit)


def drawn(kind, size, *, limit, quantum, generator):
    special = special_values(limit, quantum, generator)
    match kind:
        case "highest" | "lowest":
            return np.full(size, limit if kind == "highest" else -limit)
        case "zero":
            return np.zeros(size)
        case "denormal":
            return generator.choice([-DENORMAL, DENORMAL], size)
        case "special":
            return generator.choice(special, size) * generator.choice([-1.0, 1.0], size)
    return generator.uniform(-limit, limit, size)


def update_of(kind, *, layout, slots, plan, generator, heavy):
    parts = {
        name: drawn(kind, size, limit=limit, quantum=limit / slots.max_integer, generator=generator)
        for name, size, limit in (
            ("delta", layout.num_parameters, plan.federation.clip_norm),
            ("buffer_delta", layout.num_buffers, BUFFER_LIMIT),
            ("moments", layout.num_moments, plan.training.gradient_clip_norm),
        )
    }
    cases = 1024.0 if heavy else float(generator.integers(0, 4))
    own = {}
    if layout.modalities:
        limits = (plan.federation.clip_norm, BUFFER_LIMIT, plan.training.gradient_clip_norm)
        drawn_set = [
            drawn(kind, spec.size, limit=limit, quantum=limit / slots.max_integer, generator=generator)
            for spec, limit in zip(SET, limits, strict=True)
        ]
        own = {str(generator.choice(layout.modalities)): np.concatenate(drawn_set)}
    return ModelUpdate(
        **parts,
        sets=own,
        weight=1.0 if heavy else float(generator.integers(1, 1001)) / 1000,
        train_loss=1e9 if heavy else float(generator.uniform(0, 5)),
        validation={"validation_dice_ct": cases * float(generator.uniform()), "validation_cases_ct": cases},
    )


def case_of(*, clients, length, kinds, optimizer="fedavgm", seed=0, heavy=True, absent=(), sets=False):
    """One round per kind of value; `heavy` sites have the largest weights and metrics too.

    With `sets` every site fills that of a modality in each round, some of one and some of the other, or all of one.
    """
    federation = FederationConfig(
        server_optimizer=optimizer, server_momentum=0.0 if optimizer == "fedavg" else 0.9, server_learning_rate=0.7
    )
    layout, plan = layout_of(length, sets=sets), TrainingPlan(federation=federation)
    slots = vector_format(layout, plan, cohort_size=clients)
    generator = np.random.Generator(np.random.PCG64(seed))
    rounds = [
        {
            name: update_of(kind, layout=layout, slots=slots, plan=plan, generator=generator, heavy=heavy)
            for name in names(clients)
        }
        for kind in kinds
    ]
    gone = [sorted(found) for found in absent] or [[]] * len(rounds)
    return Case(layout=layout, federation=federation, updates=rounds, absent=gone)


@st.composite
def cases(draw, *, clients, lengths):
    """Two or three rounds; as many sites stay in each as both protocols need at least."""
    count = draw(clients)
    kinds = st.sampled_from(["highest", "lowest", "zero", "denormal", "special", "special", "uniform"])
    chosen = draw(st.lists(kinds, min_size=2, max_size=3))
    spare = count - default_threshold(count)
    absent = [draw(st.sets(st.sampled_from(names(count)), max_size=spare)) for _ in chosen]
    return case_of(
        clients=count,
        length=draw(lengths),
        kinds=chosen,
        optimizer=draw(st.sampled_from(["fedavg", "fedavgm", "fedadam"])),
        sets=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32)),
        heavy=draw(st.booleans()),
        absent=absent,
    )


def plain_sums(case):
    """What an aggregator that sees every update adds, modulo 2^32."""
    sums = []
    for number in range(len(case.updates)):
        encoded = case.encoded(number, PLAIN)
        total = np.zeros(case.slots(PLAIN).length, dtype=np.uint32)
        for name in case.survivors(number):
            total += encoded[name]
        sums.append(total)
    return sums


def masked_sums(case):
    """Masks alone: those of survivors and of pairs with a dropped site are taken off as the aggregator does."""
    sites = case.sites
    pairs = {(a, b): f"{a} and {b}".encode().ljust(32) for a, b in itertools.combinations(sites, 2)}
    pairs |= {(b, a): secret for (a, b), secret in pairs.items()}
    seeds = {name: f"own {name}".encode().ljust(32) for name in sites}
    sums = []
    for number in range(len(case.updates)):
        encoded, survivors, context = case.encoded(number, MASKED), case.survivors(number), bytes([number])
        total = np.zeros(case.slots(MASKED).length, dtype=np.uint32)
        for name in survivors:
            peers = {peer: pairs[name, peer] for peer in sites if peer != name}
            masked = apply_masks(encoded[name], name=name, self_seed=seeds[name], pair_secrets=peers, context=context)
            assert not np.array_equal(masked, encoded[name])
            total += masked
        remove_masks(
            total,
            self_seeds=[seeds[name] for name in survivors],
            pair_secrets={(one, gone): pairs[one, gone] for one in survivors for gone in case.absent[number]},
            context=context,
        )
        sums.append(total)
    return sums


@cache
def group_key(parameters):
    return GroupKey.generate(parameters)


def encrypted_sums(case, protection):
    """Each survivor's ciphertext, added without a key, then opened within what so many sites can reach."""
    slots = case.slots(protection)
    key = group_key(encryption_parameters(slots, protection))
    sums = []
    for number in range(len(case.updates)):
        encoded, survivors, context = case.encoded(number, protection), case.survivors(number), bytes([1, number])
        added = CiphertextSum.create(parameters=key.parameters, fingerprint=key.fingerprint, length=slots.length)
        for name in survivors:
            added.add(key.encrypt(encoded[name], contributor=name, context=context), contributor=name)
        sums.append(
            key.decrypt_sum(
                added.total(),
                length=slots.length,
                contributors=added.contributors,
                context=context,
                max_abs=len(survivors) * slots.max_integer,
            )
        )
    return sums


def masked_protocol_sums(case):
    """Secure aggregation from the first key to the last share, a session for each round."""
    sums = []
    for number in range(len(case.updates)):
        found = run_secure_aggregation(
            case.encoded(number, MASKED), silent_from=dict.fromkeys(case.absent[number], "upload")
        )
        assert list(found.survivors) == case.survivors(number)
        sums.append(found.total)
    return sums


def encrypted_protocol_sums(case):
    """Encrypted aggregation from the first key to the last model; absent sites upload too late."""
    rounds = range(len(case.updates))
    found = run_encrypted_aggregation(
        [case.encoded(number, BFV) for number in rounds],
        late={number + 1: case.absent[number] for number in rounds},
    )
    assert [list(contributors) for contributors in found.contributors] == [case.survivors(number) for number in rounds]
    assert len(set(found.models.values())) == 1
    return list(found.sums)


def check(case, **found):
    """All modes' sums are the exact sums of the integers, and all their models are one."""
    for number in range(len(case.updates)):
        encoded = case.encoded(number, PLAIN)
        exact = sum(encoded[name].view(np.int32).astype(np.int64) for name in case.survivors(number))
        for mode, sums in found.items():
            assert sums[number].dtype == np.uint32
            assert np.array_equal(sums[number].view(np.int32), exact), (mode, number)
    states = {mode: case.model_of(sums, MODES[mode]) for mode, sums in found.items()}
    first = states.pop("plain")
    assert np.isfinite(first.model).all()
    for mode, state in states.items():
        assert state.model.dtype == np.float32
        assert state.model.tobytes() == first.model.tobytes(), mode
        assert state.momentum.tobytes() == first.momentum.tobytes(), mode
        assert (state.second_moment is None) == (first.second_moment is None), mode
        if first.second_moment is not None:
            assert state.second_moment.tobytes() == first.second_moment.tobytes(), mode
        assert model_digest(state.model, case.layout) == model_digest(first.model, case.layout)


SHORT = st.integers(METRIC_SLOTS + SET_SLOTS + 6, METRIC_SLOTS + SET_SLOTS + 20)


@settings(max_examples=12)
@given(case=cases(clients=st.integers(2, 7), lengths=SHORT))
def test_both_protocols_and_plain_addition_end_on_one_model(case):
    check(
        case,
        plain=plain_sums(case),
        masked=masked_protocol_sums(case),
        bfv=encrypted_protocol_sums(case),
        ckks=encrypted_sums(case, CKKS),
    )


def check_without_protocols(case):
    check(
        case,
        plain=plain_sums(case),
        masked=masked_sums(case),
        bfv=encrypted_sums(case, BFV),
        ckks=encrypted_sums(case, CKKS),
    )


@settings(max_examples=15)
@given(case=cases(clients=st.integers(2, 30) | st.integers(2, 100), lengths=SHORT))
def test_all_modes_end_on_one_model_for_up_to_a_hundred_sites(case):
    check_without_protocols(case)


@settings(max_examples=15)
@given(
    case=cases(
        clients=st.integers(2, 5),
        lengths=st.sampled_from([*(CKKS_CHUNK + i for i in (-1, 0, 1)), *(BFV_CHUNK + i for i in (-1, 0, 1))]),
    )
)
def test_all_modes_end_on_one_model_around_the_end_of_a_ciphertext(case):
    check_without_protocols(case)


@pytest.mark.parametrize("clients", [2, 3, 100])
def test_everybody_at_the_same_end_of_the_range_reaches_the_largest_sum_in_every_mode(clients):
    case = case_of(clients=clients, length=METRIC_SLOTS + 8, kinds=["highest", "lowest"])
    check_without_protocols(case)
    slots = case.slots(PLAIN)
    for total, sign in zip(plain_sums(case), (1, -1), strict=True):
        entries = total.view(np.int32)[slots.slice_of("delta")]
        assert (entries == sign * clients * slots.max_integer).all()
        assert 2**31 - clients <= abs(int(entries[0])) < 2**31


def test_the_protocols_carry_the_ends_of_the_range_and_a_full_ciphertext_and_one_entry_more():
    for length in (BFV_CHUNK, BFV_CHUNK + 1):
        absent = [["site-003"], ["site-001"]]
        case = case_of(clients=4, length=length, kinds=["highest", "lowest"], absent=absent)
        check(case, plain=plain_sums(case), masked=masked_protocol_sums(case), bfv=encrypted_protocol_sums(case))


def test_the_chunks_of_both_schemes_are_as_long_as_these_tests_take_them_to_be():
    slots = case_of(clients=2, length=20, kinds=["zero"]).slots(PLAIN)
    assert encryption_parameters(slots, BFV).values_per_chunk == BFV_CHUNK
    assert encryption_parameters(slots, CKKS).values_per_chunk == CKKS_CHUNK
