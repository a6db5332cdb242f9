"""The page of a study: true to its summary, honest about holes and epsilons, closed to the network and to names."""

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from small_study import HEART, METHODS, ORGANS, cell, small_study, write_overlays, write_study

from secfed.errors import RunFolderError
from secfed.report import build_report
from secfed.report.markup import DASH, number, percent, signed
from secfed.report.naming import organ_name
from secfed.report.study.notes import interval, probability
from secfed.report.study.stylesheet import STUDY_STYLESHEET
from secfed.results import SIMULATED_NOISE
from secfed.study.record import Claim, Experiment, StudyRecord, Variant
from secfed.study.statistics import Estimate
from secfed.study.summary import ExperimentSummary, summarise

RECORD = small_study()
SUMMARY = summarise(RECORD)
COMPANIONS = ("delta 1e-05", "per patient", "add or remove one", "RDP", SIMULATED_NOISE)
HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'&'


class Reader(HTMLParser):
    """Elements with attributes, text per section, and tables as rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.tables: list[tuple[str, list[list[str]]]] = []
        self._section = ""
        self._open = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.elements.append((name, given))
        self._open = name
        if name == "section":
            self._section = given["id"] or ""
            self.sections[self._section] = ""
        elif name == "table":
            self.tables.append((self._section, []))
        elif name == "tr":
            self.tables[-1][1].append([])
        elif name in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, name: str) -> None:
        self._in_cell = self._in_cell and name not in ("td", "th")
        self._open = "" if name == "style" else self._open

    def handle_data(self, text: str) -> None:
        if self._open == "style":
            return
        self.sections[self._section] += text
        if self._in_cell:
            # Small text under a figure is kept apart from it.
            self.tables[-1][1][-1][-1] += f"|{text}" if self._open in ("small", "sup", "br") else text

    @property
    def text(self) -> str:
        return " ".join(self.sections.values())

    def rows(self, section: str, start: str) -> dict[str, list[str]]:
        """Rows by name of the section's first table whose header starts so."""
        for place, rows in self.tables:
            for index, row in enumerate(rows):
                if place == section and row[: len(start.split("|"))] == start.split("|"):
                    return {cells[0].partition("|")[0]: cells[1:] for cells in rows[index + 1 :]}
        raise AssertionError(f"no table {start!r} in {section}")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_study(tmp_path_factory.mktemp("study"), RECORD)
    return build_report([folder], out=folder / "report.html").read_text()


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def report(folder: Path, record: StudyRecord) -> str:
    return build_report([write_study(folder / "study", record)], out=folder / "report.html").read_text()


def place_of(key: str) -> str:
    return f"experiment-{[one.key for one in RECORD.experiments].index(key) + 1}"


def of(key: str) -> ExperimentSummary:
    return next(one for one in SUMMARY.experiments if one.experiment.key == key)


def shown(found: Estimate | None, digits: int = 3, *, sign: bool = False) -> list[str]:
    """A mean and its interval as a cell has them."""
    if found is None:
        return [DASH]
    value = signed(found.mean, digits) if sign else number(found.mean, digits)
    return [value, interval(found, digits=digits, sign=sign)]


def parts(cell: str) -> list[str]:
    return [part for part in cell.split("|") if not re.fullmatch(r"[a-z†]*", part)]


@pytest.mark.parametrize("key", ["unseen", "federated", "normalisation", "whole-heart"])
def test_every_mean_difference_and_p_is_that_of_the_summary(reader: Reader, key: str) -> None:
    table = of(key).methods
    rows = reader.rows(place_of(key), "Method|Dice|HD95, mm|Difference|p, Holm")
    assert list(rows) == [row.variant for row in table.rows]
    for row in table.rows:
        cells = list(rows[row.variant])
        for result in row.modalities:
            assert parts(cells.pop(0)) == shown(result.mean)
            assert parts(cells.pop(0)) == shown(result.hd95_mm, 1)
            if row.is_reference:
                assert cells.pop(0) == "reference"
                continue
            assert result.comparison is not None
            assert parts(cells.pop(0)) == shown(result.comparison.difference, sign=True)
            assert parts(cells.pop(0)) == [probability(result.p_holm)]
        assert cells == []


