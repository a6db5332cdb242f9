"""Outlines of a label mask as closed polygons on pixel corners.

Pixel (row, column) covers the square from (row, column) to (row + 1, column + 1), so the polygons run exactly between
pixels inside and pixels outside: nothing is smoothed, and filling them gives the mask back.
"""

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def outlines(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """Closed polygons of (column, row) corners around a (H, W) mask, without the repeated first point.

    Outer borders run clockwise on the screen and holes counter-clockwise. Pixels that touch at a corner only get
    polygons that touch there and do not cross.
    """
    steps = _boundary_steps(mask)
    polygons: list[list[Point]] = []
    for start in sorted(steps):
        # The leftmost, topmost corner left is a corner of one polygon only, so coming back to it closes that polygon.
        if start not in steps:
            continue
        point = start
        heading = (0, 0)
        polygon: list[Point] = []
        while not polygon or point != start:
            headings = steps[point]
            # Turning right first keeps two pixels apart that share only this corner.
            right = _right_of(heading)
            chosen = right if right in headings else headings[0]
            headings.remove(chosen)
            if not headings:
                del steps[point]
            if chosen != heading:
                polygon.append(point)
            heading = chosen
            point = (point[0] + heading[0], point[1] + heading[1])
        polygons.append(polygon)
    return polygons


def svg_path(polygons: list[list[Point]]) -> str:
    """The `d` attribute of an SVG path."""
    return "".join("M" + "L".join(f"{x} {y}" for x, y in polygon) + "Z" for polygon in polygons)


def _right_of(heading: Point) -> Point:
    return (-heading[1], heading[0])  # on the screen rows grow downwards


def _boundary_steps(mask: NDArray[np.bool_]) -> dict[Point, list[Point]]:
    """Unit steps along the boundary with the mask on the right hand, by their first corner (column, row)."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)),  # open above: eastwards along the top edge
        (inside & ~padded[1:-1, 2:], (1, 0), (0, 1)),  # open to the right: downwards along the right edge
        (inside & ~padded[2:, 1:-1], (1, 1), (-1, 0)),  # open below: westwards along the bottom edge
        (inside & ~padded[1:-1, :-2], (0, 1), (0, -1)),  # open to the left: upwards along the left edge
    )
    steps: dict[Point, list[Point]] = {}
    for edges, (right, down), heading in sides:
        for row, column in np.argwhere(edges):
            steps.setdefault((int(column) + right, int(row) + down), []).append(heading)
    return steps
