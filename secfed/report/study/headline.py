"""What was asked and what was found: the banner, the sentences, the claims with their aims."""

from secfed.report.markup import Child, Markup, caption, join, scrollable, tag
from secfed.report.study.answers import answers
from secfed.report.study.notes import Study, epsilon_key, heads
from secfed.results import SIMULATED_NOISE
from secfed.study.record import Claim

_VERDICTS: dict[bool | None, tuple[str, str]] = {
    True: ("met", "\N{CHECK MARK} met"),
    False: ("missed", "\N{MULTIPLICATION SIGN} missed"),
    None: ("open", "\N{EN DASH} no data"),
}


def banners(study: Study) -> Markup:
    """What a reader must know before any number."""
    record, summary = study.record, study.summary
    items: list[Child] = []
    if record.generated:
        text = (
            "The numbers compare methods with one another; they do not say how well organs of patients would be "
            "segmented."
        )
        items.append(tag("p", tag("b", "Phantom data: generated scans. "), text))
    key = epsilon_key(record)
    if key is not None:
        label = f"{SIMULATED_NOISE[0].upper()}{SIMULATED_NOISE[1:]}. " if SIMULATED_NOISE in key else ""
        items.append(tag("p", tag("b", label) if label else None, key.replace(f"; {SIMULATED_NOISE}", "")))
    if summary.holes:
        link = tag("a", f"{len(summary.holes)} of {summary.planned} models are not there", href="#holes")
        items.append(tag("p", link, "; each table marks where they are missing."))
    return tag("div", items, class_="banners") if items else join()


def lead(study: Study) -> Markup:
    """How large the study is."""
    record, summary = study.record, study.summary
    seeds = summary.seeds
    spread = (
        "n = 1 seed: how much a repetition would differ is not known."
        if len(seeds) == 1
        else f"Seeds {', '.join(map(str, seeds))}; intervals carry patients and seeds."
    )
    text = (
        f"{summary.complete} of {summary.planned} models were trained and tested, in {len(record.experiments)} "
        f"experiments at the scale “{record.scale}”. {spread if seeds else ''}"
    )
    return tag("p", text, class_="lead")


def cards(claims: tuple[Claim, ...]) -> Markup | None:
    """How many aims were met, missed, and cannot be told."""
    if not claims:
        return None
    counts = [(verdict, sum(claim.met is verdict for claim in claims)) for verdict in (True, False, None)]
    names = {True: "met", False: "missed", None: "without data"}
    found = [
        tag(
            "div",
            tag("p", str(count), class_="big"),
            tag("p", f"aim{'' if count == 1 else 's'} {names[verdict]}", class_="label"),
            class_=f"card {_VERDICTS[verdict][0]}",
        )
        for verdict, count in counts
    ]
    return tag("div", found, class_="cards verdicts")


def claims_table(study: Study) -> Markup:
    """Every claim with its aim, what was found, and whether that meets it."""
    claims = study.record.claims
    if not claims:
        return tag("p", "This study set itself no aims.", class_="missing")
    rows = [
        tag(
            "tr",
            tag("th", claim.claim, scope="row", class_="words"),
            tag("td", claim.aim, class_="words"),
            tag("td", claim.value, tag("small", claim.note, class_="remark") if claim.note else None, class_="words"),
            tag("td", tag("span", _VERDICTS[claim.met][1], class_=f"verdict {_VERDICTS[claim.met][0]}")),
        )
        for claim in claims
    ]
    title = "What the study was to show"
    table = tag(
        "table",
        caption(f"{title}: the aim was set before, the verdict follows from it."),
        heads(("Claim", "Aim", "Found", "Verdict"), left=("Aim", "Found")),
        tag("tbody", rows),
        class_="scores claims",
    )
    return scrollable(table, title)


def questions(study: Study) -> Markup:
    """Each experiment's question with what its tables say."""
    items = []
    for index, one in enumerate(study.summary.experiments, start=1):
        link = tag("a", one.experiment.question or one.experiment.title, href=f"#experiment-{index}")
        items.append(join(tag("dt", link), [tag("dd", sentence) for sentence in answers(one)]))
    return tag("dl", items, class_="statements")
