"""The page of a study, top to bottom: what was asked and found first, where it comes from last; no script at all."""

from pathlib import Path

from secfed.report.document import document, section
from secfed.report.markup import Markup, join, tag
from secfed.report.study.answers import answers
from secfed.report.study.costs import cost_table, model_hashes
from secfed.report.study.curves import curves_part
from secfed.report.study.frontier import frontier_figure, frontier_table
from secfed.report.study.headline import banners, cards, claims_table, lead, questions
from secfed.report.study.leakage import leakage_part
from secfed.report.study.methods import method_chart, method_table_markup, organ_tables, table_notes
from secfed.report.study.notes import Footnotes, Study, study_of, with_epsilon_key
from secfed.report.study.pictures import pictures_part
from secfed.report.study.provenance import holes_part, limits_part, methods_part, provenance_part
from secfed.report.study.stylesheet import STUDY_STYLESHEET
from secfed.report.study.training import ratio_part
from secfed.study.record import StudyRecord
from secfed.study.summary import ExperimentSummary, summarise


def read_study(folder: Path) -> Study:
    """A folder's record and its tables.

    Raises:
        RunFolderError: `study.json` is missing or cannot be used.
    """
    record = StudyRecord.load(folder)
    return study_of(record, summarise(record))


def render_study(folder: Path) -> str:
    """The page of a study folder; the same folder gives the same bytes.

    Raises:
        RunFolderError: `study.json` is missing or cannot be used.
    """
    study = read_study(folder)
    record = study.record
    parts = (
        ("questions", "What was asked, and what was found", questions(study)),
        ("claims", "Aims", claims_table(study)),
        *(
            (f"experiment-{index}", one.experiment.title, _experiment(study, one))
            for index, one in enumerate(study.summary.experiments, start=1)
        ),
        ("pictures", "Contours on test slices", pictures_part(folder, generated=record.generated)),
        ("leakage", "What leaks", leakage_part(record.leakage)),
        ("holes", "What is missing", holes_part(study)),
        ("statistics", "How the statistics are done", methods_part(study)),
        ("provenance", "Where every number comes from", provenance_part(study)),
        ("limits", "Limits", limits_part(study)),
    )
    contents = [tag("li", tag("a", title, href=f"#{key}")) for key, title, _ in parts]
    body = join(
        tag("header", tag("h1", record.name), tag("p", "secfed study", class_="kicker")),
        lead(study),
        banners(study),
        cards(record.claims),
        tag("nav", tag("ul", contents), aria_label="Contents"),
        [section(key, title, with_epsilon_key(record, content)) for key, title, content in parts],
    )
    return document(f"secfed study: {record.name}", body, style=STUDY_STYLESHEET)


def _experiment(study: Study, one: ExperimentSummary) -> Markup:
    notes = Footnotes()
    experiment, table = one.experiment, one.methods
    found = tag("ul", [tag("li", sentence) for sentence in answers(one)], class_="answers")
    lost = (
        tag("p", f"Its reference, “{experiment.reference}”, is none of its variants.", class_="missing")
        if experiment.reference is not None and table.reference is None
        else None
    )
    opening = join(tag("p", experiment.question, class_="question"), found, lost)
    if one.frontier is not None:
        main = join(
            frontier_figure(study, one.frontier),
            frontier_table(study, one.frontier, experiment, notes),
            organ_tables(table),
        )
    elif experiment.kind == "cost":
        main = join(cost_table(study, one, notes), model_hashes(one), method_table_markup(study, table, notes))
    else:
        main = join(
            method_chart(table),
            method_table_markup(study, table, notes),
            organ_tables(table),
            ratio_part(one.ratios),
        )
    return join(opening, main, table_notes(table, notes), curves_part(study.record, experiment))