@pytest.mark.parametrize(("key", "organs"), [("unseen", ORGANS), ("whole-heart", HEART), ("privacy", ORGANS)])
def test_every_organ_of_every_modality_is_that_of_the_summary(
    reader: Reader, key: str, organs: tuple[str, ...]
) -> None:
    table = of(key).methods
    header = ["Method", "Mean", *map(organ_name, organs)]
    tables = [rows for place, rows in reader.tables if place == place_of(key) and rows[0] == header]
    unseen_first = ("MR", "CT") if key in ("unseen", "whole-heart") else ("CT", "MR")
    assert len(tables) == 2
    for modality, (_, *rows) in zip(unseen_first, tables, strict=True):
        for row, cells in zip(table.rows, rows, strict=True):
            result = row.modality(modality)
            assert cells[0] == row.variant
            assert parts(cells[1]) == shown(result.mean)
            assert [parts(one) for one in cells[2:]] == [shown(result.organs[organ]) for organ in organs]


def test_ratios_stand_beside_the_passes_of_both_sides(reader: Reader) -> None:
    rows = reader.rows(place_of("federated"), "Federated|Centralised")
    for one in of("federated").ratios:
        cells = rows[one.variant]
        index = {"CT": 1, "MR": 2, None: 3}[one.modality]
        assert parts(cells[index]) == [percent(one.ratio.mean), interval(one.ratio, share=True)]
        assert cells[4:6] == [number(one.passes, 2), number(one.centralised_passes, 2)]
        assert cells[6] == ("yes" if one.like_for_like else "NO")
    assert "NOT like for like: 4.00 against 5.00 passes" in reader.sections["questions"]


def test_the_frontier_table_has_each_guarantee_in_full(reader: Reader) -> None:
    found = of("privacy").frontier
    assert found is not None
    rows = reader.rows(place_of("privacy"), "Variant|Epsilon|Dice")
    for point in found.points:
        cells = rows[point.variant]
        assert cells[0] == f"{point.epsilon:.3g}"
        assert parts(cells[1]) == shown(point.dice)
        assert [parts(one) for one in cells[2:4]] == [shown(point.by_modality[name]) for name in ("CT", "MR")]
        assert point.share is not None
        assert parts(cells[4])[0] == percent(point.share.mean)
        assert cells[5] == point.text
    for level in found.levels:
        assert rows[level.variant][0] == DASH
        assert rows[level.variant][5] == ("none: clipped, no noise" if level.clipped else "none: no DP")


def test_equal_models_are_said_in_words_and_shown(reader: Reader) -> None:
    text = reader.sections[place_of("protection")]
    assert "The same final model, bit for bit, by its SHA-256: Plain, Masked and Encrypted at seeds 0, 1 and 2." in text
    for one in of("protection").models:
        assert next(iter(one.variants_of))[:16] in text
    assert "Masked 2.03\N{NO-BREAK SPACE}MB (2.0 times)" in text


def test_no_epsilon_stands_without_its_companions(page: str, reader: Reader) -> None:
    """In every section, and in every table and figure on its own, which may be copied out of the page."""
    named = [key for key, text in reader.sections.items() if "epsilon" in text.lower()]
    assert len(named) >= 5
    for key in named:
        for companion in COMPANIONS:
            assert companion.lower() in reader.sections[key].lower(), (key, companion)
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    tables = re.findall(r"<table.*?</table>", page, flags=re.DOTALL)
    (frontier,) = [figure for figure in figures if "logarithmic" in figure]
    with_values = [table for table in tables if 'scope="col">Epsilon' in table]
    assert len(with_values) == 1
    for part in (frontier, *with_values):
        assert all(companion in part for companion in COMPANIONS)


def test_a_study_without_privacy_names_no_epsilon(tmp_path: Path) -> None:
    record = dataclasses.replace(
        RECORD,
        experiments=tuple(one for one in RECORD.experiments if one.kind == "methods"),
        cells=tuple(cell for cell in RECORD.cells if cell.epsilon is None),
        leakage=(),
        claims=RECORD.claims[:2],
    )
    assert "epsilon" not in Reader(report(tmp_path, record)).text.lower()


