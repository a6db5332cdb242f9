"""A site's privacy budget for one data set: paid before patients are sampled, whatever the run says (privacy.ledger).

Runs at a site. The cap comes from the site's own policy. What is paid and what is left is noted in the site's books;
of a refusal the aggregator learns one word.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clients.site import LEDGERS, Session, Site
from privacy.accounting import Spend, spend
from privacy.dataset_fingerprint import dataset_fingerprint
from privacy.errors import PrivacyError
from privacy.ledger import BudgetSpentError, Charge, Head, Ledger, LedgerError, read_entries
from privacy.ledger_account import Account
from privacy.ledger_check import verify
from privacy.ledger_file import LAST
from privacy.secagg.findings import Finding
from privacy.segment import Segment
from privacy.streams import Words, little_endian_bytes
from secfed.errors import ConfigError

if TYPE_CHECKING:
    from clients.patients import Patient

_WAIT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What one ledger of a site says; `account` is what its entries come to, `findings` what a check of them found."""

    path: Path
    account: Account
    spent: Spend
    findings: tuple[Finding, ...]

    @property
    def head(self) -> Head:
        """What pins the ledger as it is now: to be written down elsewhere."""
        return Head(count=self.account.count, digest=self.account.last)


def standings(site: Site) -> list[Standing]:
    """The ledgers of a site, read and checked against its own books; nothing is written.

    Raises:
        LedgerError: a ledger is damaged, or nothing is left of its delta.
    """
    noted = site.books.ledger_heads()
    found = []
    # The newest line is written before the ledger itself, so it is what a ledger is found by.
    for newest in sorted((site.folder / LEDGERS).glob(f"*.ledger{LAST}")):
        path = newest.with_name(newest.name.removesuffix(LAST))
        entries, _ = read_entries(path)
        account = Account(entries)
        spent = account.spend()
        if spent is None:
            raise LedgerError(f"{path}: nothing is left of delta = {account.delta:g}, so no epsilon can be given")
        head = noted.get(path.name)
        findings = verify(path, pinned=None if head is None else Head(count=head[0], digest=head[1]))
        found.append(Standing(path=path, account=account, spent=spent, findings=tuple(findings)))
    return found


def sign_higher_cap(site: Site, *, signed_off_by: str, reason: str) -> list[tuple[str, float, float]]:
    """Let every data set of the site pay up to its policy's `max_epsilon`: name, cap before and after of those raised.

    An act of the site's owner, kept in the ledger with name and reason. What the policy does not name it cannot raise,
    and the next run would lower it again.

    Raises:
        ConfigError: no cap is below the policy's, a name or a reason is missing, or a ledger is damaged or in use.
    """
    try:
        raised = _raise_caps(site, signed_off_by=signed_off_by, reason=reason)
    except PrivacyError as error:
        raise ConfigError(str(error)) from error
    if not raised:
        raise ConfigError(
            f"{site.folder}: no ledger has a cap below policy.max_epsilon = {site.file.policy.max_epsilon:g}; set that "
            "in site.toml first, to what the patients may pay in all"
        )
    return raised


def _raise_caps(site: Site, *, signed_off_by: str, reason: str) -> list[tuple[str, float, float]]:
    asked = site.file.policy.max_epsilon
    raised = []
    for standing in standings(site):
        opened, before = standing.account.opened, standing.account.cap_epsilon
        if opened is None or before >= asked:
            continue
        with Ledger.open(
            standing.path,
            fingerprint=bytes.fromhex(opened.fingerprint),
            cap_epsilon=before,
            delta=opened.delta,
            durable=site.file.durable_state,
            wait_seconds=_WAIT_SECONDS,
        ) as ledger:
            ledger.raise_cap(asked, signed_off_by=signed_off_by, reason=reason)
        site.books.log("cap raised", ledger=standing.path.name, before=before, after=asked, signed_off_by=signed_off_by)
        raised.append((standing.path.name, before, asked))
    return raised


def require_a_round(site: Site, session: Session, patients: "tuple[Patient, ...]", *, cost: Segment) -> None:
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


def pay(site: Site, session: Session, patients: "tuple[Patient, ...]", *, server_round: int, cost: Segment) -> Charge:
    """Charge one round; when this returns, the charge is on the disk.

    A charge of this run for this round under which no bytes were named yet is used up first: bytes are named before
    they leave, so nobody has seen anything of what was drawn under it before a kill or an error.

    Raises:
        BudgetSpentError: the round would pass the cap; nothing was charged, and the message says how many rounds fit.
        LedgerError: the ledger is damaged, of another data set, or has a lower cap written down than the policy names.
    """
    with _open(site, patients) as ledger:
        run, plan = session.run.hex(), session.plan.digest()
        charge = ledger.newest_charge(run, server_round)
        if charge is None or ledger.is_sent(charge) or (charge.plan, charge.segment) != (plan.hex(), cost):
            charge = ledger.charge(
                run=run,
                server_round=server_round,
                plan=plan,
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


def paid(site: Site, session: Session, patients: "tuple[Patient, ...]", *, server_round: int) -> Charge | None:
    """The newest charge of this run for this round."""
    with _open(site, patients) as ledger:
        return ledger.newest_charge(session.run.hex(), server_round)


def bind(site: Site, patients: "tuple[Patient, ...]", charge: Charge, words: Words) -> None:
    """No other integers than these may leave under the charge; called before they do."""
    with _open(site, patients) as ledger:
        ledger.sent(charge, upload=hashlib.sha256(little_endian_bytes(words)).digest())


def _open(site: Site, patients: "tuple[Patient, ...]") -> Ledger:
    fingerprint = dataset_fingerprint(patient.digest for patient in patients)
    return Ledger.open(
        site.ledger_path(fingerprint),
        fingerprint=fingerprint,
        cap_epsilon=site.file.policy.max_epsilon,
        delta=site.file.policy.max_delta,
        patients={patient.key: patient.digest for patient in patients},
        durable=site.file.durable_state,
        wait_seconds=_WAIT_SECONDS,
    )
