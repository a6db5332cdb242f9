"""What a client has helped to open, and which further sums it may help to open.

Run by clients, before they agree to a survivor set (R3). Two sums over the same inputs whose survivors differ by one
site give away that site. Two rules:

- One sum per model. A second sum over the same model is opened only for the same survivors, or without clients that
  are proven to have cheated in the first (privacy.secagg.blame).
- A floor on change (`min_cohort_change`, off at 1). The survivors of any two opened sums are the same, or differ by at
  least that many sites, whatever the model.

A client remembers what it helped to unmask (R4). That is enough: any two sets of t clients share an honest one while
2 t > n + n_c, so that a second set never gets t agreements.

It does not protect against two models that differ by a hair: only the second rule, or differential privacy, does. Nor
does the second rule bound what many sums say together.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from privacy.cbor import from_cbor, to_cbor
from privacy.errors import HostileInputError, MisuseError, OpenedBeforeError
from privacy.secagg.parsing import parse_name
from privacy.streams import SUITE

SecondSum: TypeAlias = Literal["same survivors", "any"]
_DIGEST = 32
_MAX_RECORD_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class OpenedSums:
    """Every sum that this client helped to open.

    `records` holds 64 bytes a model, oldest first: its hash and a digest of the survivors. The latest sum is also kept
    in full, and so is every distinct survivor set (names joined by commas) where a floor on change needs them.
    """

    records: bytes = b""
    last_model: bytes = b""
    last_context: bytes = b""
    last_survivors: tuple[str, ...] = ()
    survivor_sets: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The record as a site stores it; it holds no secret."""
        return to_cbor(
            [
                SUITE,
                "opened sums",
                self.records,
                self.last_model,
                self.last_context,
                self.last_survivors,
                self.survivor_sets,
            ]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "OpenedSums":
        """The record from the site's own file.

        Raises:
            MisuseError: the bytes are damaged or of another version.
        """
        try:
            match from_cbor(data, max_bytes=_MAX_RECORD_BYTES):
                case [
                    str(suite),
                    "opened sums",
                    bytes(records),
                    bytes(model),
                    bytes(context),
                    list(last),
                    list(sets),
                ] if (
                    suite == SUITE
                    and len(records) % (2 * _DIGEST) == 0
                    and len(texts := tuple(item for item in sets if isinstance(item, str))) == len(sets)
                ):
                    return cls(
                        records=records,
                        last_model=model,
                        last_context=context,
                        last_survivors=tuple(parse_name(name) for name in last),
                        survivor_sets=texts,
                    )
        except HostileInputError as error:
            raise MisuseError(f"the record of opened sums cannot be read: {error}") from error
        raise MisuseError(f"the record of opened sums is damaged or not of suite {SUITE!r}")

    def check(
        self,
        survivors: Collection[str],
        *,
        model_hash: bytes,
        convicted: frozenset[str],
        second_sum: SecondSum,
        min_cohort_change: int,
    ) -> None:
        """Whether one more sum may be opened; `convicted` cheated in the round that `last_context` names.

        Raises:
            OpenedBeforeError: its difference to an opened sum would say too much.
        """
        found = self._survivors_of(model_hash)
        if second_sum == "same survivors" and found is not None and found != _digest(survivors):
            gone = set(self.last_survivors) - set(survivors)
            rerun = self.last_model == model_hash and set(survivors) <= set(self.last_survivors) and gone <= convicted
            if not rerun:
                raise OpenedBeforeError(
                    f"a sum over this model was opened before, for other survivors than {sorted(survivors)}: "
                    "the difference of the two would single sites out"
                )
        for joined in self.survivor_sets:
            change = (set(joined.split(",")) ^ set(survivors)) - convicted
            if 0 < len(change) < min_cohort_change:
                raise OpenedBeforeError(
                    f"the survivors differ by {sorted(change)} from those of an opened sum; this site accepts the "
                    f"same survivors, or a change of at least min_cohort_change = {min_cohort_change}"
                )

    def including(
        self, survivors: Collection[str], *, model_hash: bytes, context: bytes, min_cohort_change: int
    ) -> "OpenedSums":
        """The record after one more sum."""
        kept = b"".join(
            self.records[start : start + 2 * _DIGEST]
            for start in range(0, len(self.records), 2 * _DIGEST)
            if self.records[start : start + _DIGEST] != model_hash
        )
        joined = ",".join(sorted(survivors))
        sets = self.survivor_sets
        if min_cohort_change > 1 and joined not in sets:
            sets = (*sets, joined)
        return OpenedSums(
            records=kept + model_hash + _digest(survivors),
            last_model=model_hash,
            last_context=context,
            last_survivors=tuple(sorted(survivors)),
            survivor_sets=sets,
        )

    def without(self, convicted: frozenset[str]) -> "OpenedSums":
        """The record once clients are proven to have cheated: the floor on change counts them in no sum any more."""
        kept = (",".join(name for name in joined.split(",") if name not in convicted) for joined in self.survivor_sets)
        return replace(self, survivor_sets=tuple(dict.fromkeys(kept)))

    def _survivors_of(self, model_hash: bytes) -> bytes | None:
        for start in range(0, len(self.records), 2 * _DIGEST):
            if self.records[start : start + _DIGEST] == model_hash:
                return self.records[start + _DIGEST : start + 2 * _DIGEST]
        return None


NOTHING_OPENED = OpenedSums()


def _digest(survivors: Collection[str]) -> bytes:
    return hashlib.sha256(to_cbor([SUITE, "survivors", sorted(survivors)])).digest()
