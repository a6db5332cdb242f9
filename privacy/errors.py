"""The exceptions of the privacy mechanisms, in two families that never mix.

    PrivacyError
    ├── MisuseError (also a ValueError)   the caller broke a rule: a wrong argument, a wrong order
    │   └── RangeError                    a value does not fit the fixed-point range: refused, never wrapped
    └── HostileInputError                 bytes from outside are not what an honest party would send
        ├── TooFewSurvivorsError          fewer parties than the threshold answered: nothing is unmasked
        ├── OpenedBeforeError             one more sum would say too much beside those that were opened before
        ├── ProvenCheatingError           signed messages contradict each other, and anyone can check that they do
        └── GroupKeyLostError, StaleMemberError   of encrypted runs: privacy.he.errors

Malformed, expired and forged input raise the same class, so that an attacker cannot tell them apart from the outside;
the message is for the local log only and never carries a secret.
"""


class PrivacyError(Exception):
    """Base of everything that this package raises on purpose."""


class MisuseError(PrivacyError, ValueError):
    """The calling code passed an argument or chose an order that no honest program may use."""


class RangeError(MisuseError):
    """A value lies outside the range that the fixed-point analysis covers."""


class HostileInputError(PrivacyError):
    """Bytes from another party were refused; `party` names it where it is known, `reason` does not repeat its name."""

    def __init__(self, reason: str, *, party: str | None = None) -> None:
        super().__init__(reason if party is None else f"{party}: {reason}")
        self.reason = reason
        self.party = party


class TooFewSurvivorsError(HostileInputError):
    """Fewer parties than the threshold answered a stage, so the round ends and nothing is unmasked."""


class OpenedBeforeError(HostileInputError):
    """The difference of the asked sum and one that this party helped to open would be of too few parties."""


class ProvenCheatingError(HostileInputError):
    """`party` signed messages that contradict each other; `evidence` lets anyone check it (privacy.secagg.blame)."""

    def __init__(self, reason: str, *, party: str, evidence: bytes) -> None:
        super().__init__(reason, party=party)
        self.evidence = evidence
