"""A small file that is there whole or not at all: temporary file, flush, rename.

Used by every role. With `durable` it survives a power cut too, because the rename itself is flushed with its folder.
"""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace the file at `path`; a kill at any point leaves the former one."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
