"""The page: true to the rows, closed to the network and to hostile names, and whole without the optional figures."""

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secfed.errors import RunFolderError
from secfed.report import build_report
from secfed.report.markup import DASH, tag
from secfed.report.stylesheet import STYLESHEET
from secfed.results import CurvePoint, JobRecord, Provenance, ResultRow, RunRecord, overall, ratio, score

ORGANS = ("liver", "spleen", "kidney_right", "kidney_left", "pancreas", "gallbladder", "stomach", "aorta")
EASE = (0.93, 0.88, 0.87, 0.86, 0.55, 0.58, 0.71, 0.8)
SKILL = {
    "federated": (0.97, 0.95),
    "centralised": (1.0, 0.97),
    "federated_without_augmentation": (0.975, 0.52),
    "modality:CT": (0.965, 0.31),
    "site:ct-1": (0.9, 0.26),
    "site:mr-1": (0.12, 0.88),
}
UNSEEN = {"modality:CT": ("MR",), "site:ct-1": ("MR",), "site:mr-1": ("CT",)}
CONFIG = """name = "{name}"
seed = {seed}

[preprocessing]
spacing_mm = [5.0, 5.0, 5.0]

[protection]
mode = "masked"

[[sites]]
name = "ct-1"
modality = "CT"
phantom = {{ protocol = "ct", train = 10 }}

[[sites]]
name = "ct-2"
modality = "CT"
phantom = {{ protocol = "ct", train = 6 }}

[[sites]]
name = "mr-1"
modality = "MR"
phantom = {{ protocol = "mr", train = 8 }}

[[test]]
name = "test-mr"
phantom = {{ protocol = "mr", test = 6 }}
"""


def training_of(model: str) -> Any:
    starts = {"federated": "federated", "centralised": "centralised", "site": "single_site"}
    return next((kind for start, kind in starts.items() if model.startswith(start)), "single_modality")


def rows_of(model: str, *, seed: int, noise: np.random.Generator) -> list[ResultRow]:
    rows = []
    for modality, skill, unit_count in zip(("CT", "MR"), SKILL[model], (8, 6), strict=True):
        values = [min(0.99, skill * ease + noise.uniform(-0.015, 0.015)) for ease in EASE]
        shared: dict[str, Any] = {
            "model": model,
            "training": training_of(model),
            "augmentation": "none" if "without" in model else "gin",
            "protection": "masked" if model.startswith("federated") else "plain",
            "privacy": "off",
            "test_modality": modality,
            "seen": modality not in UNSEEN.get(model, ()),
            "n": unit_count,
            "seed": seed,
        }
        for organ, value in zip((*ORGANS, "mean"), (*values, float(np.mean(values))), strict=True):
            spread = noise.uniform(0.01, 0.08)
            rows.append(ResultRow(organ=organ, metric="dice", value=value, unit="1", patients_std=spread, **shared))
            distance = None if organ == "gallbladder" and value < 0.2 else 4 + 60 * (1 - value)
            rows.append(ResultRow(organ=organ, metric="hd95", value=distance, unit="mm", **shared))
    return rows


def job_of(model: str, rounds: int) -> JobRecord:
    federated = model.startswith("federated")
    parties = {"ct-1": 400, "ct-2": 240, "mr-1": 320} if federated else {"all": 960}
    return JobRecord(
        model=model,
        training=training_of(model),
        augmentation="none" if "without" in model else "gin",
        protection="masked" if federated else "plain",
        rounds=rounds,
        seconds=171.4 if federated else 122.0,
        training_seconds=150.2 if federated else 118.0,
        protection_seconds=9.1 if federated else 0.0,
        exchanges=rounds * 2 + 1 if federated else 0,
        bytes_up=3 * rounds * 2_031_616 if federated else 0,
        bytes_down=3 * rounds * 1_015_808 if federated else 0,
        samples_seen=parties,
        passes=dict.fromkeys(parties, 4.0),
        model_hash=hashlib.sha256(model.encode()).hexdigest(),
        survivors_min=3 if federated else None,
    )


