"""The benchmark of Dice under privacy: its groups share nobody, its best setting is the documented one, and it runs."""

import math
from pathlib import Path

import pytest

from benchmarks import dp_cells, dp_utility
from benchmarks.dp_cells import SMOKE, STANDARD, Cell, cell_config, data_config, pretraining_config, standard_cells
from benchmarks.dp_utility import Bench, Outcome
from benchmarks.lines import Line, draw_lines
from secfed.config import load_run_config
from secfed.experiment import job_process, run

CONFIGS = Path(dp_cells.__file__).parent / "configs"
DATA, START = Path("/data"), Path("/model.safetensors")


def config_of(cell):
    return cell_config(cell, STANDARD, data=DATA, start_from=START)


def settings(config):
    """What is trained and how, whatever it is called."""
    return config.plan().model_copy(update={"name": "run"})


def outcome(cell, dice, *, epsilon=8.0):
    return Outcome(cell=cell, dice=dice, last_dice=dice, epsilon=epsilon, delta=1e-5, noise_multiplier=4.0)


def test_the_documented_configurations_are_the_benchmark_s_main_line():
    main = next(cell for cell in standard_cells() if (cell.group, cell.epsilon) == ("distributed", 8.0))
    private = load_run_config(CONFIGS / "private.toml")
    assert settings(private) == settings(config_of(main))
    assert len(private.sites) == main.sites
    public = load_run_config(CONFIGS / "pretraining.toml")
    assert settings(public) == settings(pretraining_config(STANDARD, data=DATA))


def test_public_and_protected_phantoms_share_no_population_and_no_modality():
    config = data_config(STANDARD)
    public = [site for site in config.sites if site.name == dp_cells.PUBLIC]
    others = [site for site in (*config.sites, *config.test) if site.name != dp_cells.PUBLIC]
    assert {site.phantom.population for site in public} == {"north"}
    assert {source.phantom.population for source in others} == {"south"}
    assert not {site.phantom.protocol for site in public} & {source.phantom.protocol for source in others}


def test_every_cell_is_a_run_of_its_own_on_sites_that_exist():
    made = {site.name for site in data_config(STANDARD).sites}
    configs = [config_of(cell) for cell in standard_cells()]
    assert len({config.run_digest() for config in configs}) == len(configs)
    assert {site.folder.name for config in configs for site in config.sites} <= made


def test_steps_without_momentum_add_up_to_those_with_it():
    with_momentum, without = (config_of(Cell(name="x", group="x", momentum=beta)).federation for beta in (0.9, 0.0))
    reach = with_momentum.server_learning_rate / (1 - with_momentum.server_momentum)
    assert without.server_learning_rate == pytest.approx(reach)


def test_rows_set_epsilon_8_against_the_same_set_up_without_noise():
    cells = [Cell(name="no DP", group="distributed", epsilon=None), Cell(name="epsilon 8", group="distributed")]
    for dice, met in ((0.48, True), (0.46, False)):
        found = [outcome(cells[0], 0.5, epsilon=None), outcome(cells[1], dice)]
        row, gain = dp_utility.rows(found, before=0.3)[-2:]
        assert (row.value, row.met) == (pytest.approx(dice / 0.5), met)
        assert gain.value == pytest.approx((dice - 0.3) / 0.2)
        assert "not a DP guarantee" in row.note


def test_a_line_rises_where_its_values_rise(tmp_path):
    path = tmp_path / "lines.svg"
    draw_lines(
        [Line(label="a & b", points=((1.0, 0.2), (8.0, 0.4))), Line(label="flat", level=0.3)], title="t", path=path
    )
    text = path.read_text()
    corners = text.split('points="')[1].split('"')[0].split()
    (left, low), (right, high) = (map(float, corner.split(",")) for corner in corners)
    assert left < right
    assert low > high, "an SVG counts downwards"
    assert "a &amp; b" in text


def test_a_tiny_benchmark_prices_and_trains_a_cell_once(tmp_path, monkeypatch):
    cell = Cell(name="epsilon 8", group="distributed", sites=4)
    # In this process: starting one per job would take most of the test's time.
    monkeypatch.setattr(run, "run_jobs", lambda orders, **_: [job_process.train_and_test(order) for order in orders])
    bench = Bench(tmp_path, scale=SMOKE, cores=1)
    found = bench.outcome(cell)
    assert found.epsilon == pytest.approx(8.0, rel=0.01)
    assert found.epsilon <= 8.0
    assert all(math.isfinite(dice) and 0 <= dice <= 1 for dice in (found.dice, found.last_dice))
    monkeypatch.setattr(dp_utility, "run_experiment", None)
    assert bench.outcome(cell) == found
