"""A child process ends with its parent, however the parent ended: a killed run must leave nothing that still trains.

A worker of a pool waits for work on a queue whose other end it holds itself, so it would wait for ever.
"""

import multiprocessing
import os
import threading


def stop_with_parent() -> None:
    """Watch the parent from a thread and end this process at once when the parent is gone; does nothing without one."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
