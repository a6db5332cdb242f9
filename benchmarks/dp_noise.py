"""What exact integer noise costs: seconds for ten million samples on one core, against a Gaussian in floats.

Both draw from the same keyed stream. The floats are Box and Muller's, whose low bits give away more than a Gaussian
would (Mironov 2012): they are the price of doing it wrong, not an alternative. `--quick` draws a tenth and says so.

    python -m benchmarks.dp_noise --json bench/dp_noise.json
"""

import statistics

import numpy as np
import numpy.typing as npt

from benchmarks.rows import Row, parser, publish
from benchmarks.secure_sum import one_core
from benchmarks.stopwatch import Stopwatch
from privacy.discrete_gaussian import discrete_gaussian
from privacy.entropy import SYSTEM_ENTROPY
from privacy.streams import KEY_BYTES, Keystream

COUNT = 10_000_000
LIMIT_SECONDS = 5.0
SIGMAS = (0.5, 7.0, 1e3, 1e6, 2.0**24)
_FLOATS = "floats"


def main() -> None:
    """Measure and publish the rows."""
    given = parser(__doc__ or "").parse_args()
    publish(measure(COUNT // 10 if given.quick else COUNT, repeats=3), path=given.json)


def measure(count: int, *, repeats: int) -> list[Row]:
    """The middle of `repeats` timings for every sigma, scaled to ten million samples."""
    watch = Stopwatch()
    with one_core():
        for _ in range(repeats):
            stream = Keystream(SYSTEM_ENTROPY.token_bytes(KEY_BYTES))
            with watch.part(_FLOATS):
                gaussian_floats(count, stream=stream)
            for sigma in SIGMAS:
                with watch.part(str(sigma)):
                    discrete_gaussian(count, sigma=sigma, stream=stream)
    note = "" if count == COUNT else f"measured on {count:,}"
    scale = COUNT / count

    def seconds(part: str) -> float:
        return statistics.median(lap.cpu for lap in watch.laps[part]) * scale

    rows = [Row(measure="10^7 Gaussian floats", value=seconds(_FLOATS), unit="s", note=note)]
    for sigma in SIGMAS:
        name, spent = f"10^7 discrete Gaussian integers, sigma {sigma:g}", seconds(str(sigma))
        met = spent <= LIMIT_SECONDS
        rows.append(Row(measure=name, value=spent, unit="s", target=f"<= {LIMIT_SECONDS:g}", met=met, note=note))
        rows.append(Row(measure=f"{name}, against floats", value=spent / seconds(_FLOATS), unit="times", note=note))
    return rows


def gaussian_floats(count: int, *, stream: Keystream) -> npt.NDArray[np.float64]:
    """Standard normal float64 values by Box and Muller, shape (count,); `count` is even."""
    radius = np.sqrt(-2.0 * np.log1p(-stream.uniforms(count // 2)))
    angle = 2.0 * np.pi * stream.uniforms(count // 2)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


if __name__ == "__main__":
    main()
