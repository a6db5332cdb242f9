"""What a person reads after `secfed audit canaries` and `secfed audit membership`.

Reads rows; decides nothing.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secfed.audit.canaries import AGREES, CanaryRow, agree
from secfed.audit.measured_leak import FALSE_ALARM


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
        f"The distance of an honest run lies outside what '{AGREES}' allows in {2 * FALSE_ALARM:.1%} of all seeds. A "
        f"distance of {distance.caught_from:.2f} instead of {distance.claimed:.2f} in the first run would be caught "
        "nine times in ten.",
        console,
    )
    fine = sum(row.verdict == AGREES for row in rows)
    _say(f"{fine} of {len(rows)} runs agree with their ledgers; {seconds:.1f} s.", console, good=agree(rows))


def _say(sentence: str, console: Console, *, good: bool | None = None) -> None:
    style = "" if good is None else "bold green" if good else "bold red"
    console.print(Text(sentence, style=style))
