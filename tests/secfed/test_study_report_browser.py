"""The page of a study in a real browser: it logs and fetches nothing, draws everything, and never scrolls sideways."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NAMES, REQUIRED, Browser, find_browser
from small_study import small_study, write_study

from secfed.report import build_report

pytestmark = pytest.mark.skipif(
    find_browser() is None and os.environ.get(REQUIRED) != "1",
    reason=f"no browser: none of {', '.join(NAMES)} is on the path; {REQUIRED}=1 makes that a failure",
)
WIDTHS = (360, 1280)

# Shapes that belong to a figure, and whether each has a size on the screen.
FIGURES = """
[...document.querySelectorAll('figure')].map(figure => {
  const drawings = [...figure.querySelectorAll('svg:not(.marker)')];
  const boxes = drawings.map(drawing => drawing.getBoundingClientRect());
  return {
    caption: figure.querySelector('figcaption').textContent,
    drawn: boxes.length > 0 && boxes.every(box => box.width > 60 && box.height > 15 || box.width > 25),
    largest: Math.max(...boxes.map(box => box.width * box.height)),
    inside: boxes.every(box => box.left >= -1 && box.right <= innerWidth + 1),
    figure: figure.getBoundingClientRect().width * figure.getBoundingClientRect().height,
  };
})
"""
# Text that sticks out of the window, except in frames that scroll by themselves.
OVERFLOWING = """
[...document.querySelectorAll('main *')].filter(one =>
  !one.closest('.scroll') && !one.closest('pre') && !one.closest('svg') &&
  one.getBoundingClientRect().right > innerWidth + 1).map(one => one.tagName + ' ' + one.textContent.slice(0, 40))
"""
# Markers of a figure that stand outside its plot.
OUTSIDE = """
[...document.querySelectorAll('figure svg .marker path')].filter(path => {
  const mark = path.getBoundingClientRect();
  const plot = path.closest('figure').getBoundingClientRect();
  return mark.width < 4 || mark.left < plot.left - 1 || mark.right > plot.right + 1;
}).length
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_study(tmp_path_factory.mktemp("study"), small_study())
    return build_report([folder], out=folder / "report.html").resolve().as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_draws_itself_alone_and_in_silence(browser: Browser, address: str, width: int, dark: bool) -> None:
    browser.open(address, width=width, dark=dark)
    assert browser.run("location.protocol") == "file:"
    requested = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert [url for url in requested if not url.startswith("data:")] == [address]
    assert browser.named("Runtime.exceptionThrown") == []
    assert browser.named("Runtime.consoleAPICalled") == []
    assert browser.named("Log.entryAdded") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_has_a_size_and_stays_in_the_window(browser: Browser, address: str, width: int) -> None:
    browser.open(address, width=width)
    figures = browser.run(FIGURES)
    # Seven charts of methods, the frontier, nine sets of curves, one of ratios, two of leakage, twelve slices.
    assert len(figures) == 7 + 1 + 9 + 1 + 2 + 12
    for figure in figures:
        assert figure["drawn"], figure
        assert figure["inside"], figure
        assert figure["largest"] > 4000, figure
        assert figure["figure"] > 20_000, figure
    # Two modalities of 36 trained variants, six ratios, eight epsilons, five attacks with their controls.
    assert browser.run("document.querySelectorAll('figure svg .marker path').length") == 2 * 36 + 6 + 8 + 5 * 2
    assert browser.run(OUTSIDE) == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(browser: Browser, address: str, width: int) -> None:
    browser.open(address, width=width)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OVERFLOWING) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_do_not_widen_the_page(browser: Browser, tmp_path: Path, width: int) -> None:
    record = small_study(seeds=(0,))
    experiments = tuple(
        dataclasses.replace(
            one,
            title="t" * 200,
            question="q" * 200,
            reference="n" * 120 + str(one.reference),
            variants=tuple(
                dataclasses.replace(variant, name="n" * 120 + variant.name, note="o" * 200) for variant in one.variants
            ),
        )
        for one in record.experiments
    )
    claims = tuple(dataclasses.replace(one, claim="c" * 200, value="v" * 200, note="x" * 200) for one in record.claims)
    leakage = tuple(dataclasses.replace(one, target="t" * 200, metric="m" * 80) for one in record.leakage)
    changed = dataclasses.replace(
        record, name="n" * 200, command="c" * 300, experiments=experiments, claims=claims, leakage=leakage
    )
    folder = write_study(tmp_path, changed)
    browser.open(build_report([folder], out=folder / "report.html").resolve().as_uri(), width=width)
    assert browser.run(OVERFLOWING) == []
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_a_row_leads_to_its_cell(browser: Browser, address: str) -> None:
    browser.open(f"{address}#cell-30", width=1280)
    assert browser.run("document.querySelector('tr:target code').textContent") == small_study().cells[29].key


def test_dark_mode_is_dark_and_its_text_bright(browser: Browser, address: str) -> None:
    def brightness(of: str) -> float:
        colour = browser.run(f"getComputedStyle(document.body).{of}")
        return sum(map(float, colour[colour.index("(") + 1 : -1].split(",")[:3])) / 3

    for dark in (False, True):
        browser.open(address, width=1280, dark=dark)
        paper, ink = brightness("backgroundColor"), brightness("color")
        assert (paper < 60 and ink > 200) if dark else (paper > 200 and ink < 60)


def test_the_checks_see_a_page_that_breaks_the_rules(browser: Browser, tmp_path: Path) -> None:
    """A script that fails, an image that is fetched, a drawing without a size, and a line that is too wide."""
    wrong = tmp_path / "wrong.html"
    wrong.write_text(
        "<!DOCTYPE html><main><script>throw new Error('no')</script><img src='other.png'>"
        "<figure><figcaption>c</figcaption><svg width='0' height='0'></svg></figure>"
        "<div style='width:3000px'>wide</div></main>"
    )
    browser.open(wrong.resolve().as_uri(), width=360)
    assert browser.named("Runtime.exceptionThrown")
    assert len(browser.named("Network.requestWillBeSent")) > 1
    assert browser.named("Log.entryAdded")
    assert not browser.run(FIGURES)[0]["drawn"]
    assert browser.run("document.documentElement.scrollWidth") > 360
    assert browser.run(OVERFLOWING)
