"""Deliberately flawed members of encrypted runs: the real ones with one defence taken out each (see flawed_secagg)."""

import dataclasses
import hmac

import numpy as np
from flawed_secagg import Flaw, open_unverified

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError
from privacy.he import group_round, member, member_round, member_setup
from privacy.he.key_holder import GroupKey
from privacy.he.library import SealKey
from privacy.he.member import GroupMember
from privacy.he.messages import SnapshotHeader, group_context
from privacy.he.parameters import CHECK_SLOTS, HE_SUITE, MAX_SUM, HeParameters
from secfed.audit.lattice import bfv_plaintext, bfv_scaled, ckks_real_slots, ring
from secfed.audit.target import Target

honest_encrypt, honest_decrypt = SealKey.encrypt, SealKey.decrypt
honest_takeover, honest_open = member_setup._taken_over, member_setup.open_from_peer
honest_add = group_round.EncryptedRound._add
honest_generate = GroupKey.generate.__func__


class StoresLateMember(GroupMember):
    """Stores its state after the upload was sent, so that a restart loses it."""

    def encrypt(self, words):
        self._stale = super().to_bytes()
        return super().encrypt(words)

    def to_bytes(self):
        return self._stale if self.stage == "UPLOADED" and hasattr(self, "_stale") else super().to_bytes()


class ForgetfulMember(GroupMember):
    """Goes back to an earlier stage when the aggregator asks for its step again."""

    def _require(self, *stages):
        kept = self.__dict__.setdefault("_kept", {})
        kept[self.stage] = self._state
        if self.stage not in stages:
            self._state = next((kept[stage] for stage in stages if stage in kept), self._state)
        super()._require(*stages)


class GoesBackMember(GroupMember):
    """Steps on any sum of a server round that it has stepped on before."""

    def record_model(self, model_hash):
        self._earlier = (*getattr(self, "_earlier", ()), self._state)
        super().record_model(model_hash)

    def accept(self, announcement, **beside):
        current = self._state
        session = {name: getattr(current, name) for name in ("session", "members", "own_digest", "last_round")}
        for state in (current, *reversed(getattr(self, "_earlier", ()))):
            self._state = state if state is current else dataclasses.replace(state, stage="READY", **session)
            try:
                return super().accept(announcement, **beside)
            except HostileInputError as error:
                refusal = error
        self._state = current
        raise refusal


class AnyLengthMember(GroupMember):
    """Uploads as many entries as are announced."""

    def encrypt(self, words):
        return super().encrypt(np.resize(words, self.announcement.vector_length))


def open_chunk_without_checks(self, residues, *, checks, pad, max_abs):
    return np.clip(self._seal_key.decrypt(residues)[:-CHECK_SLOTS], -MAX_SUM, MAX_SUM)


def no_check(*_, **__):
    """Nothing is refused."""


def encrypt_with_one_noise(self, slots):
    """The same encryption of zero under every message."""
    if not hasattr(self, "_noise"):
        self._noise = honest_encrypt(self, np.zeros_like(slots))
    return _added(self._noise, slots, self._parameters)


def encrypt_without_noise(self, slots):
    """The message itself, with nothing that hides it."""
    return _added([np.zeros((1, slots.size), dtype=np.uint64)] * 2, slots, self._parameters)


def _added(residues, slots, parameters):
    scaled = bfv_scaled(bfv_plaintext(slots.astype(object), parameters=parameters), parameters=parameters)
    c0 = (residues[0][0].astype(object) + scaled) % parameters.moduli[0]
    return [c0.astype(np.uint64)[None], residues[1]]


def decrypt_without_rounding(self, residues):
    """What a CKKS library gives, noise included."""
    parameters = self._parameters
    if parameters.scheme == "BFV":
        return honest_decrypt(self, residues)
    field = ring(parameters.moduli[0], parameters.ring_degree)
    c0, c1 = (residues[place].astype(object) for place in (0, len(parameters.moduli)))
    plaintext = field.coefficients((c0 + c1 * self.residues()[0].astype(object)) % field.prime)
    return ckks_real_slots(plaintext, scale=2.0**parameters.scale_bits)


def always_the_same_key(parameters, kept={}):  # noqa: B006 - the flaw is that it remembers
    return kept.setdefault(parameters, honest_generate(GroupKey, parameters))