def curves_of(model: str, rounds: int, noise: np.random.Generator) -> list[CurvePoint]:
    points = []
    for number in range(1, rounds + 1):
        rise = 1 - math.exp(-number / 6)
        loss = 2.2 - 1.6 * rise + noise.normal(0, 0.03)
        points.append(CurvePoint(model=model, round=number, metric="train_loss", modality="all", value=loss))
        if number % 2 == 0:
            for modality, skill in zip(("CT", "MR"), SKILL[model], strict=True):
                value = 0.8 * skill * rise + noise.normal(0, 0.01)
                points.append(
                    CurvePoint(model=model, round=number, metric="validation_dice", modality=modality, value=value)
                )
    return points


def fake_record(*, name: str = "demo", seed: int = 0, models: tuple[str, ...] = tuple(SKILL)) -> RunRecord:
    noise = np.random.default_rng(seed)
    return RunRecord(
        name=name,
        provenance=Provenance(
            config_digest=hashlib.sha256(f"{name}{seed}".encode()).hexdigest(),
            code_digest="0f" * 32,
            seed=seed,
            versions={"torch": "2.13.0", "monai": "1.6.1", "flwr": "1.41.0", "numpy": "2.3.1"},
            device="CPU, 2 cores",
            python="3.11.9",
            started="2026-01-02T03:04:05+00:00",
            seconds_total=812.0,
        ),
        jobs=tuple(job_of(model, 20) for model in models),
        results=tuple(row for model in models for row in rows_of(model, seed=seed, noise=noise)),
        curves=tuple(point for model in models[:3] for point in curves_of(model, 20, noise)),
    )


def ellipse(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> Any:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def fake_slice(modality: str) -> tuple[Any, Any, Any]:
    """Row 0 is posterior, column 0 the patient's left: the liver stands at high columns."""
    shape = (64, 80)
    noise = np.random.default_rng(7)
    body = ellipse(shape, (32, 40), (26, 36))
    parts = {
        1: ((36, 56), (14, 15)),
        2: ((26, 18), (9, 7)),
        3: ((20, 55), (6, 4)),
        4: ((20, 25), (6, 4)),
        8: ((22, 40), (3, 3)),
    }
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    image = np.where(body, 0.45, 0.0)
    for label, (centre, radii) in parts.items():
        reference[ellipse(shape, centre, radii)] = label
        prediction[ellipse(shape, (centre[0] + 1, centre[1] - 0.6), (radii[0] - 0.6, radii[1]))] = label
        image[ellipse(shape, centre, radii)] = 0.55 + 0.05 * label if modality == "CT" else 0.75 - 0.06 * label
    image = image + noise.normal(0, 0.03 if modality == "CT" else 0.06, shape) * body
    return image.astype(np.float32), reference, prediction


def write_overlays(folder: Path, *, patient: str = "p-003") -> None:
    arrays, meta = {}, []
    for index, modality in enumerate(("CT", "MR")):
        image, reference, prediction = fake_slice(modality)
        arrays |= {f"{index}_image": image, f"{index}_reference": reference, f"{index}_prediction": prediction}
        meta.append(
            {
                "model": "federated",
                "patient": patient,
                "modality": modality,
                "site_or_set": f"test-{modality.lower()}",
                "slice_index": 21,
                "spacing_mm": [5.0, 5.0],
                "organs": list(ORGANS),
            }
        )
    encoded = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    (folder / "figures").mkdir(exist_ok=True)
    np.savez_compressed(folder / "figures" / "overlays.npz", meta=encoded, **arrays)


def write_view(folder: Path, **changes: Any) -> None:
    noise = np.random.default_rng(3)
    entries = 480_000
    centred = np.abs((np.arange(256) + 128) % 256 - 128)
    plain = np.round(entries * np.exp(-centred / 1.3) / np.exp(-centred / 1.3).sum())
    view = {
        "site": "mr-1",
        "round": 20,
        "protection": "masked",
        "masked_counts": noise.multinomial(entries, np.full(256, 1 / 256)).tolist(),
        "plain_counts": [int(count) for count in plain],
        "entries": entries,
    }
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "aggregator_view.json").write_text(json.dumps(view | changes))


