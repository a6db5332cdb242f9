"""The run folder: one configuration, one folder, one writer at a time.

    config.toml        the resolved configuration, every default written out
    run.json           results and provenance, written last: a folder that has it is complete
    model.safetensors  the federated model; model-ct.safetensors and such, where normalisation layers are not shared
    report.html        the page
    data/  cache/      generated scans, preprocessed volumes; `cache` may be a link to one that runs share
    jobs/MODEL/        one training job: aggregator/ (checkpoints, journal) and sites/NAME/ (keys, state, books)
    figures/           what the report draws

A folder belongs to the configuration that it was made with. Another configuration is refused, and nothing is
overwritten; the same configuration goes on only where the caller asked to resume.
"""

import os
import tomllib
from pathlib import Path
from types import TracebackType

import tomli_w

from secfed.alone import hold_alone
from secfed.config import RunConfig, parse_run_config
from secfed.data.prepared_cache import open_cache
from secfed.errors import ConfigError, RunFolderError
from secfed.results import FILE_NAME as RUN_JSON
from secfed.whole_file import write_whole

CONFIG = "config.toml"
CACHE = "cache"


class RunFolder:
    """An opened run folder; a context manager that holds its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def complete(self) -> bool:
        """Whether the run has ended and written its results."""
        return (self.path / RUN_JSON).exists()

    @property
    def cache(self) -> Path:
        """Where preprocessed volumes are kept: patient data in the clear."""
        return self.path / CACHE

    def job_folder(self, model: str) -> Path:
        """The folder of one training job; "site:ct-a" becomes `site-ct-a`."""
        return self.path / "jobs" / model.replace(":", "-").lower()

    def claim(self, config: RunConfig, *, resume: bool, cache: Path | None = None) -> None:
        """Take the folder for `config`: create it, or check that it is the same run and may go on.

        `cache` is one outside, which this run shares with others; entries are addressed by content, so no run can
        mistake another's for its own.

        Raises:
            RunFolderError: the folder holds something else, belongs to another configuration, is complete, or is not
                to be resumed, or was begun with another cache; nothing is changed then.
            DataError: the cache outside cannot be written.
        """
        existing = self.path / CONFIG
        if existing.exists():
            if load_resolved_config(existing).run_digest() != config.run_digest():
                raise RunFolderError(
                    f"{self.path}: belongs to another configuration (see its {CONFIG}); choose another --out"
                )
            if not resume:
                state = "holds a finished run" if self.complete else "holds an unfinished run of this configuration"
                raise RunFolderError(f"{self.path}: {state}; add --resume to go on with it, or choose another --out")
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunFolderError(f"{self.path}: exists and is no run folder; choose another --out")
        elif resume:
            raise RunFolderError(f"{self.path}: nothing to resume here; leave --resume out to start a new run")
        self._require_cache(cache)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path}: the run folder cannot be made: {error.strerror}") from error
        self._lock = hold_alone(self.path, wait_seconds=0.0)
        if not existing.exists():
            write_whole(existing, resolved_toml(config).encode(), durable=False)
        if cache is not None and not self.cache.is_symlink():
            self.cache.symlink_to(cache.resolve(), target_is_directory=True)
        if self.cache.is_symlink():
            # What it leads to may have been removed since.
            open_cache(self.cache.resolve())

    def _require_cache(self, cache: Path | None) -> None:
        """The sites of a run know one cache, so a run that goes on keeps the one that it was begun with."""
        if cache is None:
            return
        if self.cache.is_symlink() and self.cache.resolve() != cache.resolve():
            raise RunFolderError(
                f"{self.path}: was begun with --cache {self.cache.resolve()}; give the same, or leave --cache out"
            )
        if self.cache.exists() and not self.cache.is_symlink():
            raise RunFolderError(f"{self.path}: was begun with a cache of its own; leave --cache out")

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def resolved_toml(config: RunConfig) -> str:
    """The configuration as TOML, from which the same is read back.

    Every default is written out but that of `model.context_slices`, which other releases do not know.
    """
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def load_resolved_config(path: Path) -> RunConfig:
    """Read the `config.toml` of a run folder; raises RunFolderError where it is damaged."""
    try:
        return parse_run_config(tomllib.loads(path.read_text(encoding="utf-8")), origin=str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ConfigError) as error:
        raise RunFolderError(f"{path}: the run folder's configuration cannot be read: {error}") from error
