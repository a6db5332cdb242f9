"""What a person reads after `secfed audit verify`: problems first, then what is proved, then what is not.

A claim is printed once, with the rounds that it holds for. Texts come from files that may be hostile: nothing of them
is read as markup.
"""

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from privacy.secagg.findings import Status
from secfed.audit.verify import AuditReport, Verdict
from secfed.audit_log import LogCheck

MAX_PROBLEMS = 40


def print_audit(report: AuditReport, console: Console) -> None:
    """The whole page."""
    for verdict in report.verdicts:
        _print_verdict(verdict, console)
    for job, reason in report.without.items():
        style = "bold red" if job in report.missing else "dim"
        console.print(Text(f"{job}: not verified; {reason}", style=style))
    for name, log in report.logs.items():
        _print_log(name, log, console)
    console.print(Text("\nCannot be proved by any such transcript", style="bold"))
    for line in report.cannot_be_proved:
        console.print(Text(f"  - {line}"))
    result = Text("\nVERIFIED", style="bold green") if report.verified else Text("\nNOT VERIFIED", style="bold red")
    console.print(result.append(f"  {report.run}", style="default"))


def _print_log(name: str, log: LogCheck, console: Console) -> None:
    console.print(Text(f"\n{name}", style="bold").append(f"  audit log of {log.lines} lines", style="dim"))
    for problem in log.problems[:MAX_PROBLEMS]:
        console.print(Text(f"  x line {problem.line}: {problem.what}", style="red"))
    if len(log.problems) > MAX_PROBLEMS:
        console.print(Text(f"  and {len(log.problems) - MAX_PROBLEMS} more: --json lists all", style="red"))
    if not log.problems:
        console.print(
            Text("  every line follows the one before it; whether lines were cut off at the end shows in the")
        )
        console.print(Text(f"  last digest, which somebody else should have noted: {log.last}"))


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as text: "1-3, 7"."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _print_verdict(verdict: Verdict, console: Console) -> None:
    console.print(
        Text(f"\n{verdict.job}", style="bold").append(f"  {verdict.protection}: {_extent(verdict)}", style="dim")
    )
    console.print(Text(f"  consortium's key: {verdict.anchor}; receipts: {verdict.receipts_from}", style="dim"))
    problems = verdict.failed
    if problems:
        console.print(Text(f"Problems ({len(problems)})", style="bold red"))
        for problem in problems[:MAX_PROBLEMS]:
            console.print(Text(f"  x {_place(problem.where, verdict.rounds_by_file)}: {problem.what}", style="red"))
        if len(problems) > MAX_PROBLEMS:
            console.print(Text(f"  and {len(problems) - MAX_PROBLEMS} more: --json lists all", style="red"))
    _print_group(verdict, "proved", "Proved", console)
    if verdict.by_signatures:
        console.print(
            Text("Checked by signatures and receipts only", style="bold").append(
                f"\n  rounds {ranges(verdict.by_signatures)}: their sums were not computed again", style="default"
            )
        )
    _print_group(verdict, "unchecked", "Not checked", console)


def _extent(verdict: Verdict) -> str:
    replayed = f"{len(verdict.replayed)} replayed in full"
    if verdict.replayed and len(verdict.replayed) < verdict.rounds:
        replayed += f" ({ranges(verdict.replayed)})"
    return (
        f"{verdict.rounds} rounds, {replayed}, {verdict.aborted} aborted, {verdict.sessions} sessions, "
        f"{verdict.receipts} receipts, {verdict.bytes / 1e6:.1f} MB"
    )


def _print_group(verdict: Verdict, status: Status, title: str, console: Console) -> None:
    places: dict[str, list[str]] = {}
    for finding in verdict.findings:
        if finding.status == status:
            places.setdefault(finding.what, []).append(finding.where)
    if not places:
        return
    console.print(Text(title, style="bold"))
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(ratio=3)
    table.add_column(ratio=1, style="dim")
    for what, where in places.items():
        table.add_row(Text(what), Text(_places(where, verdict.rounds_by_file)))
    console.print(table)


def _places(where: list[str], rounds: Mapping[str, int]) -> str:
    """Many places in few words."""
    if all(place in rounds for place in where):
        numbers = ranges(rounds[place] for place in where)
        return f"round {numbers}" if numbers.isdecimal() else f"rounds {numbers}"
    if len(where) <= 6 and all(place.startswith("receipts of ") for place in where):
        return "receipts of " + ", ".join(place.removeprefix("receipts of ") for place in where)
    if len(where) <= 2:
        return ", ".join(_place(place, rounds) for place in where)
    return f"{len(where)} {'entries' if all(place.startswith('entries/') for place in where) else 'places'}"


def _place(where: str, rounds: Mapping[str, int]) -> str:
    return f"{where} (round {rounds[where]})" if where in rounds else where
