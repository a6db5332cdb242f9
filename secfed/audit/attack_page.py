"""What a person reads after `secfed audit attack`: one table, then what the verdicts mean.

Reads rows; decides nothing.
"""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secfed.audit.rows import AttackRow, Verdict

_STYLES: dict[Verdict, str] = {"refused": "green", "succeeded": "bold red", "not applicable": "dim"}


def print_attacks(rows: Sequence[AttackRow], deviations: Sequence[str], console: Console, *, seconds: float) -> None:
    """The table, the counts per mode, and every verdict that is not the expected one."""
    table = Table(title="Attacks", show_lines=True)
    table.add_column("attack", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("what it counts")
    table.add_column("what came of it, and the honest control", style="dim", ratio=1)
    for row in rows:
        table.add_row(
            row.attack,
            row.mode,
            Text(row.verdict, style=_STYLES[row.verdict]),
            "" if row.figure is None else f"{row.figure:.3g}",
            Text(row.unit),
            Text(f"{row.outcome}\nControl: {row.control}"),
        )
    console.print(table)
    for mode in dict.fromkeys(row.mode for row in rows):
        counts = Counter(row.verdict for row in rows if row.mode == mode)
        console.print(
            f"[bold]{mode}[/]: {counts['refused']} refused, {counts['succeeded']} succeeded, "
            f"{counts['not applicable']} not applicable",
            highlight=False,
        )
    limits = [row.attack for row in rows if row.mode == "masked" and row.verdict == "succeeded"]
    if limits:
        _say(
            "An attack that succeeded on masked is a limit of masking, or a rule that sites have to switch on; "
            f"SECURITY.md says what to do about each: {', '.join(limits)}.",
            console,
        )
    if any(row.mode == "plain" and row.verdict == "succeeded" for row in rows):
        _say("On plain they succeed because the aggregator reads every update: plain is for comparison only.", console)
    for sentence in deviations:
        console.print(Text(f"DEVIATION  {sentence}", style="bold red"), soft_wrap=True)
    if deviations:
        _say(f"{len(deviations)} verdicts are not the expected ones, in {seconds:.1f} s.", console)
    else:
        _say(f"Every verdict is the expected one, in {seconds:.1f} s.", console)


def _say(sentence: str, console: Console) -> None:
    console.print(Text(sentence))
