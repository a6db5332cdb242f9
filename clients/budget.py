"""A site's privacy budget for one data set: paid before patients are sampled, whatever the run says (privacy.ledger).

Runs at a site. The cap comes from the site's own policy. What is paid and what is left is noted in the site's books;
of a refusal the aggregator learns one word.
"""

import hashlib

from clients.patients import Patient, fingerprint_of
from clients.site import Session, Site
from privacy.ledger import Charge, Ledger
from privacy.segment import Segment
from privacy.streams import Words, little_endian_bytes

_WAIT_SECONDS = 10.0


def pay(site: Site, session: Session, patients: tuple[Patient, ...], *, server_round: int, cost: Segment) -> Charge:
    """Charge one round; when this returns, the charge is on the disk.

    Raises:
        BudgetSpentError: the round would pass the cap; nothing was charged, and the message says how many rounds fit.
        LedgerError: the ledger is damaged, of another data set, or has a lower cap written down than the policy names.
    """
    with _open(site, patients) as ledger:
        run = session.run.hex()
        charge = ledger.charge(
            run=run,
            server_round=server_round,
            plan=session.plan.digest(),
            segment=cost,
            purpose=f"run '{session.plan.name}', privacy.mode '{session.plan.privacy.mode}'",
            attempt=ledger.next_attempt(run, server_round),
        )
        spent = ledger.spend()
        site.books.budget(
            run=session.run,
            server_round=server_round,
            epsilon=spent.epsilon,
            delta=spent.delta,
            unit=spent.unit,
            relation=spent.relation,
            accountant=spent.accountant,
            cap_epsilon=ledger.cap_epsilon,
            head=ledger.head.digest,
            entries=ledger.head.count,
        )
    return charge


def bind(site: Site, patients: tuple[Patient, ...], charge: Charge, words: Words) -> None:
    """No other integers than these may leave under the charge; called before they do."""
    with _open(site, patients) as ledger:
        ledger.sent(charge, upload=hashlib.sha256(little_endian_bytes(words)).digest())


def _open(site: Site, patients: tuple[Patient, ...]) -> Ledger:
    fingerprint = fingerprint_of(patients)
    return Ledger.open(
        site.ledger_path(fingerprint),
        fingerprint=fingerprint,
        cap_epsilon=site.file.policy.max_epsilon,
        delta=site.file.policy.max_delta,
        patients={patient.key: patient.digest for patient in patients},
        durable=site.file.durable_state,
        wait_seconds=_WAIT_SECONDS,
    )
