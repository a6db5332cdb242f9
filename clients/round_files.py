"""What a site keeps from round to round, one file per round, so that a round that is run again starts as it did before.

Runs at sites. A file is named by the round that it ends; a round starts from the newest file of an earlier one. Whoever
writes a round's file drops those of later rounds: they belong to a run that was rolled back.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_KEPT_ROUNDS = 3


@dataclass(frozen=True)
class RoundFiles:
    """The files FOLDER/PREFIX-000012.safetensors; the newest three are kept."""

    folder: Path
    prefix: str

    def path(self, server_round: int) -> Path:
        """Where a round's file is, or will be."""
        return self.folder / f"{self.prefix}-{server_round:06d}.safetensors"

    def newest(self, *, before: int) -> Path | None:
        """The file of the latest round below `before`; None where there is none."""
        earlier = [found for found in self._all() if found[0] < before]
        return max(earlier)[1] if earlier else None

    def prune(self, server_round: int) -> None:
        """Drop what is older than the last three rounds, and whatever is of a later round than this."""
        for number, path in self._all():
            if not server_round - _KEPT_ROUNDS < number <= server_round:
                path.unlink()

    def _all(self) -> list[tuple[int, Path]]:
        name = re.compile(re.escape(self.prefix) + r"-(\d{6,})\.safetensors")
        found = [(name.fullmatch(path.name), path) for path in self.folder.glob(f"{self.prefix}-*.safetensors")]
        return [(int(match[1]), path) for match, path in found if match]
