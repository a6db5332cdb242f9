"""What the aggregator saw of one site: the top byte of every entry of its upload, with and without masking.

Of an encrypted upload the bytes of the ciphertexts are counted. Masked entries and ciphertexts should look uniform, so
a chi-square test of the 256 counts is shown. A flat histogram is an illustration and not a proof: that a single upload
says nothing rests on the protocol and its keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import chdtrc

from secfed.report.markup import Markup, join, number, percent, tag
from secfed.report.naming import protection_name
from secfed.report.run_folder import AggregatorView

_SUSPICIOUS_PROB = 1e-4
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 520, 190, 58, 36, 14


@dataclass(frozen=True, kw_only=True)
class _Words:
    counted: str
    axis: str
    bars: str
    other: str
    values: str
    rests_on: str


_TOP_BYTE = "value of the most significant byte"
_WORDS = {
    "masked": _Words(
        counted="entries",
        axis=_TOP_BYTE,
        bars=" Each bar counts the entries whose most significant byte has that value, 0 to 255.",
        other="What it would have received without masking",
        values="masked values",
        rests_on="that rests on the masking protocol and on keys that the aggregator does not hold.",
    ),
    "encrypted": _Words(
        counted="ciphertext bytes",
        axis="value of the byte",
        bars=" Each bar on the left counts the bytes of that value, 0 to 255; on the right the entries of the update "
        "inside by their most significant byte.",
        other="The update inside, which it could not read",
        values="the bytes of ciphertexts",
        rests_on="that rests on the encryption and on a key that every site holds and the aggregator does not.",
    ),
}


def chi_square_prob(counts: Sequence[int]) -> float:
    """Probability that uniform values spread at least this unevenly (Pearson's chi-square, one degree less)."""
    expected = sum(counts) / len(counts)
    statistic = sum((count - expected) ** 2 for count in counts) / expected
    return float(chdtrc(len(counts) - 1, statistic))


def aggregator_section(view: AggregatorView | None, problem: str | None) -> Markup:
    """Both histograms with the test, or the sentence that says why there are none."""
    if view is None:
        return tag("p", problem or "There is no histogram.", class_="missing")
    words = _WORDS["encrypted" if view.protection == "encrypted" else "masked"]
    protection = protection_name(view.protection)
    received = f"Upload of {view.site} in round {view.round}, {view.entries:,} {words.counted}, {protection}."
    seen = _figure("What the aggregator received", view.masked_counts, "received", axis=words.axis)
    if view.protection == "plain":
        text = "This run did not mask: the aggregator saw this site's update itself, and so would anyone who reads it."
        return join(tag("p", received, " ", text), tag("div", seen, class_="plots pair"))
    other = (
        tag("p", "The same update without protection was not recorded.", class_="missing")
        if view.plain_counts is None
        else _figure(words.other, view.plain_counts, "plain", axis=_TOP_BYTE)
    )
    return join(
        tag("p", received, words.bars),
        tag("div", seen, other, class_="plots pair"),
        tag("p", _verdict(view, words)),
        tag(
            "p",
            f"A flat histogram illustrates the protection, it does not prove it: {words.rests_on} The right-hand "
            "histogram was made for this page by the side that ran the site.",
            class_="note",
        ),
    )


def _verdict(view: AggregatorView, words: _Words) -> Markup:
    prob = chi_square_prob(view.masked_counts)
    shown = "p < 0.0001" if prob < _SUSPICIOUS_PROB else f"p = {number(prob, 3 if prob >= 0.001 else 4)}"
    if sum(view.masked_counts) < 5 * len(view.masked_counts):
        return join(f"Chi-square test of the left histogram: {shown}, but there are too few entries to trust it.")
    if prob < _SUSPICIOUS_PROB:
        return tag(
            "strong",
            f"Chi-square test of the left histogram: {shown}. It is NOT flat, but {words.values} are: "
            "have it examined.",
            class_="warning",
        )
    return join(
        "Chi-square test of the left histogram: ",
        tag("b", shown),
        ". It is flat: values drawn at random would spread at least this unevenly in "
        f"{percent(prob, 1 if prob >= 0.001 else 2)} of all cases, so it shows nothing of the site's update.",
    )


def _figure(title: str, counts: Sequence[int], kind: str, *, axis: str) -> Markup:
    total = sum(counts)
    shares = [count / total for count in counts]
    even = 1 / len(counts)
    top = max(*shares, 2 * even)
    step = (_WIDTH - _LEFT) / len(counts)
    room = _HEIGHT - _BOTTOM - _TOP
    floor = _HEIGHT - _BOTTOM

    def height(share: float) -> float:
        return room * share / top

    bars = "".join(
        f"M{_LEFT + step * value:.2f} {floor}v{-height(share):.2f}h{step:.2f}V{floor}Z"
        for value, share in enumerate(shares)
        if share
    )
    most = max(range(len(counts)), key=counts.__getitem__)
    alt = (
        f"{title}: shares of the 256 byte values between {percent(min(shares), 2)} and {percent(max(shares), 2)}, "
        f"most often value {most}; an even spread is {percent(even, 2)}"
    )
    level = f"{floor - height(even):.2f}"
    marks = [
        tag("text", text, x=f"{x:.0f}", y=y, text_anchor=anchor)
        for text, x, y, anchor in (
            (percent(top, 1), _LEFT - 5, _TOP + 8, "end"),
            ("0", _LEFT - 5, floor, "end"),
            *((str(value), _LEFT + step * (value + 0.5), floor + 14, "middle") for value in (0, 64, 128, 192)),
            ("255", _WIDTH, floor + 14, "end"),
            (axis, _LEFT + (_WIDTH - _LEFT) / 2, floor + 30, "middle"),
        )
    ]
    drawing = tag(
        "svg",
        tag("path", d=bars, class_=f"bars {kind}"),
        tag("line", x1=_LEFT, x2=_WIDTH, y1=floor, y2=floor, class_="axis"),
        tag("line", x1=_LEFT, x2=_WIDTH, y1=level, y2=level, class_="even"),
        marks,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=alt,
        class_="histogram",
    )
    return tag(
        "figure", tag("figcaption", title, tag("small", f"dashed line: even spread, {percent(even, 2)}")), drawing
    )
