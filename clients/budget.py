"""A site's privacy budget for one data set: paid before patients are sampled, whatever the run says (privacy.ledger).

Runs at a site. The cap comes from the site's own policy. What is paid and what is left is noted in the site's books;
of a refusal the aggregator learns one word.
"""

import hashlib
from dataclasses import replace

from clients.patients import Patient, fingerprint_of
from clients.site import Session, Site
from privacy.accounting import spend
from privacy.ledger import BudgetSpentError, Charge, Ledger
from privacy.segment import Segment
from privacy.streams import Words, little_endian_bytes

_WAIT_SECONDS = 10.0


def require_a_round(site: Site, session: Session, patients: tuple[Patient, ...], *, cost: Segment) -> None:
    """Look at the budget before a run begins or goes on; how much of the run it holds stands in the site's log.

    Raises:
        BudgetSpentError: not one more round fits, and the run has rounds to go that were not paid for.
        LedgerError: as `pay`.
    """
    with _open(site, patients) as ledger:
        run = session.run.hex()
        charged = {charge.round for charge in ledger.charges() if charge.run == run}
        to_go = session.plan.federation.rounds - len(charged)
        if to_go <= 0:
            return
        whole = spend([*ledger.segments(), replace(cost, steps=cost.steps * to_go)], delta=ledger.delta)
        fit = to_go if whole.epsilon <= ledger.cap_epsilon else ledger.rounds_left(cost)
        if fit == 0:
            raise BudgetSpentError(
                cap_epsilon=ledger.cap_epsilon,
                delta=ledger.delta,
                spent_epsilon=ledger.spend().epsilon,
                asked_epsilon=spend([*ledger.segments(), cost], delta=ledger.delta).epsilon,
                segment=cost,
                rounds_left=0,
            )
        site.books.log(
            "budget",
            run=run,
            rounds_to_go=to_go,
            rounds_that_fit=fit,
            cap_epsilon=ledger.cap_epsilon,
            epsilon_after=whole.epsilon,
            delta=ledger.delta,
            unit=whole.unit,
            relation=whole.relation,
            accountant=whole.accountant,
        )


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
            ledger=ledger.path.name,
            head=ledger.head.digest,
            entries=ledger.head.count,
        )
    return charge


def paid(site: Site, session: Session, patients: tuple[Patient, ...], *, server_round: int) -> Charge | None:
    """The newest charge of this run for this round."""
    with _open(site, patients) as ledger:
        found = [c for c in ledger.charges() if (c.run, c.round) == (session.run.hex(), server_round)]
    return found[-1] if found else None


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
