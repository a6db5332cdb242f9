"""What a person reads after `secfed audit attack`: one line per attack, then what the verdicts mean.

Reads rows; decides nothing.
"""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secfed.audit.rows import MODES, Attack, AttackRow, Verdict

_NAME_COLUMNS, _VERDICT_COLUMNS, _FEWEST_COLUMNS = 32, 17, 12
"""What a name and a verdict take at most, and what a sentence needs."""

_STYLES: dict[Verdict, str] = {"refused": "green", "succeeded": "bold red", "not applicable": "dim"}


def print_attacks(
    rows: Sequence[AttackRow], attacks: Sequence[Attack], deviations: Sequence[str], console: Console, *, seconds: float
) -> None:
    """The table, the counts per mode, the limits, and every verdict that is not the expected one."""
    modes = list(dict.fromkeys(row.mode for row in rows))
    found = {(row.attack, row.mode): row for row in rows}
    table = Table(title="Attacks: verdict and figure")
    table.add_column("attack", no_wrap=True)
    for mode in modes:
        table.add_column(mode, no_wrap=True)
    # Three verdicts leave no room for a sentence on a terminal of 80 columns.
    room = console.width - _NAME_COLUMNS - _VERDICT_COLUMNS * len(modes) >= _FEWEST_COLUMNS
    if room:
        table.add_column("what is tried", ratio=1)
    for attack in attacks:
        cells = [_cell(found.get((attack.name, mode))) for mode in modes]
        table.add_row(attack.name, *cells, *([attack.threat] if room else []))
    console.print(table)
    if not room:
        _say("A wider terminal shows what each attack tries.", console)
    for mode in modes:
        counts = Counter(row.verdict for row in rows if row.mode == mode)
        numbers = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES)
        console.print(Text(f"{mode}: ", style="bold").append(numbers, style="default"))
    _print_limits(rows, attacks, console)
    if "plain" in modes:
        _say("On plain, whoever runs the aggregator reads every update: that mode is for comparison only.", console)
    for sentence in deviations:
        console.print(Text(f"DEVIATION  {sentence}", style="bold red"), soft_wrap=True)
    verdicts = f"{len(deviations)} of {len(rows)} verdicts are NOT" if deviations else f"All {len(rows)} verdicts are"
    _say(f"{verdicts} what this version claims; {seconds:.1f} s. Figures, controls and reasons: --json.", console)


def print_details(rows: Sequence[AttackRow], console: Console) -> None:
    """Every row in full."""
    for row in rows:
        console.print(Text(f"\n{row.attack}, {row.mode}: ", style="bold").append(row.verdict, _STYLES[row.verdict]))
        if row.figure is not None:
            _say(f"  {row.figure:.4g}  {row.unit}", console)
        _say(f"  attack   {row.outcome}", console)
        _say(f"  control  {row.control}", console)


def _print_limits(rows: Sequence[AttackRow], attacks: Sequence[Attack], console: Console) -> None:
    by_name = {attack.name: attack for attack in attacks}
    for mode in (mode for mode in MODES if mode != "plain"):
        limits = [row for row in rows if row.mode == mode and row.verdict == "succeeded"]
        if limits:
            console.print(Text(f"Limits of {mode}: what succeeds, and what there is against it", style="bold"))
        for row in limits:
            console.print(Padding(Text(f"{row.attack}: {by_name[row.attack].defence_in(mode)}"), (0, 0, 0, 2)))


def _cell(row: AttackRow | None) -> Text:
    if row is None:
        return Text("")
    text = Text(row.verdict, style=_STYLES[row.verdict])
    if row.figure is None:
        return text
    label = " p = " if "p-value" in row.unit else " "
    return text.append(f"{label}{_short(row.figure)}", style="default")


def _short(figure: float) -> str:
    return f"{figure:.2g}" if abs(figure) < 1000 else f"{figure:.1e}"


def _say(sentence: str, console: Console) -> None:
    console.print(Text(sentence))
