"""One process at a time writes a folder, and none outlives the one that started it.

Run at both sides. A site's protocol state in the hands of two processes could mask two updates alike.
"""

import ctypes
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

from secfed.errors import RunFolderError

LOCK = ".lock"
WAIT_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends (Linux); called in the child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def hold_alone(folder: Path, *, wait_seconds: float = WAIT_SECONDS) -> int:
    """Hold the folder's lock until this process ends, or closes the lock file's descriptor, which is returned.

    Raises:
        RunFolderError: another process holds it, and did not let go in time, or the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RunFolderError(f"{folder}: another process is working in this folder") from None
            time.sleep(0.05)
        except OSError as error:
            os.close(descriptor)
            raise RunFolderError(f"{folder}: cannot be locked on this file system: {error.strerror}") from error
        else:
            return descriptor
