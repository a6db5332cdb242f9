"""What the figures show is what the arrays and counts hold: contours, images, their orientation, and the test."""

import base64
import re
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import chisquare

from secfed.report.aggregator_view import chi_square_prob
from secfed.report.contours import outlines, svg_path
from secfed.report.overlays import grey_png, overlays_section
from secfed.report.run_folder import Overlay
from secfed.results import Provenance, RunRecord

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))
RECORD = RunRecord(
    name="demo",
    provenance=Provenance(
        config_digest="",
        code_digest="",
        seed=0,
        versions={},
        device="cpu",
        python="3.11",
        started="",
        seconds_total=1.0,
    ),
    jobs=(),
    results=(),
)


def sides(polygon: list[tuple[int, int]]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    return list(zip(polygon, polygon[1:] + polygon[:1], strict=True))


def filled(polygons: list[list[tuple[int, int]]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Even-odd rule: a pixel is inside when an odd number of vertical sides lies left of it."""
    crossings = np.zeros(shape, dtype=int)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in sides(polygon):
            if x0 == x1:
                crossings[min(y0, y1) : max(y0, y1), x0:] += 1
    return crossings % 2 == 1


def unit_borders(polygons: list[list[tuple[int, int]]]) -> list[tuple[float, float]]:
    """Midpoints of all unit pieces of all sides."""
    pieces = []
    for polygon in polygons:
        for (x0, y0), (x1, y1) in sides(polygon):
            length = abs(x1 - x0) + abs(y1 - y0)
            pieces += [
                (x0 + (x1 - x0) * (step + 0.5) / length, y0 + (y1 - y0) * (step + 0.5) / length)
                for step in range(length)
            ]
    return pieces


@given(MASKS)
def test_filling_the_outlines_gives_the_mask_back(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(filled(outlines(mask), mask.shape), mask)


@given(MASKS)
def test_the_outlines_run_along_every_pixel_border_of_the_mask_once(mask: NDArray[np.bool_]) -> None:
    padded = np.pad(mask, 1).astype(int)
    across = np.argwhere(np.diff(padded, axis=0))  # between two rows
    along = np.argwhere(np.diff(padded, axis=1))
    borders = [(column - 0.5, float(row)) for row, column in across] + [
        (float(column), row - 0.5) for row, column in along
    ]
    assert sorted(unit_borders(outlines(mask))) == sorted(borders)


@given(MASKS)
def test_outlines_turn_at_every_point(mask: NDArray[np.bool_]) -> None:
    for polygon in outlines(mask):
        upright = [x0 == x1 for (x0, _), (x1, _) in sides(polygon)]
        assert all(this != following for this, following in zip(upright, upright[1:] + upright[:1], strict=True))


def test_pixels_that_share_a_corner_only_have_outlines_of_their_own() -> None:
    assert outlines(np.eye(2, dtype=bool)) == [[(0, 0), (1, 0), (1, 1), (0, 1)], [(1, 1), (2, 1), (2, 2), (1, 2)]]


def test_a_hole_runs_the_other_way_round() -> None:
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    assert outlines(ring) == [[(0, 0), (3, 0), (3, 3), (0, 3)], [(1, 1), (1, 2), (2, 2), (2, 1)]]


def test_an_empty_mask_has_no_outline() -> None:
    assert svg_path(outlines(np.zeros((4, 4), dtype=bool))) == ""


def decode(png: bytes) -> NDArray[np.uint8]:
    """Pixels of an unfiltered 8-bit grey PNG; every checksum is verified."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    position, chunks = 8, {}
    while position < len(png):
        length = int.from_bytes(png[position : position + 4])
        name, data = png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        assert zlib.crc32(name + data) == int.from_bytes(png[position + 8 + length : position + 12 + length])
        chunks[name] = data
        position += 12 + length
    width, height = int.from_bytes(chunks[b"IHDR"][:4]), int.from_bytes(chunks[b"IHDR"][4:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


def test_grey_levels_follow_the_image() -> None:
    image = np.linspace(-3, 5, 60, dtype=np.float32).reshape(6, 10)
    pixels = decode(grey_png(image))
    assert pixels.shape == (6, 10)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -7.5])
def test_an_image_of_one_value_is_still_an_image(value: float) -> None:
    assert decode(grey_png(np.full((4, 5), value, dtype=np.float32))).shape == (4, 5)


def test_anterior_is_up_and_the_right_of_the_patient_is_on_the_left() -> None:
    # Stored: the last row is anterior, the last column is the patient's right.
    image = np.zeros((4, 6), dtype=np.float32)
    labels = np.zeros((4, 6), dtype=np.uint8)
    image[-1, -1] = labels[-1, -1] = 1
    overlay = Overlay(
        image=image,
        reference=labels,
        prediction=np.zeros_like(labels),
        model="federated",
        patient="p",
        modality="CT",
        site_or_set="test",
        slice_index=0,
        spacing_mm=(3.0, 2.0),
        organs=("liver",),
    )
    page = overlays_section([overlay], None, RECORD)
    encoded = re.search('base64,([^"]*)', page)
    assert encoded is not None
    assert np.argwhere(decode(base64.b64decode(encoded[1])) == 255).tolist() == [[0, 0]]
    assert set(re.findall('d="([^"]*)"', page)) == {"M0 0L1 0L1 1L0 1Z"}
    assert 'viewBox="0 0 12 12"' in page
    assert 'transform="scale(2 3)"' in page
    marks = dict(re.findall('<text x="([^"]*)"[^>]*>([RL])<', page))
    assert {side: float(x) < 6 for x, side in marks.items()} == {"R": True, "L": False}


def test_chi_square_agrees_with_scipy() -> None:
    counts = np.random.default_rng(1).multinomial(100_000, np.full(256, 1 / 256)).tolist()
    assert chi_square_prob(counts) == pytest.approx(chisquare(counts).pvalue)


def test_chi_square_accepts_uniform_bytes_and_rejects_slightly_uneven_ones() -> None:
    noise = np.random.default_rng(2)
    even = np.full(256, 1 / 256)
    uneven = even * np.where(np.arange(256) < 128, 1.02, 0.98)
    probs = [chi_square_prob(noise.multinomial(1_000_000, even).tolist()) for _ in range(200)]
    assert 0.4 < np.mean(probs) < 0.6
    assert min(probs) > 1e-4
    assert chi_square_prob(noise.multinomial(1_000_000, uneven).tolist()) < 1e-4


def test_a_large_noisy_mask_is_outlined_quickly() -> None:
    mask = np.random.default_rng(4).random((256, 256)) < 0.3
    started = time.perf_counter()
    polygons = outlines(mask)
    # Searching all corners anew for each of the thousands of polygons would take far longer.
    assert time.perf_counter() - started < 5
    assert len(polygons) > 5000
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
