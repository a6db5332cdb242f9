"""The aggregator's side of one encrypted round, and of the end of a run: it adds what it cannot read.

Run by the untrusted aggregator, through `privacy.he.group_server`, whose docstring lists the order of calls. An input
that is refused leaves the sum as it was; one that arrives after `finish` is discarded.

It does not protect a run against an aggregator that leaves sites out: a round goes on without them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from privacy.errors import HostileInputError, MisuseError, TooFewSurvivorsError
from privacy.he.evaluator import CiphertextSum
from privacy.he.layout import message_root
from privacy.he.messages import EncryptedInput, FinalModel
from privacy.he.parameters import HeParameters
from privacy.he.requests import EncryptedAnnouncement, PreviousRound
from privacy.secagg.admission import UNKNOWN_SENDER, admit_each, require_first
from privacy.secagg.envelope import Admitted, digest_of_set, open_envelope
from privacy.secagg.roster import Roster


@dataclass(frozen=True, kw_only=True)
class PublishedSum:
    """A round's encrypted sum as sites are to step on it; an aggregator that restarts needs this and no key.

    `dropped` were invited and uploaded nothing in time; `excluded` gives the reason for every refused message by
    sender.
    """

    announcement: bytes
    headers: tuple[bytes, ...] = field(repr=False)
    inputs_digest: bytes
    total: bytes = field(repr=False)
    root: bytes
    contributors: tuple[str, ...]
    dropped: tuple[str, ...]
    excluded: Mapping[str, str]

    @property
    def previous_round(self) -> bytes:
        """What travels beside the next announcement."""
        return PreviousRound(announcement=self.announcement, headers=self.headers).to_bytes()


class EncryptedRound:
    """One round; build it with `GroupServer.announce`.

    It keeps ONE accumulator: ciphertexts are added as they arrive and are not stored. Inputs on another model than the
    first one are not added; since a sum needs more than half of the invited, at most one model can have one.
    """

    def __init__(
        self, announced: EncryptedAnnouncement, *, roster: Roster, parameters: HeParameters, follows: bytes
    ) -> None:
        self._announced, self._roster, self._follows = announced, roster, follows
        self._sum = CiphertextSum.create(
            parameters=parameters, fingerprint=announced.fingerprint, length=announced.vector_length
        )
        self._headers: dict[str, bytes] = {}
        self._digests: dict[str, bytes] = {}
        self._tags: dict[str, bytes] = {}
        self._roots: set[bytes] = set()
        self._finished = False
        self.excluded: dict[str, str] = {}

    @property
    def announcement(self) -> bytes:
        """E0, for every invited site; from server round 2 on with `PublishedSum.previous_round` and the sum."""
        return self._announced.to_bytes()

    @property
    def invited(self) -> tuple[str, ...]:
        """Who may upload, sorted by name."""
        return self._announced.invited

    @property
    def minimum(self) -> int:
        """How many must upload for a sum."""
        return self._announced.minimum

    @property
    def uploaded(self) -> tuple[str, ...]:
        """Whose input is in the sum so far, sorted by name."""
        return tuple(sorted(self._headers))

    @property
    def headers(self) -> tuple[bytes, ...]:
        """The E1 of these sites, in the same order."""
        return tuple(self._headers[name] for name in self.uploaded)

    @property
    def models(self) -> tuple[tuple[str, ...], ...]:
        """Who uploaded on the same model, the largest group first: for a rerun, invite the first group."""
        groups: dict[bytes, list[str]] = {}
        for name in sorted(self._tags):
            groups.setdefault(self._tags[name], []).append(name)
        return tuple(sorted(map(tuple, groups.values()), key=lambda names: (-len(names), names)))

    def add_input(self, header: bytes, ciphertext: bytes) -> str:
        """E1 of one site: add its ciphertext to the sum and return its name.

        Raises:
            HostileInputError: refused, late, repeated, or made on another model; the sum is unchanged, and the sender
                stands in `excluded` where it is known.
        """
        try:
            return self._add(header, ciphertext)
        except HostileInputError as error:
            # A repeated input is no reason to doubt the one that counts.
            if error.party not in self._headers:
                self.excluded[error.party or UNKNOWN_SENDER] = str(error)
            raise

    def finish(self) -> PublishedSum:
        """The encrypted sum over whoever uploaded.

        Raises:
            TooFewSurvivorsError: fewer inputs on one model than the announced minimum; announce the round again.
            MisuseError: the round is finished.
        """
        if self._finished:
            raise MisuseError("the round is finished")
        self._finished = True
        require_enough(len(self._headers), self._announced.minimum, what="sites uploaded on one model")
        total = self._sum.total()
        contributors = self.uploaded
        silent = set(self.invited) - set(contributors) - set(self.excluded)
        return PublishedSum(
            announcement=self.announcement,
            headers=self.headers,
            inputs_digest=digest_of_set("E1", context=self._announced.context, digests=self._digests),
            total=total,
            root=message_root(total),
            contributors=contributors,
            dropped=tuple(sorted(silent)),
            excluded=dict(self.excluded),
        )

    def _add(self, header: bytes, ciphertext: bytes) -> str:
        found = open_envelope(header, EncryptedInput, context=self._announced.context, roster=self._roster)
        sender, body = found.sender, found.body
        if self._finished:
            raise HostileInputError("the input arrived after the sum was formed: discarded", party=sender)
        require_first(sender, self._headers)
        if sender not in self.invited:
            raise HostileInputError("was not invited to this round", party=sender)
        if found.previous != self._follows or body.sum_root != self._announced.sum_root:
            raise HostileInputError("stepped on another sum than was announced", party=sender)
        if len(ciphertext) != body.length or _root_of(ciphertext) != body.root:
            raise HostileInputError("the ciphertext is not the one that the header signs", party=sender)
        if body.root in self._roots:
            raise HostileInputError("sent the ciphertext of another site", party=sender)
        self._tags[sender] = body.model_tag
        if any(self._tags[name] != body.model_tag for name in self._headers):
            raise HostileInputError("stands on another model than the first site that uploaded", party=sender)
        try:
            self._sum.add(ciphertext, contributor=sender)
        except HostileInputError:
            del self._tags[sender]
            raise
        self._headers[sender], self._digests[sender] = header, found.digest
        self._roots.add(body.root)
        return sender


class EncryptedEnd:
    """The end of a run; build it with `GroupServer.announce_end`."""

    def __init__(self, announced: EncryptedAnnouncement, *, roster: Roster, follows: bytes) -> None:
        self._announced, self._roster, self._follows = announced, roster, follows
        self.excluded: dict[str, str] = {}

    @property
    def announcement(self) -> bytes:
        """E0, for every invited site, with `PublishedSum.previous_round` and the sum."""
        return self._announced.to_bytes()

    def collect(self, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """E2 of all sites; returns what every sender receives.

        Raises:
            TooFewSurvivorsError: fewer than the announced minimum ended on one model.
        """

        def check(found: Admitted[FinalModel]) -> None:
            if found.sender not in self._announced.invited:
                raise HostileInputError("was not invited to the end", party=found.sender)
            if found.previous != self._follows or found.body.sum_root != self._announced.sum_root:
                raise HostileInputError("stepped on another sum than was announced", party=found.sender)

        admitted = admit_each(
            messages,
            FinalModel,
            context=self._announced.context,
            roster=self._roster,
            check=check,
            excluded=self.excluded,
        )
        count = Counter(found.body.model_tag for found, _ in admitted.values())
        tag, _ = max(count.items(), key=lambda item: (item[1], item[0]), default=(b"", 0))
        for name in [name for name, (found, _) in admitted.items() if found.body.model_tag != tag]:
            self.excluded[name] = f"{name}: ends with another model than most sites"
            del admitted[name]
        require_enough(len(admitted), self._announced.minimum, what="sites ended the run on one model")
        return tuple(admitted[name][1] for name in sorted(admitted))


def _root_of(ciphertext: bytes) -> bytes | None:
    """The root of a ciphertext; None where no message has that size."""
    try:
        return message_root(ciphertext)
    except HostileInputError:
        return None


def require_enough(count: int, minimum: int, *, what: str) -> None:
    """Raises TooFewSurvivorsError below the minimum."""
    if count < minimum:
        raise TooFewSurvivorsError(f"{count} {what}, at least {minimum} are needed")
