"""The answer in plain words: who trained what under which protection, how good it is and what that is compared with."""

from secfed.report.markup import Child, Markup, join, number, percent, signed, tag, words
from secfed.report.naming import augmentation_of, has_guarantee, modality_name, model_name, protection_name
from secfed.report.never_drawn import of_whole_run, warning
from secfed.report.run_folder import ReportedRun
from secfed.report.trust import AGGREGATOR_SAW
from secfed.results import NO_DP, RunRecord, gain, overall, ratio
from secfed.study.training import like_for_like


def headline(run: ReportedRun) -> Markup:
    """A paragraph and up to three large figures."""
    record = run.record
    absent = of_whole_run(record)
    return join(
        tag("p", _who(run), class_="lead"),
        tag("p", tag("strong", warning(absent), class_="warning")) if absent else None,
        tag("div", _figures(record), class_="cards"),
        _seeds_note(record),
    )


def passes_sentence(record: RunRecord) -> tuple[str, bool]:
    """How many passes over the data federated and centralised training made, and whether that is the same number."""
    jobs = [record.job(model) for model in ("federated", "centralised")]
    passes = [None if job is None else job.effective_passes() for job in jobs]
    federated, centralised = passes
    if federated is None or centralised is None:
        return "The number of passes over the data was not recorded for both, so the ratio may not be fair.", False
    if like_for_like(federated, centralised):
        return f"both made {number(federated, 2)} passes over the same training data", True
    counts = (
        f"federated made {number(federated, 2)} passes over the training data, centralised {number(centralised, 2)}"
    )
    return f"NOT like for like: {counts}", False


def seeds_of(record: RunRecord) -> tuple[int, ...]:
    """Distinct seeds of the rows."""
    return tuple(sorted({row.seed for row in record.results}))


def sites_text(run: ReportedRun) -> str | None:
    """'3 sites (ct-1 and ct-2 with CT, mr-1 with MRI)'; None where neither configuration nor jobs name any."""
    job = run.record.job("federated")
    if run.sites:
        modalities = dict.fromkeys(site.modality for site in run.sites)
        groups = [
            f"{words(site.name for site in run.sites if site.modality == modality)} with {modality_name(modality)}"
            for modality in modalities
        ]
        return f"{len(run.sites)} sites ({', '.join(groups)})"
    if job is not None and job.samples_seen:
        return f"{len(job.samples_seen)} sites ({words(job.samples_seen)})"
    return None


def _who(run: ReportedRun) -> Markup:
    record = run.record
    job = record.job("federated")
    rounds = f" for {job.rounds} rounds" if job is not None else ""
    who = sites_text(run) or "The sites"
    text = f"{who} trained one segmentation model together{rounds}, each on its own scans. "
    return join(text, _protection(record))


def _protection(record: RunRecord) -> Markup:
    row = next((row for row in record.results if row.model == "federated"), None)
    job = record.job("federated")
    if row is None and job is None:
        return join("This run has no federated model.")
    protection = row.protection if row is not None else job.protection if job is not None else ""
    privacy = "off" if row is None else row.privacy
    guarantee = f"differential privacy: {privacy}" if has_guarantee(privacy) else "no differential privacy"
    if privacy == NO_DP:
        guarantee += f" ({privacy})"
    shown = tag("b", protection_name(protection))
    return join("Protection: ", shown, "; ", guarantee, ". ", AGGREGATOR_SAW.get(protection, ""))


def _figures(record: RunRecord) -> list[Child]:
    names = words(modality_name(modality) for modality in record.test_modalities())
    mean = overall(record, "federated")
    figures: list[Child] = [
        _figure(
            number(mean),
            "federated mean Dice",
            f"overlap with the reference outlines, 1 is perfect; mean over organs, then over {names}",
        )
    ]
    share = ratio(record)
    if share is not None:
        sentence, same = passes_sentence(record)
        reference = number(overall(record, "centralised"))
        figures.append(
            _figure(percent(share), "of centralised", f"centralised reaches {reference}; {sentence}", warn=not same)
        )
    else:
        trained = "centralised" in record.models()
        reason = (
            "one of the two has no mean Dice above zero" if trained else "this run trained no centralised reference"
        )
        figures.append(_figure("no ratio", "to centralised", reason))
    figures.append(_gain_figure(record))
    return figures


def _gain_figure(record: RunRecord) -> Markup | None:
    gains = {modality: gain(record, modality=modality) for modality in record.test_modalities()}
    known = {modality: value for modality, value in gains.items() if value is not None}
    name = augmentation_of(record)
    if not known or name is None:
        return None
    first = "MR" if "MR" in known else next(iter(known))
    others = [f"{signed(value)} on {modality_name(key)}" for key, value in known.items() if key != first]
    reference = model_name("federated_without_augmentation", record)
    detail = f"mean Dice, against {reference}{'; ' + words(others) if others else ''}"
    return _figure(signed(known[first]), f"from {name} on {modality_name(first)}", detail)


def _figure(value: str, label: str, detail: str, *, warn: bool = False) -> Markup:
    return tag(
        "div",
        tag("p", value, class_="big"),
        tag("p", label, class_="label"),
        tag("p", detail, class_="warning" if warn else "detail"),
        class_="card",
    )


def _seeds_note(record: RunRecord) -> Markup:
    seeds = seeds_of(record)
    if len(seeds) == 1:
        text = "n = 1 seed: these figures come from one run each; how much a repetition would differ is not known."
    else:
        text = f"n = {len(seeds)} seeds; figures are means over them."
    return tag("p", text, class_="note")
