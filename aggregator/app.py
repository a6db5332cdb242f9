"""The Flower ServerApp of the aggregator: wiring only. Where its folder is comes from the run config key `run-dir`.

Runs at the aggregator, which nobody trusts: it holds no key and imports no torch, no data and no client role.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from aggregator.federation import Federation
from aggregator.folder import AggregatorFolder


def create_app(folder: Path | None = None) -> ServerApp:
    """A ServerApp for `folder`, or for the folder that the run config names."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        place = folder if folder is not None else Path(str(context.run_config["run-dir"]))
        Federation(grid, AggregatorFolder(place)).run()

    return server_app


app = create_app()
