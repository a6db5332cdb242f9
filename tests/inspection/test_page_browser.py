"""The page of an inspection in a real browser: in a narrow window nothing sticks out, and nothing is fetched."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NAMES, REQUIRED, Browser, find_browser
from small_volumes import save_label
from table_folder import write_table

from secfed.config import PreprocessingConfig
from secfed.data.site_data import FolderEntry
from secfed.inspection.inspect import InspectionOrder, inspect_data
from secfed.inspection.page import InspectionPage

pytestmark = pytest.mark.skipif(
    find_browser() is None and os.environ.get(REQUIRED) != "1",
    reason=f"no browser: none of {', '.join(NAMES)} is on the path; {REQUIRED}=1 makes that a failure",
)
WIDTHS = (320, 1280)
OVERFLOWING = """
[...document.querySelectorAll('main *')].filter(one =>
  !one.closest('.scroll') && !one.closest('svg') && one.getBoundingClientRect().right > innerWidth + 1
).map(one => one.tagName + ' ' + one.textContent.slice(0, 40))
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Long names of everything, an error, and more cases than stand in a row."""
    folder = tmp_path_factory.mktemp("inspected") / ("f" * 120)
    write_table(folder, [f"{'n' * 90}{number}" for number in range(9)])
    save_label(folder / "3-label.nii.gz", 9)
    order = InspectionOrder(
        entries=(("t" * 120, FolderEntry(folder=folder)),), config=PreprocessingConfig(), task=None, at_site=False
    )
    page = InspectionPage(order.config)
    page.write(folder / "page.html", inspect_data(order, on_start=lambda _: None, on_case=page.add))
    return Path(folder / "page.html").resolve().as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_nothing_is_fetched(browser: Browser, address: str, width: int) -> None:
    browser.open(address, width=width)
    assert browser.run(OVERFLOWING) == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    requested = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert [url for url in requested if not url.startswith("data:")] == [address]
    assert browser.named("Runtime.exceptionThrown") == []
    assert browser.named("Log.entryAdded") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_slices_stand_side_by_side_and_are_large_enough_to_see(browser: Browser, address: str, width: int) -> None:
    browser.open(address, width=width)
    boxes = browser.run(
        "[...document.querySelectorAll('figure')].map(one => [one.getBoundingClientRect().left, "
        "one.getBoundingClientRect().width])"
    )
    assert len(boxes) == 9
    assert len({round(left) for left, _ in boxes}) >= 2
    assert min(wide for _, wide in boxes) > 100
