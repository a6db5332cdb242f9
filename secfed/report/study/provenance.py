"""Where every number comes from, what is missing, how it was computed, and what it cannot say."""

from secfed.report.markup import DASH, Child, Markup, caption, duration, join, listing, scrollable, tag, words
from secfed.report.naming import modality_name, protection_name
from secfed.report.study.notes import Study, heads
from secfed.study.frontier import privacy_text
from secfed.study.record import CellRecord

_SHORT = 12


def holes_part(study: Study) -> Markup:
    """Every cell that is not complete, with its reason and the rows that lack it."""
    holes = study.summary.holes
    if not holes:
        return tag("p", "None: every model that was planned was trained and tested.")
    titles = {one.key: one.title for one in study.record.experiments}
    rows = [
        tag(
            "tr",
            tag("th", tag("a", hole.cell, href=f"#cell-{study.place[hole.cell]}"), scope="row"),
            tag("td", str(hole.seed)),
            tag("td", hole.status, class_="words"),
            tag("td", hole.reason, class_="words"),
            tag("td", words(f"{titles[key]}: {name}" for key, name in hole.places), class_="words"),
        )
        for hole in holes
    ]
    title = "Models that are not there"
    table = tag(
        "table",
        caption(f"{title}. Means over the other seeds are shown where there are any; nothing was filled in."),
        heads(("Cell", "Seed", "State", "Reason", "Missing from"), left=("State", "Reason", "Missing from")),
        tag("tbody", rows),
        class_="scores",
    )
    return scrollable(table, title)


def provenance_part(study: Study) -> Markup:
    """Digests, versions, machine and command of the study, and a row for each cell, which the tables link to."""
    record = study.record
    origin = record.provenance
    codes = list(dict.fromkeys(cell.code_digest for cell in record.cells))
    pairs: list[tuple[Child, Child]] = [
        ("Command", tag("code", record.command)),
        ("Configuration, SHA-256", tag("code", origin.config_digest)),
        ("Code, SHA-256", tag("code", origin.code_digest)),
        ("Started", origin.started),
        ("Whole study took", duration(origin.seconds_total)),
        ("Device", origin.device),
        ("Python", origin.python),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items()))),
    ]
    if codes != [origin.code_digest] and codes:
        pairs.append(("Code of the cells", words(code[:_SHORT] for code in codes)))
    columns = ("Cell", "Seed", "State", "Trained", "Protection and privacy", "Configuration", "Code", "Model", "Took")
    table = tag(
        "table",
        caption(
            "Every cell. Digests are the first digits of SHA-256; study.json has them in full, and a cell's folder has "
            "its run."
        ),
        heads(columns, left=columns[2:5]),
        tag("tbody", [_cell_row(study, cell) for cell in record.cells]),
        class_="scores cells",
    )
    return join(listing(pairs), scrollable(table, "Every cell"))


def methods_part(study: Study) -> Markup:
    """How intervals, tests and ratios were computed."""
    seeds = len(study.summary.seeds)
    alone = " With one seed it carries patients only, and says nothing about a repetition." if seeds == 1 else ""
    statements = {
        "Mean": (
            "Each test patient's Dice is averaged over organs (those that have a value at every seed), then over "
            "seeds, then over patients. A mean over modalities counts each modality the same."
        ),
        "95 % interval": (
            "Seeds and patients are crossed, because every seed's model is tested on the same patients. The variance "
            "of the mean is that of a two-way random effects model, and the interval Student's t with Satterthwaite's "
            f"degrees of freedom: it carries patients and seeds.{alone} In simulation at three seeds and twelve "
            "patients it holds the true mean in 92 to 98 of 100 cases, where a bootstrap over seeds and patients holds "
            "it in as few as 71 where seeds matter."
        ),
        "Difference": (
            "Over the patients and seeds that both variants have, value by value; who is missing on one side is left "
            "out and counted. Its interval is computed in the same way."
        ),
        "p": (
            "Wilcoxon's signed-rank test over patients on their differences averaged over seeds, two-sided and exact; "
            "zeros by Pratt's rule, ties by mean ranks. Holm's correction covers all comparisons of an experiment. p "
            "is about patients for the models at hand and carries no seeds: where it and the interval disagree, "
            "the table says so; believe the interval."
        ),
        "Ratio": (
            "Mean divided by mean over the same patients and seeds; its interval linearises the ratio (Cochran). The "
            "passes over the data of both sides stand beside it."
        ),
        "HD95": (
            "The 95th percentile of surface distances; a structure that was missed counts with the diagonal of the "
            "volume."
        ),
    }
    items = [join(tag("dt", name), tag("dd", text)) for name, text in statements.items()]
    return tag("dl", items, class_="statements")


def limits_part(study: Study) -> Markup:
    """What a reader must not conclude."""
    record, summary = study.record, study.summary
    counts = sorted({len(scores.patients) for cell in record.cells for scores in cell.scores})
    items = []
    if record.generated:
        items.append(
            "Phantoms are not scans. They have contrasts, noise and shapes that were programmed, so an augmentation "
            "that suits the program may be ahead here and not on patients. Orders of methods may carry over; values of "
            "Dice do not."
        )
    if len(summary.seeds) < 3:
        items.append(
            f"n = {len(summary.seeds)} seed{'' if len(summary.seeds) == 1 else 's'}: at least three are needed to tell "
            "a method from chance."
        )
    else:
        items.append(f"n = {len(summary.seeds)} seeds: their spread is known roughly, and intervals are wide for it.")
    if counts:
        span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        items.append(f"{span} test patients per modality. Rare anatomy is not among them.")
    items.append(
        "The best of many methods looks better than it is: it was picked on the same test patients. The comparison "
        "with the reference, not the order of those at the top, is what the correction protects."
    )
    items.append("The model after the last round is tested, always: no choice looked at test data.")
    items.append("Scores are computed on the preprocessed grid, not on the scanner's.")
    items.append(
        "All parties ran on one machine: seconds compare variants, and are not what a network of hospitals would take."
    )
    if summary.holes:
        items.append(f"{len(summary.holes)} of {summary.planned} planned models are missing; see above.")
    if not record.leakage:
        items.append("No attack was run, so nothing here says what leaks.")
    return tag("ul", [tag("li", item) for item in items])


def _cell_row(study: Study, cell: CellRecord) -> Markup:
    guarded = protection_name(cell.protection) if cell.protection != "plain" else "plain"
    model = None if cell.job is None else cell.job.model_hash
    seen = words(modality_name(name) for name in cell.seen) if cell.seen else "no patient"
    sites = f"{cell.sites} site{'' if cell.sites == 1 else 's'}"
    who = cell.model.partition(":")[2]
    trained = (
        f"{cell.training.replace('_', ' ')}{f' ({who})' if who else ''} on {seen} of {sites}; augmentation "
        f"{cell.augmentation}, normalisation {cell.normalisation}, {cell.federation}"
    )
    facts = (cell.status, trained, f"{guarded}; {privacy_text(cell)}")
    return tag(
        "tr",
        tag("th", tag("code", cell.key), scope="row"),
        tag("td", str(cell.seed)),
        [tag("td", fact, class_="words") for fact in facts],
        [_digest(value) for value in (cell.config_digest, cell.code_digest, model)],
        tag("td", DASH if cell.seconds is None else duration(cell.seconds)),
        id=f"cell-{study.place[cell.key]}",
        class_=None if cell.status == "complete" else "hole",
    )


def _digest(value: str | None) -> Markup:
    return tag("td", DASH if value is None else tag("code", value[:_SHORT], title=value))