def test_phantom_data_are_said_first_and_only_where_they_are(page: str, tmp_path: Path) -> None:
    start = Reader(page).sections[""]
    assert "Phantom data: generated scans." in start
    real = report(tmp_path, dataclasses.replace(RECORD, generated=False))
    assert "Phantom data" not in real
    assert "handle this file as patient data" in real
    assert "Phantoms are not scans" in page


def test_every_hole_is_listed_marked_and_explained(page: str, reader: Reader) -> None:
    holes = reader.rows("holes", "Cell|Seed|State|Reason|Missing from")
    assert {name: cells[1:3] for name, cells in holes.items()} == {
        hole.cell: [hole.status, hole.reason] for hole in SUMMARY.holes
    }
    table = reader.rows(place_of("unseen"), "Method|Dice|HD95, mm|Difference|p, Holm")
    assert parts(table["FDA"][0]) == shown(of("unseen").methods.row("FDA").modality("CT").mean)
    assert "“FDA”, seeds struck out: failed: training diverged" in reader.sections[place_of("unseen")]
    # A variant without any model is a row of dashes, in each table and as a row of the chart.
    lost = reader.rows(place_of("federation"), "Method|Dice|HD95, mm|Difference|p, Holm")["FedAvg, 8 sites"]
    assert {part for cell in lost for part in parts(cell)} == {DASH}
    assert "no data" in reader.sections[place_of("federation")]
    assert "4 of 147 models are not there" in reader.sections[""]
    assert page.count('class="hole"') == 4


def test_each_row_links_to_its_cells_and_each_cell_tells_its_origin(page: str, reader: Reader) -> None:
    anchors = {given["id"] for _, given in reader.elements if given.get("id")}
    links = [given["href"] or "" for name, given in reader.elements if name == "a"]
    assert all(link.startswith("#") and link[1:] in anchors for link in links)
    rows = reader.rows("provenance", "Cell|Seed|State")
    for index, one in enumerate(RECORD.cells, start=1):
        assert f"#cell-{index}" in links
        cells = rows[one.key]
        assert cells[0] == str(one.seed)
        assert cells[4:6] == [one.config_digest[:12], one.code_digest[:12]]
        assert cells[6] == (DASH if one.job is None else one.job.model_hash[:12])
        assert f'title="{one.config_digest}"' in page
        assert ("epsilon" in cells[3]) == (one.epsilon is not None)
        assert one.epsilon is None or all(companion in cells[3] for companion in COMPANIONS)


def test_the_claims_are_shown_with_their_verdicts(reader: Reader) -> None:
    rows = reader.rows("claims", "Claim|Aim|Found|Verdict")
    verdicts = {True: "met", False: "missed", None: "no data"}
    for claim in RECORD.claims:
        cells = rows[claim.claim]
        assert cells[0] == claim.aim
        assert parts(cells[1])[0] == claim.value
        assert cells[2].split(" ", 1)[1] == verdicts[claim.met]


def test_a_p_that_the_interval_contradicts_is_marked(reader: Reader) -> None:
    """Seeds that differ more than patients make p small for a difference that other seeds may not have."""
    rows = reader.rows(place_of("unseen"), "Method|Dice|HD95, mm|Difference|p, Holm")
    for row in of("unseen").methods.rows:
        result = row.modality("CT")
        if result.comparison is None or result.p_holm is None:
            continue
        low, high = result.comparison.difference.low, result.comparison.difference.high
        assert low is not None
        assert high is not None
        assert ("|" in rows[row.variant][3]) == (low <= 0 <= high and result.p_holm < 0.05)
    assert "no difference lies inside it" in reader.sections[place_of("unseen")]


def test_every_part_has_its_figures(page: str) -> None:
    captions = re.findall(r"<figcaption>([^<]*)<small>", page)
    assert captions.count("Mean Dice over organs") == 7
    assert captions.count("Dice against epsilon") == 1
    assert captions.count("Validation Dice per round") == 9
    assert captions.count("Dice in percent of centralised training") == 1
    assert {"PSNR, dB", "TPR at 1 % FPR"} <= set(captions)
    assert page.count("<b>MRI · worst case") == page.count("<b>CT · best case") == 2


