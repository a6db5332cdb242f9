"""What the sections of a study's page share: links to cells, marks for holes, estimates as text, epsilon in full."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from secfed.report.markup import DASH, Child, Markup, join, number, percent, signed, tag
from secfed.results import SIMULATED_NOISE
from secfed.study.frontier import companions
from secfed.study.record import StudyRecord
from secfed.study.statistics import Estimate
from secfed.study.summary import Hole, StudySummary

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A record with its tables; `place` numbers the cells, so that no name of the record becomes an anchor."""

    record: StudyRecord
    summary: StudySummary
    place: dict[str, int] = field(default_factory=dict)

    def hole(self, cell: str) -> Hole | None:
        """The hole that a cell is, or None."""
        return next((hole for hole in self.summary.holes if hole.cell == cell), None)


def study_of(record: StudyRecord, summary: StudySummary) -> Study:
    """A record with its tables, and its cells numbered."""
    return Study(
        record=record, summary=summary, place={cell.key: index for index, cell in enumerate(record.cells, start=1)}
    )


class Footnotes:
    """Letters for what a table has to explain, and the explanations below it, in the order in which they came up."""

    def __init__(self) -> None:
        self._texts: dict[str, Markup] = {}

    def mark(self, text: Child) -> Markup:
        """The letter of an explanation, raised."""
        shown = join(text)
        self._texts.setdefault(shown, shown)
        index = list(self._texts).index(shown)
        return tag("sup", _letter(index), class_="foot")

    def listing(self) -> Markup | None:
        """All explanations, or None."""
        if not self._texts:
            return None
        items = [tag("li", tag("sup", _letter(index)), " ", text) for index, text in enumerate(self._texts.values())]
        return tag("ul", items, class_="footnotes")


def variant_name(study: Study, name: str, cells: Iterable[str], notes: Footnotes, *, note: str = "") -> Markup:
    """A row's heading: the name, what it does not tell, and a link to each of its cells; holes are struck out."""
    links = []
    for key in cells:
        cell, hole = study.record.cell(key), study.hole(key)
        link = tag("a", str(cell.seed), href=f"#cell-{study.place[key]}", title=f"cell {key}")
        if hole is not None:
            # Without the seed, so that seeds that are missing for one reason share a letter.
            text = join("“", name, f"”, seeds struck out: {hole.status}: {hole.reason}.")
            link = join(tag("s", link), notes.mark(text))
        links.append(join(" ", link))
    seeds = tag("small", "seed" if len(links) == 1 else "seeds", links, class_="cells")
    return join(tag("span", name, class_="name"), tag("small", note, class_="remark") if note else None, seeds)


def interval(found: Estimate | None, *, digits: int = 3, share: bool = False, sign: bool = False) -> str:
    """'0.812 to 0.834'; empty where nothing was repeated."""
    if found is None or found.low is None or found.high is None:
        return ""
    shown = [
        percent(value, 1) if share else signed(value, digits) if sign else number(value, digits).replace("-", MINUS)
        for value in (found.low, found.high)
    ]
    return f"{shown[0]} to {shown[1]}"


def bracketed(found: Estimate | None, *, share: bool = False, sign: bool = False, name: str = "") -> str:
    """' (0.812 to 0.834)', to stand behind a mean; empty where there is no interval."""
    told = interval(found, share=share, sign=sign)
    return f" ({name}{told})" if told else ""


def value_cell(
    found: Estimate | None,
    *,
    digits: int = 3,
    best: bool = False,
    mark: Child = None,
    sign: bool = False,
    class_: str | None = None,
) -> Markup:
    """A mean with its interval under it."""
    if found is None:
        return tag("td", DASH, mark, class_=class_)
    shown = signed(found.mean, digits) if sign else number(found.mean, digits)
    value: Child = tag("strong", shown, class_="best") if best else shown
    return tag("td", value, mark, below(interval(found, digits=digits, sign=sign)), class_=class_)


def below(told: str) -> Markup | None:
    """An interval in small letters under its mean."""
    return tag("small", told, class_="ci") if told else None


def heads(names: Sequence[str], *, left: Iterable[str] = ()) -> Markup:
    """A table's row of headings; those named in `left` stand over words, the others over numbers."""
    words = set(left)
    cells = [tag("th", name, scope="col", class_="words" if name in words else None) for name in names]
    return tag("thead", tag("tr", cells))


def probability(value: float | None) -> str:
    """A p value, never as zero."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def epsilon_text(epsilon: float) -> str:
    """An epsilon in three digits, or in whole numbers where it is large."""
    return f"{epsilon:.3g}" if epsilon < 1000 else f"{epsilon:.0f}"


def epsilon_key(record: StudyRecord) -> str | None:
    """What belongs behind every epsilon of the study; None where there is none."""
    found = dict.fromkeys(companions(cell) for cell in record.cells if cell.epsilon is not None)
    if not found:
        return None
    return f"Every epsilon here is {'; or '.join(found)}."


def with_epsilon_key(record: StudyRecord, *content: Child) -> Markup:
    """The content, with the companions of its epsilons before it where it names any and lacks them."""
    shown, key = join(*content), epsilon_key(record)
    if key is None or "epsilon" not in shown.lower():
        return shown
    kind = "warning" if SIMULATED_NOISE in key else "note"
    return join(tag("p", key, class_=f"{kind} key"), shown)


def _letter(index: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[index] if index < len(letters) else _letter(index // len(letters) - 1) + letters[index % 26]
