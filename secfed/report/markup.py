"""HTML in which every string is escaped unless it was made here: names in a run folder may be hostile."""

import html
import math
from collections.abc import Iterable, Sequence

DASH = "\N{EN DASH}"


class Markup(str):
    """A string that is HTML already and is not escaped again."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def join(*children: Child) -> Markup:
    """Concatenate: `Markup` as it is, other strings escaped, None left out, iterables flattened."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(child))
        elif child is not None:
            parts.append(join(*child))
    return Markup("".join(parts))


def tag(name: str, *children: Child, **attributes: str | int | float | None) -> Markup:
    """An element; `class_` is written `class`, other underscores become hyphens, None attributes are left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("col", "image", "path", "line", "meta", "br"):
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def scrollable(table: Markup, label: str) -> Markup:
    """A wide table in a frame of its own that scrolls, also by keyboard, so that the page never does."""
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)


def caption(text: str) -> Markup:
    """A table's caption, which stays in view and wraps while the table under it scrolls."""
    return tag("caption", tag("span", text))


def across(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], title: str, corner: str) -> Markup:
    """A table with one named column per thing that is compared and one named row per measure."""
    table = tag(
        "table",
        caption(title),
        tag("thead", tag("tr", tag("th", corner, scope="col"), [tag("th", name, scope="col") for name in columns])),
        tag(
            "tbody", [tag("tr", tag("th", name, scope="row"), [tag("td", cell) for cell in row]) for name, row in rows]
        ),
        class_="scores",
    )
    return scrollable(table, title)


def listing(pairs: Iterable[tuple[Child, Child]]) -> Markup:
    """A two-column table of names and values."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in pairs]
    return scrollable(tag("table", tag("tbody", rows), class_="pairs"), "Names and values")


def number(value: float | None, digits: int = 3) -> str:
    """Fixed decimals; a dash for None and what is not finite."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share of one in percent."""
    return DASH if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign, and a true minus."""
    return number(value, digits) if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f}\N{NO-BREAK SPACE}{unit}" if unit == "B" else f"{count:.2f}\N{NO-BREAK SPACE}{unit}"


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds from two minutes on, or hours and minutes from two hours on."""
    if seconds < 120:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s" if seconds < 10 else f"{seconds:.0f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}\N{NO-BREAK SPACE}min {rest}\N{NO-BREAK SPACE}s"
    return f"{minutes // 60}\N{NO-BREAK SPACE}h {minutes % 60}\N{NO-BREAK SPACE}min"


def words(items: Iterable[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *most, last = [*items] or [DASH]
    return f"{', '.join(most)} and {last}" if most else last
