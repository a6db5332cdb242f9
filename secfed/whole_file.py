"""A small file that is there whole or not at all: temporary file, flush, rename.

Used by every role. With `durable` it survives a power cut too, because the rename itself is flushed with its folder.
"""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, durable: bool, mode: int = 0o666) -> None:
    """Replace the file at `path`; a kill at any point, Ctrl-C, or a full disk leaves the former one.

    One writer at a time: what a kill leaves beside is overwritten by the next. `mode` is that of a new file.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # On a full disk a part of the file would take the room that is needed; an interrupted one is of no use.
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
