"""What differential privacy costs in training, measured in one run; `--part` chooses what.

    gradients   the step: clipped gradients patient by patient against the plain step and Opacus's hooks

`--quick` measures the same with a smaller BasicUNet and fewer repeats.

    python -m benchmarks.dp_training --part gradients --json bench/dp_gradients.json
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.patient_gradients import gradient_rows
from benchmarks.rows import Row, parser, publish

PARTS: Mapping[str, Callable[..., list[Row]]] = {"gradients": gradient_rows}


def main() -> None:
    """Measure the parts asked for and publish the rows."""
    made = parser(__doc__ or "")
    made.add_argument("--part", choices=sorted(PARTS), action="append", help="all parts, unless some are named")
    given = made.parse_args()
    rows = [row for part in given.part or PARTS for row in PARTS[part](quick=given.quick)]
    note = "quick: fewer repeats" if given.quick else ""
    publish([replace(row, note=row.note or note) for row in rows], path=given.json)


if __name__ == "__main__":
    main()
