"""The Flower ServerApp of the aggregator: wiring only. Where its folder is comes from the run config key `run-dir`.

Runs at the aggregator, which nobody trusts: it holds no key and imports no torch, no data and no client role. In a
deployment one process at a time works in a run's folder, and says there how it ended; whoever follows the run reads it.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from aggregator.federation import Federation
from aggregator.folder import AggregatorFolder
from secfed.alone import hold_alone

RETRY_SECONDS = 2.0
"""Before a failed round of a deployed run is tried again; doubled each time, 62 s in all."""


def create_app(folder: Path | None = None) -> ServerApp:
    """A ServerApp for `folder`, or for the folder that the run config names."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        place = AggregatorFolder(folder if folder is not None else Path(str(context.run_config["run-dir"])))
        if place.durable:
            _run_deployed(grid, place)
        else:
            Federation(grid, place).run()

    return server_app


def _run_deployed(grid: Grid, place: AggregatorFolder) -> None:
    hold_alone(place.folder)
    place.note_outcome("running")
    try:
        Federation(grid, place, retry_seconds=RETRY_SECONDS).run()
    except BaseException as error:
        place.note_outcome("failed", f"{type(error).__name__}: {error}")
        raise
    place.note_outcome("done")


app = create_app()