def any_key(offers, site, channels, sealed_keys, fingerprint):
    """A key, whatever was sealed and signed."""
    try:
        return honest_takeover(offers, site, channels, sealed_keys, fingerprint)
    except HostileInputError:
        return GroupKey.generate(site.parameters)


def opened_whatever(sealed, wrap, *, parameters, **facts):
    """A key, whether or not the wrap opens."""
    try:
        return honest_open(sealed, wrap, parameters=parameters, **facts)
    except HostileInputError:
        return GroupKey.generate(parameters)


def public_tag(group_key, *, run, completed, model_hash):
    return hmac.digest(run, to_cbor([HE_SUITE, "model tag", completed, model_hash]), "sha256")


def any_snapshot(state, site, header):
    context = group_context(state.run, fingerprint=state.fingerprint)
    return open_unverified(header, SnapshotHeader, context=context, roster=site.seat.roster)


def parameters_as_offered(offered, floor):
    fields = from_cbor(offered)
    found = object.__new__(HeParameters)
    for field in dataclasses.fields(HeParameters):
        value = fields[field.name]
        object.__setattr__(found, field.name, tuple(value) if isinstance(value, list) else value)
    return found


def add_and_name_nobody(self, header, ciphertext):
    """What does not fit is dropped, and nobody hears of it."""
    try:
        return honest_add(self, header, ciphertext)
    except HostileInputError as error:
        return error.party


def audit_of_hashes_alone(run):
    """Looks whether every upload that a header signs is there, and adds nothing."""
    return tuple(f"{number}: an upload is missing" for number, data in run.uploads.items() if not data)


_BLIND = ((member_round, "_check_headers", no_check), (member_round, "_require_own_model", no_check))
_NO_CHECK_SLOTS = ((GroupKey, "_open_chunk", open_chunk_without_checks),)

STORES_LATE = Flaw("stores its state late", Target(member=StoresLateMember))
FORGETFUL = Flaw("forgets what it answered", Target(member=ForgetfulMember))
GOES_BACK = Flaw("steps on any sum of a round", Target(member=GoesBackMember))
ANY_LENGTH = Flaw("uploads any length", Target(member=AnyLengthMember))
ANY_PARAMETERS = Flaw("takes the parameters that are offered", Target(read_parameters=parameters_as_offered))
NO_CHECK_SLOTS = Flaw("has no check slots", replaced=_NO_CHECK_SLOTS)
BLIND = Flaw("looks at no header", replaced=_BLIND)
BELIEVES_ALL = Flaw("looks at no header and has no check slots", replaced=(*_BLIND, *_NO_CHECK_SLOTS))
ANY_ROUND = Flaw("takes any announcement", replaced=((member_round, "_check_announcement", no_check),))
ONE_NOISE = Flaw("encrypts with the same noise", replaced=((SealKey, "encrypt", encrypt_with_one_noise),))
NO_NOISE = Flaw("encrypts with no noise", replaced=((SealKey, "encrypt", encrypt_without_noise),))
RAW_DECRYPTIONS = Flaw("decrypts without rounding", replaced=((SealKey, "decrypt", decrypt_without_rounding),))
CONSTANT_KEY = Flaw("makes the same key again", replaced=((GroupKey, "generate", staticmethod(always_the_same_key)),))
ANY_KEY = Flaw("takes whatever key arrives", replaced=((member_setup, "_taken_over", any_key),))
OPENS_ANYTHING = Flaw("does not notice a bad wrap", replaced=((member_setup, "open_from_peer", opened_whatever),))
BLIND_SERVER = Flaw("names nobody", replaced=((group_round.EncryptedRound, "_add", add_and_name_nobody),))
ENDLESS_TRIES = Flaw("counts no failed sums", replaced=((member, "MAX_FAILED_SUMS", 10**9),))
PUBLIC_TAGS = Flaw(
    "tags models under a public key",
    replaced=((member_round, "model_tag", public_tag), (member_setup, "model_tag", public_tag)),
)
ANY_SNAPSHOT = Flaw("takes any snapshot", replaced=((member_round, "_admit_snapshot", any_snapshot),))
HASHES_ALONE = Flaw("audits hashes alone", Target(audit_encrypted=audit_of_hashes_alone))