def test_the_chart_is_sorted_by_the_modality_that_nobody_saw(page: str) -> None:
    section = page[page.index('id="experiment-1"') : page.index('id="experiment-2"')]
    names = re.findall(r'class="dotname"><span>(.*?)</span>', section)
    means = {row.variant: row.modality("MR").mean for row in of("unseen").methods.rows}
    assert sorted(names) == sorted(METHODS)
    found = [means[name] for name in names]
    values = [one.mean for one in found if one is not None]
    assert values == sorted(values, reverse=True)


def test_every_figure_has_words_for_those_who_do_not_see_it(reader: Reader) -> None:
    images = [given for _, given in reader.elements if given.get("role") == "img"]
    assert len(images) > 50
    drawn = [given for name, given in reader.elements if name == "svg" and not given.get("role")]
    # What is neither described nor hidden is part of a drawing that is.
    assert all(given.get("aria-hidden") or given.get("overflow") for given in drawn)


def test_the_page_loads_and_runs_nothing(page: str, reader: Reader) -> None:
    assert not {name for name, _ in reader.elements} & {"script", "link", "base", "iframe", "object", "img", "form"}
    targets = [value for name, given in reader.elements for key, value in given.items() if key in ("src", "href")]
    assert all(value is not None and value.startswith(("#", "data:image/png;base64,")) for value in targets)
    (policy,) = [given["content"] for _, given in reader.elements if given.get("http-equiv")]
    assert policy == "default-src 'none'; script-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"url\(|@import|http", STUDY_STYLESHEET)
    assert page.count("<style>") == 1


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path, reader: Reader) -> None:
    tree = json.loads((write_study(tmp_path / "plain", RECORD) / "study.json").read_text())
    names = {one["key"]: f"{one['key']}{HOSTILE}" for one in tree["cells"]}
    for one in tree["cells"]:
        one |= {"key": names[one["key"]], "augmentation": HOSTILE, "normalisation": HOSTILE, "federation": HOSTILE}
        one["reason"] = HOSTILE if one["status"] != "complete" else None
    for experiment in tree["experiments"]:
        experiment |= {"key": f"{experiment['key']}{HOSTILE}", "title": HOSTILE, "question": HOSTILE}
        experiment["reference"] = f"{experiment['reference']}{HOSTILE}"
        for variant in experiment["variants"]:
            variant |= {"name": f"{variant['name']}{HOSTILE}", "note": HOSTILE}
            variant["cells"] = [names[key] for key in variant["cells"]]
    for row in tree["leakage"]:
        row |= {"target": HOSTILE, "protection": HOSTILE, "metric": HOSTILE, "unit": HOSTILE, "note": HOSTILE}
    tree["claims"] = [one | dict.fromkeys(("claim", "aim", "value", "note"), HOSTILE) for one in tree["claims"]]
    tree |= {"name": HOSTILE, "scale": HOSTILE, "command": HOSTILE}
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(tree))
    write_overlays(folder, patient=HOSTILE)
    text = build_report([folder], out=folder / "report.html").read_text()
    assert "<script" not in text
    assert "<img" not in text
    found = Reader(text)
    assert HOSTILE in found.text
    # The same elements with the same attributes, whatever the names.
    before, after = ([(name, sorted(given)) for name, given in one.elements] for one in (reader, found))
    assert {name for name, _ in after} == {name for name, _ in before}
    assert {key for _, given in after for key in given} == {key for _, given in before for key in given}


def test_the_same_study_gives_the_same_bytes(tmp_path: Path, page: str) -> None:
    assert report(tmp_path, small_study()) == page


def test_one_seed_says_so(tmp_path: Path) -> None:
    text = Reader(report(tmp_path, small_study(seeds=(0,), with_holes=False))).text
    assert "n = 1 seed: how much a repetition would differ is not known" in text
    assert "With one seed it carries patients only" in text
    assert "n = 1 seed: at least three are needed" in text
    assert "None: every model that was planned was trained and tested" in text