def write_run(folder: Path, record: RunRecord) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder)
    seed = record.provenance.seed
    (folder / "config.toml").write_text(CONFIG.format(name="demo", seed=seed))
    write_overlays(folder)
    write_view(folder)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    return build_report([write_run(folder / "run", fake_record())], out=folder / "report.html").read_text()


def report(folder: Path, change: Callable[[Path], Any] = lambda run: None, record: RunRecord | None = None) -> str:
    run = write_run(folder / "run", record or fake_record(models=("federated", "centralised")))
    change(run)
    return build_report([run], out=folder / "report.html").read_text()


class Reader(HTMLParser):
    """Elements with their attributes, the text of the page and its tables as lists of rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._open = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        self._open = name
        if name == "table":
            self.tables.append([])
        elif name == "tr":
            self.tables[-1].append([])
        elif name in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True
        elif name == "script":
            self.scripts.append("")

    def handle_endtag(self, name: str) -> None:
        self._in_cell = self._in_cell and name not in ("td", "th")
        self._open = "" if name in ("script", "style") else self._open

    def handle_data(self, text: str) -> None:
        if self._open == "script":
            self.scripts[-1] += text
        elif self._open != "style":
            self.words.append(text)
            if self._in_cell:
                self.tables[-1][-1][-1] += text

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def scores(self, table: int) -> dict[tuple[str, str, str], str]:
        """Figures by (modality, row name, column name); 'Kidney, right' is read back as 'kidney_right'."""
        head, *rows = self.tables[table]
        found, modality = {}, ""
        for name, *cells in rows:
            if not cells:
                modality = {"CT": "CT", "MRI": "MR", "All": "all"}[name.split()[0]]
            key = name.lower().replace(", ", "_")
            found |= {
                (modality, key, column): re.sub(r"([†±]|n =).*", "", cell)
                for column, cell in zip(head[1:], cells, strict=False)
            }
        return found


NAMES = {
    "federated": "Federated",
    "centralised": "Centralised",
    "federated_without_augmentation": "Federated, no GIN",
    "modality:CT": "CT data only",
    "site:ct-1": "ct-1 alone",
    "site:mr-1": "mr-1 alone",
}


def test_every_figure_of_the_score_tables_is_that_of_its_row(page: str) -> None:
    reader = Reader(page)
    tables = {"dice": reader.scores(0), "hd95": reader.scores(1)}
    rows = fake_record().results
    assert len(rows) == len(SKILL) * 2 * 9 * 2
    for row in rows:
        organ = "mean over organs" if row.organ == "mean" else row.organ
        shown = tables[row.metric].pop((row.test_modality, organ, NAMES[row.model]))
        digits = 3 if row.metric == "dice" else 1
        assert shown == (DASH if row.value is None else f"{row.value:.{digits}f}")
    assert not tables["hd95"]
    assert {name for _, name, _ in tables["dice"]} == {"ratio to centralised", "gain from gin", "mean of ct and mri"}


def test_ratios_and_overall_means_are_those_that_the_rows_give(page: str) -> None:
    shown, record = Reader(page).scores(0), fake_record()
    for model, name in NAMES.items():
        assert shown["all", "mean of ct and mri", name] == f"{overall(record, model):.3f}"
        for modality in ("CT", "MR", None):
            value = ratio(record, model=model, modality=modality)
            assert value is not None
            expected = "100 %" if model == "centralised" else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
            assert shown[modality or "all", "ratio to centralised", name] == expected


def test_the_headline_gives_dice_ratio_and_gain(page: str) -> None:
    text, record = Reader(page).text, fake_record()
    with_gin, without = (
        score(record.results, model=model, modality="MR") for model in ("federated", "federated_without_augmentation")
    )
    assert with_gin is not None
    assert without is not None
    assert f"{overall(record, 'federated'):.3f} federated mean Dice" in text
    assert f"{100 * (ratio(record) or 0):.1f} % of centralised" in text
    assert "both made 4.00 passes over the same training data" in text
    assert f"+{with_gin.mean - without.mean:.3f} from GIN on MRI" in text
    assert "3 sites (ct-1 and ct-2 with CT, mr-1 with MRI)" in text


def test_the_best_figure_of_a_row_and_no_other_is_marked(tmp_path: Path) -> None:
    values = {"federated": 0.8004, "centralised": 0.8, "site:ct-1": 0.7}
    record = fake_record(models=tuple(values))
    rows = [row for row in record.results if row.metric == "dice" and row.test_modality == "CT"]
    rows = [dataclasses.replace(row, value=values[row.model]) for row in rows]
    text = report(tmp_path, record=dataclasses.replace(record, results=tuple(rows)))
    # 0.8004 and 0.8 are shown as the same number, so neither may look better than the other.
    assert re.findall(r'class="best">([^<]*)<', text) == ["0.800"] * 18


def test_unequal_numbers_of_passes_are_called_unfair(tmp_path: Path) -> None:
    record = fake_record(models=("federated", "centralised"))
    jobs = tuple(
        dataclasses.replace(job, samples_seen={"all": 4800}, passes={"all": 20.0}) if not job.exchanges else job
        for job in record.jobs
    )
    text = Reader(report(tmp_path, record=dataclasses.replace(record, jobs=jobs))).text
    assert "NOT like for like: federated made 4.00 passes over the training data, centralised 20.00" in text


def test_without_a_centralised_model_there_is_no_ratio(tmp_path: Path) -> None:
    reader = Reader(report(tmp_path, record=fake_record(models=("federated",))))
    assert "this run trained no centralised reference" in reader.text
    assert not any("Ratio to centralised" in row for table in reader.tables for row in table)


def test_without_a_usable_reference_the_headline_says_why_there_is_no_ratio(tmp_path: Path) -> None:
    record = fake_record(models=("federated", "centralised"))
    rows = [dataclasses.replace(row, value=0.0) if row.model == "centralised" else row for row in record.results]
    text = Reader(report(tmp_path, record=dataclasses.replace(record, results=tuple(rows)))).text
    assert "no ratio to centralised one of the two has no mean Dice above zero" in text


def test_a_missing_value_is_a_dash(tmp_path: Path) -> None:
    record = fake_record(models=("federated", "centralised"))
    rows = tuple(
        dataclasses.replace(row, value=None, patients_std=None) if row.organ == "pancreas" else row
        for row in record.results
    )
    reader = Reader(report(tmp_path, record=dataclasses.replace(record, results=rows)))
    assert reader.scores(0)["CT", "pancreas", "Federated"] == DASH
    assert f"{DASH} not defined" in reader.text


def test_one_seed_is_called_n_1(page: str) -> None:
    assert "n = 1 seed" in Reader(page).text


def test_unseen_modalities_are_marked_for_each_model(page: str) -> None:
    cells = dict(zip(*(Reader(page).tables[0][index] for index in (0, 2)), strict=True))
    assert [name for name, cell in cells.items() if "†" in cell] == ["mr-1 alone"]


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    elements = Reader(page).elements
    targets = [value for _, names in elements for key, value in names.items() if key in ("src", "href", "action")]
    assert targets
    assert all(value is not None and value.startswith("data:image/png;base64,") for value in targets)
    assert not {name for name, _ in elements} & {"link", "base", "iframe", "object", "embed", "img", "form"}
    styles = [page[found.end() : page.index("</style>", found.end())] for found in re.finditer("<style>", page)]
    assert styles == [STYLESHEET]
    assert not re.search(r"url\(|@import|http", STYLESHEET)


def test_the_policy_forbids_the_network_and_every_other_script(page: str) -> None:
    reader = Reader(page)
    (policy,) = [names["content"] for name, names in reader.elements if names.get("http-equiv")]
    kinds = [names.get("type") for name, names in reader.elements if name == "script"]
    assert kinds == ["application/json", None, None]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in reader.scripts[1:]
    )
    assert policy == f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"


def test_plotly_is_in_the_page_once_and_only_with_curves(tmp_path: Path, page: str) -> None:
    record = dataclasses.replace(fake_record(), curves=())
    bare = report(tmp_path, record=record)
    assert page.count("plotly.js v") == 1
    assert not Reader(bare).scripts
    assert len(bare) < 500_000
    assert "This run recorded no learning curves." in bare


def test_the_curves_hold_every_point(page: str) -> None:
    panels = json.loads(Reader(page).scripts[0])
    drawn = {
        (panel["unit"], trace["name"], x, y)
        for panel in panels
        for trace in panel["traces"]
        for x, y in zip(trace["x"], trace["y"], strict=True)
    }
    units = {"train_loss": "loss", "validation_dice": "Dice"}
    points = fake_record().curves
    assert len(panels) == 3
    assert drawn == {(units[point.metric], NAMES[point.model], point.round, point.value) for point in points}


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", fake_record())
    first, second = (build_report([run], out=tmp_path / name).read_bytes() for name in ("one.html", "two.html"))
    assert first == second


EVIL = "</script></table></style>\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"


def test_hostile_strings_are_text_and_nothing_else(tmp_path: Path) -> None:
    record = fake_record(models=("federated", "centralised", "site:ct-1"))

    def hostile(row: Any) -> Any:
        changes = {"model": f"site:{EVIL}"} if row.model == "site:ct-1" else {}
        if getattr(row, "organ", "") == "aorta":
            changes["organ"] = EVIL
        if isinstance(row, CurvePoint) and row.model == "centralised":
            changes["model"] = f"site:{EVIL}"
        if isinstance(row, ResultRow):
            changes["privacy"] = EVIL
        return dataclasses.replace(row, **changes)

    origin = dataclasses.replace(record.provenance, device=EVIL, versions={EVIL: EVIL}, started=EVIL, code_digest=EVIL)
    record = dataclasses.replace(
        record,
        name=EVIL,
        provenance=origin,
        jobs=tuple(map(hostile, record.jobs)),
        results=tuple(map(hostile, record.results)),
        curves=tuple(map(hostile, record.curves)),
    )

    def spoil(run: Path) -> None:
        write_overlays(run, patient=EVIL)
        write_view(run, site=EVIL, protection=EVIL)
        quoted = json.dumps(EVIL)
        (run / "config.toml").write_text(f"note = {quoted}\n[[sites]]\nname = {quoted}\nmodality = {quoted}\n")

    reader = Reader(report(tmp_path, spoil, record))
    names = [name for name, _ in reader.elements]
    assert names.count("script") == 3
    assert "img" not in names
    assert not [key for _, attributes in reader.elements for key in attributes if key.startswith("on")]
    assert not any("alert(1)" in script for script in reader.scripts[1:])
    assert "<" not in reader.scripts[0]
    assert reader.text.count("<script>alert(1)</script>") > 15


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("figures/overlays.npz", "This run folder has no figures/overlays.npz."),
        ("figures/aggregator_view.json", "This run folder has no figures/aggregator_view.json."),
        ("config.toml", "This run folder has no readable config.toml."),
    ],
)
def test_a_missing_file_is_named_and_the_rest_is_shown(tmp_path: Path, name: str, sentence: str) -> None:
    reader = Reader(report(tmp_path, lambda run: (run / name).unlink()))
    assert sentence in reader.text
    assert reader.scores(0)["CT", "liver", "Federated"] != DASH


def save_objects(run: Path) -> None:
    np.savez(run / "figures" / "overlays.npz", meta=np.array([{"a": 1}], dtype=object))


def save_without_slices(run: Path) -> None:
    np.savez(run / "figures" / "overlays.npz", meta=np.frombuffer(b'[{"model": "federated"}]', dtype=np.uint8))


def save_slices_of_other_shapes(run: Path) -> None:
    with np.load(run / "figures" / "overlays.npz") as arrays:
        changed = {name: array[:3] if name == "1_prediction" else array for name, array in arrays.items()}
    np.savez(run / "figures" / "overlays.npz", **changed)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda run: (run / "figures/overlays.npz").write_bytes(b"PK\3\4 cut"), "figures/overlays.npz cannot be used"),
        (lambda run: (run / "figures/overlays.npz").write_bytes(b""), "figures/overlays.npz cannot be used"),
        (save_objects, "overlays.npz cannot be used: ValueError: Object arrays cannot be loaded"),
        (save_without_slices, "overlays.npz cannot be used: KeyError"),
        (save_slices_of_other_shapes, "slice 1 has shapes"),
        (lambda run: (run / "figures/aggregator_view.json").write_text("{"), "aggregator_view.json cannot be used"),
        (lambda run: write_view(run, masked_counts=[1] * 255), "a histogram must be a list of 256 counts"),
        (lambda run: write_view(run, masked_counts=[0] * 256), "a histogram counts nothing"),
        (lambda run: write_view(run, plain_counts=[-1] * 256), "a histogram must be a list of 256 counts"),
        (lambda run: write_view(run, plain_counts=None), "The same update without protection was not recorded."),
        (lambda run: (run / "config.toml").write_bytes(b"\xff"), "This run folder has no readable config.toml."),
        (lambda run: (run / "config.toml").write_text("= ="), "whether the data were synthetic is not known"),
    ],
)
def test_a_damaged_figure_is_explained_and_not_a_crash(
    tmp_path: Path, change: Callable[[Path], Any], sentence: str
) -> None:
    assert sentence in Reader(report(tmp_path, change)).text


def test_a_flat_histogram_is_called_flat_and_another_is_not(tmp_path: Path, page: str) -> None:
    skewed = [1000 + value for value in range(256)]
    text = Reader(report(tmp_path, lambda run: write_view(run, masked_counts=skewed))).text
    assert "It is flat" in Reader(page).text
    assert "p < 0.0001. It is NOT flat" in text


def test_an_unmasked_upload_is_not_presented_as_protected(tmp_path: Path) -> None:
    text = Reader(report(tmp_path, lambda run: write_view(run, protection="plain", plain_counts=None))).text
    assert "the aggregator saw this site's update itself" in text
    assert "It is flat" not in text


def encrypted(record: RunRecord) -> RunRecord:
    """The same run, had its federated model been trained under encryption."""
    return dataclasses.replace(
        record,
        results=tuple(
            dataclasses.replace(row, protection="encrypted") if row.training == "federated" else row
            for row in record.results
        ),
        jobs=tuple(
            dataclasses.replace(job, protection="encrypted") if job.training == "federated" else job
            for job in record.jobs
        ),
    )


def test_an_encrypted_run_says_what_the_aggregator_saw_and_whom_it_trusts(tmp_path: Path) -> None:
    record = encrypted(fake_record(models=("federated", "centralised")))
    text = Reader(report(tmp_path, lambda run: write_view(run, protection="encrypted"), record)).text
    assert "Protection: homomorphic encryption (encrypted)" in text
    assert "The aggregator saw ciphertexts only, neither updates nor their sum nor the model." in text
    assert "any one site that works with the aggregator can read every update of every site and round" in text
    assert "Metrics from the sites' books: the aggregator of an encrypted run cannot see them." in text
    assert "ciphertexts go up, and the encrypted sum of the round before comes down" in text
    assert "Every site reads the sum over 3 sites" in text
    assert "secfed site export" in text
    assert "mask" not in text.split("What was protected")[1].split("Provenance")[0].lower()


def test_the_histogram_of_an_encrypted_upload_counts_bytes_of_ciphertexts(tmp_path: Path) -> None:
    record = encrypted(fake_record(models=("federated",)))
    flat = Reader(report(tmp_path / "flat", lambda run: write_view(run, protection="encrypted"), record)).text
    shown = flat.split("What the aggregator saw of one site")[1].split("What was protected")[0]
    assert "480,000 ciphertext bytes" in shown
    assert "The update inside, which it could not read" in shown
    assert "It is flat" in shown
    assert "a key that every site holds and the aggregator does not" in shown
    assert "mask" not in shown
    skewed = [1000 + value for value in range(256)]
    text = Reader(
        report(tmp_path / "skewed", lambda run: write_view(run, protection="encrypted", masked_counts=skewed), record)
    ).text
    assert "It is NOT flat, but the bytes of ciphertexts are" in text


def test_other_runs_say_nothing_of_books_or_ciphertexts(page: str) -> None:
    text = Reader(page).text
    assert "sites' books" not in text
    assert "ciphertext" not in text


@pytest.mark.parametrize("privacy", ["off", "none"])
def test_no_differential_privacy_is_said_in_plain_words(tmp_path: Path, privacy: str) -> None:
    record = fake_record(models=("federated",))
    rows = tuple(dataclasses.replace(row, privacy=privacy) for row in record.results)
    text = Reader(report(tmp_path, record=dataclasses.replace(record, results=rows))).text
    assert "No DP guarantee." in text
    assert "no differential privacy" in text
    assert "The run states" not in text


def test_scores_over_fewer_patients_say_how_many(tmp_path: Path) -> None:
    record = fake_record(models=("federated",))
    rows = tuple(dataclasses.replace(row, n=2) if row.organ == "aorta" else row for row in record.results)
    text = report(tmp_path, record=dataclasses.replace(record, results=rows))
    assert text.count("<small>n = 2</small>") == 4
    assert "8 test patients" in text


def test_a_reference_that_trains_in_one_place_has_no_traffic(page: str) -> None:
    head, *rows = next(table for table in Reader(page).tables if "Rounds" in [row[0] for row in table])
    traffic = {name: dict(zip(head[1:], cells, strict=True)) for name, *cells in rows if "per" in name}
    assert len(traffic) == 3
    for cells in traffic.values():
        assert DASH not in (cells["Federated"], cells["Federated, no GIN"])
        assert {cells[name] for name in head[1:] if not name.startswith("Federated")} == {DASH}


@pytest.mark.parametrize("config", ['[[sites]]\nname = "ct-1"\nmodality = "CT"\nfolder = "scans"\n', ""])
def test_scans_that_may_be_of_patients_make_the_file_patient_data(tmp_path: Path, config: str) -> None:
    warning = "handle this file as patient data"
    assert warning in Reader(report(tmp_path, lambda run: (run / "config.toml").write_text(config))).text
    assert warning not in Reader(report(tmp_path)).text


def three_seeds(folder: Path) -> list[Path]:
    models = ("federated", "centralised", "federated_without_augmentation")
    return [
        write_run(folder / f"run-{seed}", fake_record(name=f"seed-{seed}", seed=seed, models=models))
        for seed in range(3)
    ]


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    reader = Reader(build_report(three_seeds(tmp_path), out=tmp_path / "report.html").read_text())
    groups, head = next(table for table in reader.tables if table[1][0] == "Organ")[:2]
    assert groups[1:] == ["seed-0", "seed-1", "seed-2"]
    assert head[1:] == ["Federated", "Centralised", "Federated, no GIN"] * 3
    assert [name for name, _ in reader.elements].count("article") == 3
    identifiers = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)


def test_networks_of_several_runs_are_told_apart_by_how_much_they_see(tmp_path: Path) -> None:
    runs = three_seeds(tmp_path)
    for run, table in zip(runs, ("", "[model]\ndimensions = 3\n", "[model]\ncontext_slices = 1\n"), strict=True):
        (run / "config.toml").write_text((run / "config.toml").read_text() + table)
    reader = Reader(build_report(runs, out=tmp_path / "report.html").read_text())
    row = next(row for table in reader.tables for row in table if row[0] == "Network")
    assert row[1:] == [DASH, "unet in 3D", "unet in 2.5D, 1 slice on each side"]


def test_runs_that_differ_in_their_seed_only_are_pooled(tmp_path: Path) -> None:
    reader = Reader(build_report(three_seeds(tmp_path), out=tmp_path / "report.html").read_text())
    assert "Pooled over n = 3 seeds" in reader.text
    values = [overall(fake_record(seed=seed, models=tuple(SKILL)[:3]), "federated") for seed in range(3)]
    pooled = next(table for table in reader.tables if table[0][0] == "Model" and "Dice, all" in table[0])
    assert pooled[1][3] == f"{np.mean(values):.3f}± {np.std(values, ddof=1):.3f}"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: (run / "config.toml").write_text(
            CONFIG.format(name="demo", seed=2).replace("train = 6", "train = 7")
        ),
        lambda run: (run / "config.toml").unlink(),
        lambda run: fake_record(name="again", seed=1, models=("federated",)).save(run),
        lambda run: dataclasses.replace(
            fake_record(seed=2), provenance=dataclasses.replace(fake_record(seed=2).provenance, code_digest="aa")
        ).save(run),
    ],
)
def test_runs_that_differ_in_more_are_not_pooled_with_the_others(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    runs = three_seeds(tmp_path)
    change(runs[2])
    assert "Pooled over n = 3" not in Reader(build_report(runs, out=tmp_path / "report.html").read_text()).text


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, fake_record(models=("federated",))) for name in ("left", "right")]
    text = Reader(build_report(runs, out=tmp_path / "report.html").read_text()).text
    assert "demo (left), demo (right)" in text


def test_what_cannot_be_reported_leaves_the_old_page(tmp_path: Path) -> None:
    old = tmp_path / "report.html"
    old.write_text("old")
    run = write_run(tmp_path / "run", fake_record(models=("federated",)))
    for folders, message in (([], "at least one"), ([run, run], "given twice"), ([tmp_path], "no such file")):
        with pytest.raises(RunFolderError, match=message):
            build_report(folders, out=old)
    assert old.read_text() == "old"


def test_figures_and_tables_can_be_read_aloud(page: str) -> None:
    elements = Reader(page).elements
    assert all(names.get("scope") for name, names in elements if name == "th")
    pictures = [names for name, names in elements if name == "svg"]
    assert len(pictures) > 4
    assert all(names.get("aria-label") or names.get("aria-hidden") for names in pictures)
    assert elements[0] == ("html", {"lang": "en"})


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_and_lines_stand_out_in_light_and_dark(scheme: int) -> None:
    schemes = re.findall(r":root \{(.*?)\}", STYLESHEET, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", schemes[scheme]))
    wanted = dict.fromkeys(("ink", "ink-soft", "accent", "warn"), 4.5) | {f"line-{n}": 3.0 for n in range(9)}
    for name, least in wanted.items():
        for ground in ("paper", "surface", "accent-soft") if least > 3 else ("paper",):
            high, low = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= least, (name, ground)


def test_attributes_are_escaped_too() -> None:
    assert tag("p", "a<b", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">a&lt;b</p>'


def test_models_under_different_protections_are_told_apart_by_name(tmp_path: Path) -> None:
    record = fake_record()
    reference = "federated_without_augmentation"
    mixed = dataclasses.replace(
        record,
        results=tuple(
            dataclasses.replace(row, protection="plain") if row.model == reference else row for row in record.results
        ),
    )
    text = report(tmp_path / "mixed", record=mixed)
    assert "Against the aggregator: Federated<" in text
    assert "Against the aggregator: Federated, no GIN<" in text
    alike = report(tmp_path / "alike", record=record)
    assert "Against the aggregator<" in alike
    assert "Against the aggregator:" not in alike
