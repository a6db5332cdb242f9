"""What a site let out under differential privacy, kept so that the same question gets the very same integers.

Runs at a site. A round may be asked for again, because the aggregator or the site stopped. Drawing fresh noise for the
same sum would cost budget again, and drawing the SAME noise over a gradient that a GPU computed a little differently
would give that difference away. So the integers are stored before they leave, and a second answer repeats them.

Files are readable by the site's owner only: they are unmasked updates, with this site's share of the noise.
"""

from pathlib import Path

import numpy as np

from privacy.streams import Words, little_endian_bytes
from secfed.provisioning.files import write_private

KEPT = 2
_SUFFIX = ".u32"


class Releases:
    """Releases in `folder`, by the 32-byte key of what was asked; the newest few stay."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self.durable = durable

    def find(self, key: bytes, *, length: int) -> Words | None:
        """The integers that were let out for this question, uint32 of shape (length,); None where there are none.

        A file of another length was cut short by a kill before anything left: it counts as none.
        """
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        return np.frombuffer(data, "<u4").astype(np.uint32) if len(data) == 4 * length else None

    def keep(self, key: bytes, words: Words) -> None:
        """Store integers before they leave the site."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(key)
        write_private(path, little_endian_bytes(words).tobytes(), durable=self.durable)
        others = sorted(
            (found for found in self.folder.glob(f"*{_SUFFIX}") if found != path),
            key=lambda found: found.stat().st_mtime_ns,
            reverse=True,
        )
        for old in others[KEPT - 1 :]:
            old.unlink()

    def _path(self, key: bytes) -> Path:
        return self.folder / f"{key.hex()}{_SUFFIX}"
