"""Where the figures come from, how to get them again, and what they cannot say."""

from secfed.report.headline import passes_sentence, seeds_of
from secfed.report.markup import Child, Markup, duration, join, listing, tag
from secfed.report.naming import model_name, ordered
from secfed.report.never_drawn import of_single_models, of_whole_run, warning
from secfed.report.run_folder import CONFIG, ReportedRun
from secfed.results import ratio


def provenance_section(run: ReportedRun) -> Markup:
    """Digests, versions, machine, the resolved configuration and the command that repeats the run."""
    record = run.record
    origin = record.provenance
    pairs: list[tuple[Child, Child]] = [
        ("Configuration, SHA-256", tag("code", origin.config_digest)),
        ("Code, SHA-256", tag("code", origin.code_digest)),
        ("Seed", str(origin.seed)),
        ("Started", origin.started),
        ("Whole run took", duration(origin.seconds_total)),
        ("Device", origin.device),
        ("Python", origin.python),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items()))),
    ]
    if run.network is not None:
        pairs.append(("Network", run.network))
    for model in ordered(job.model for job in record.jobs):
        job = record.job(model)
        if job is not None:
            pairs.append((f"Model “{model_name(model, record)}”, SHA-256", tag("code", job.model_hash)))
    return join(
        listing(pairs),
        tag("h3", "How to reproduce"),
        tag("p", "With the code of the digest above and the versions listed, run"),
        tag("pre", tag("code", "secfed run config.toml --out repeated")),
        tag(
            "p",
            "on this run folder's config.toml and compare the digests of configuration, code and models in the two "
            "run.json files. The same digests of models can be expected on the same device and versions only; on "
            "another machine compare the scores.",
        ),
        _config(run),
    )


def limits_section(run: ReportedRun) -> Markup:
    """What a reader must not conclude."""
    record = run.record
    seeds = seeds_of(record)
    items = []
    if len(seeds) == 1:
        items.append(
            f"n = 1 seed ({seeds[0]}). Differences between models may be chance; at least three seeds are needed to "
            "tell. “secfed report” given the run folders of several seeds pools them."
        )
    else:
        items.append(f"n = {len(seeds)} seeds. ± shows their sample standard deviation.")
    texts = {
        True: "Synthetic data: every scan was generated. Scores show that the method and this program work, not how "
        "well organs of patients would be segmented.",
        None: "The configuration is not in the run folder, so whether the data were synthetic is not known here.",
        False: "Scores hold for the patients of these test sets; other scanners and protocols may give others.",
    }
    items.append(texts[run.synthetic])
    spacing = f" ({run.spacing_mm} mm)" if run.spacing_mm else ""
    items.append(
        f"Scores are computed on the preprocessed grid{spacing}, not on the scanner's. A coarse grid hides errors "
        "below its spacing, so do not compare with scores on the original grid."
    )
    absent = of_whole_run(record)
    items += [warning(absent)] if absent else []
    items += of_single_models(record)
    items.append("The model after the last round is tested, always: no choice looked at test data.")
    if ratio(record) is not None:
        sentence, _ = passes_sentence(record)
        items.append(f"On the ratio to centralised training: {sentence.rstrip('.')}.")
    return tag("ul", [tag("li", item) for item in items])


def _config(run: ReportedRun) -> Markup:
    if run.config_text is None:
        return tag("p", f"This run folder has no readable {CONFIG}.", class_="missing")
    return tag(
        "details",
        tag("summary", f"{CONFIG}, as resolved by the run"),
        tag("pre", tag("code", run.config_text), tabindex=0),
    )
