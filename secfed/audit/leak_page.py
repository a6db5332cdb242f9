"""What a person reads after `secfed audit canaries` and `secfed audit membership`.

Reads rows; decides nothing.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secfed.audit.canaries import AGREES, CanaryRow, agree
from secfed.audit.measured_leak import FALSE_ALARM, FALSE_POSITIVE_RATES
from secfed.audit.shadow_models import MembershipRow
from secfed.results import SIMULATED_NOISE


def print_canaries(rows: Sequence[CanaryRow], console: Console, *, seconds: float) -> None:
    """The table, what its columns mean, and what the verdicts come to."""
    table = Table(title="Canaries: what the ledger says, and what was measured")
    table.add_column("run")
    table.add_column("distance\nledger", justify="right")
    table.add_column("measured\n95 % interval", justify="right")
    table.add_column("found at 5 %\nof at most", justify="right")
    table.add_column("epsilon\nat least", justify="right")
    table.add_column("verdict")
    for row in rows:
        rate = row.attacker.rates[-1]
        table.add_row(
            row.run,
            f"{row.distance.claimed:.3f}",
            f"{row.distance.value:.3f}\n{row.distance.low:.2f} to {row.distance.high:.2f}",
            f"{100 * rate.tpr:.1f} %\n{100 * rate.cap:.1f} %",
            f"{row.epsilon:.2f}\n{row.one_run.epsilon_at_least:.2f}",
            Text(row.verdict, style="green" if row.verdict == AGREES else "bold red"),
        )
    console.print(table)
    if not rows:
        return
    first = rows[0]
    _say(
        f"{first.canaries} canaries, each in by a coin, {first.rounds} rounds. Distance: members' mean score less "
        "others', in standard deviations of the noise. Found: members above a threshold that 5 % of the others pass, "
        "and the accountant's cap. Epsilon: the ledger's, and below it the lower bound from guessed coins.",
        console,
    )
    distance = first.distance
    _say(
        f"The distance of an honest run lies outside what '{AGREES}' allows in {2 * FALSE_ALARM:.2%} of all seeds. A "
        f"distance of {distance.caught_from:.2f} instead of {distance.claimed:.2f} in the first run would be caught "
        "nine times in ten.",
        console,
    )
    _say_accounts([row.account for row in rows], console)
    fine = sum(row.verdict == AGREES for row in rows)
    _say(f"{fine} of {len(rows)} runs agree with their ledgers; {seconds:.1f} s.", console, good=agree(rows))


def print_membership(rows: Sequence[MembershipRow], console: Console, *, seconds: float) -> None:
    """The table with intervals and caps, and what it says."""
    table = Table(title="Membership in the training of the final model (LiRA)")
    table.add_column("training", no_wrap=True)
    table.add_column("epsilon", justify="right", no_wrap=True)
    for name in ("AUC", *(f"found at {fpr:.0%}" for fpr in FALSE_POSITIVE_RATES)):
        table.add_column(f"{name}\n95 %\nat most", justify="right", no_wrap=True)
    table.add_column("the attack")
    for row in rows:
        found = row.attacker
        capped = row.epsilon is not None
        table.add_row(
            row.training,
            "none" if row.epsilon is None else f"{row.epsilon:.3g}",
            f"{found.auc:.2f}\n{found.auc_low:.2f}-{found.auc_high:.2f}\n{_cap(found.auc_cap, capped=capped)}",
            *(
                f"{100 * rate.tpr:.0f} %\n{100 * rate.low:.0f}-{100 * rate.high:.0f} %\n"
                f"{_cap(rate.cap, capped=capped, percent=True)}"
                for rate in found.rates
            ),
            _outcome(row),
        )
    console.print(table)
    if rows:
        first = rows[0].attacker
        _say(
            f"{first.members} scores of members and {first.others} of others, {rows[0].models} models of each kind; "
            "below each figure its 95 % interval and the cap. "
            "'At most' is the accountant's cap for an attacker who sees every sum and knows every other patient; this "
            "one has the final model and shadow models. "
            f"{seconds:.0f} s.",
            console,
        )
        _say_accounts([row.account for row in rows if row.account is not None], console)


def _say_accounts(accounts: Sequence[str], console: Console) -> None:
    for account in dict.fromkeys(accounts):
        _say(f"Account: {account}; {SIMULATED_NOISE}.", console)


def _outcome(row: MembershipRow) -> Text:
    if row.attacker.exceeded:
        return Text("finds more than the account allows", style="bold red")
    return Text("works", style="yellow") if row.works else Text("no better than guessing", style="green")


def _cap(value: float, *, capped: bool, percent: bool = False) -> str:
    if not capped:
        return "no cap"
    return f"{100 * value:.1f} %" if percent else f"{value:.3f}"


def _say(sentence: str, console: Console, *, good: bool | None = None) -> None:
    style = "" if good is None else "bold green" if good else "bold red"
    console.print(Text(sentence, style=style))