@pytest.mark.parametrize("kind", ["methods", "frontier", "cost", "table"])
def test_an_experiment_of_holes_still_has_its_page(tmp_path: Path, kind: Any) -> None:
    made = [cell("x", seed=seed, quality={"CT": 0.9}, seen=("CT",)) for seed in (0, 1)]
    gone = [dataclasses.replace(one, status="missing", job=None, scores=(), curves=()) for one in made]
    record = dataclasses.replace(
        RECORD,
        cells=tuple(gone),
        experiments=(
            Experiment(
                key="k",
                title="Title",
                question="Question?",
                kind=kind,
                task="abdomen",
                reference="nobody",
                variants=(Variant(name="X", cells=("x-s0", "x-s1")),),
            ),
        ),
        leakage=(),
        claims=(Claim(claim="c", aim="a", value="v", met=None),),
    )
    found = Reader(report(tmp_path, record))
    assert "No model of this experiment was trained" in found.text
    assert "Its reference, “nobody”, is none of its variants." in found.text
    assert "no reason was recorded" in found.text
    assert "This study ran no attack" in found.text


def test_without_pictures_the_page_says_so(tmp_path: Path) -> None:
    folder = write_study(tmp_path, RECORD)
    (folder / "overlays.npz").unlink()
    text = build_report([folder], out=folder / "report.html").read_text()
    assert "This study has no overlays.npz." in text
    (folder / "overlays.npz").write_bytes(b"PK")
    assert "overlays.npz cannot be used" in build_report([folder], out=folder / "report.html").read_text()


def test_a_study_stands_alone_on_its_page(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", RECORD)
    with pytest.raises(RunFolderError, match=r"is a study, which has a page of its own: give it alone"):
        build_report([folder, tmp_path], out=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_study_that_cannot_be_read_is_an_error_and_leaves_the_old_page(tmp_path: Path) -> None:
    folder = write_study(tmp_path, RECORD)
    (folder / "report.html").write_text("old")
    (folder / "study.json").write_text("{")
    with pytest.raises(RunFolderError, match="not a study that this secfed can read"):
        build_report([folder], out=folder / "report.html")
    assert (folder / "report.html").read_text() == "old"


def test_the_command_writes_the_page_beside_the_study_and_prints_its_tables(tmp_path: Path) -> None:
    folder = write_study(tmp_path, RECORD)
    done = subprocess.run(
        [sys.executable, "-m", "secfed.cli", "report", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    printed = json.loads(done.stdout)
    assert printed["report"] == str(folder / "report.html")
    assert (folder / "report.html").exists()
    assert printed["study"] == json.loads(json.dumps(SUMMARY.as_dict()))


def test_a_variant_of_one_seed_among_others_of_three_is_marked(tmp_path: Path) -> None:
    first = RECORD.experiments[0]
    fewer = dataclasses.replace(first.variants[8], cells=first.variants[8].cells[:1])
    changed = dataclasses.replace(first, variants=(first.variants[0], fewer))
    text = report(tmp_path, dataclasses.replace(RECORD, experiments=(changed,)))
    assert "n = 1 seed: the interval is over patients alone." in Reader(text).sections["experiment-1"]


def test_an_epsilon_that_bounds_nothing_is_called_so(tmp_path: Path) -> None:
    privacy = next(one for one in RECORD.experiments if one.kind == "frontier")
    loose = {key for variant in privacy.variants[4:5] for key in variant.cells}
    cells = []
    for one in RECORD.cells:
        if one.key in loose and one.job is not None and one.job.privacy is not None:
            paid = dataclasses.replace(one.job.privacy, epsilon=5427.0)
            job = dataclasses.replace(one.job, privacy=paid)
            cells.append(dataclasses.replace(one, job=job, epsilon=5427.0, privacy=paid.text()))
        else:
            cells.append(one)
    record = dataclasses.replace(RECORD, cells=tuple(cells), experiments=(privacy,))
    rows = Reader(report(tmp_path, record)).rows("experiment-1", "Variant|Epsilon|Dice")
    cells_of_it = rows[privacy.variants[4].name]
    assert cells_of_it[0] == "5427"
    assert cells_of_it[5].endswith("an epsilon so large bounds nothing")
    assert all(companion in cells_of_it[5] for companion in COMPANIONS)


def test_a_difference_that_may_be_none_is_not_called_one(reader: Reader) -> None:
    sentence = next(
        text for text in reader.sections["questions"].split("\n") if "FedProx has the highest mean Dice" in text
    )
    assert "which the interval cannot tell from no difference" in sentence
