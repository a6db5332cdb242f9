"""How many threads the hashing and masking of one vector use; both release Python's lock while they work.

Run by clients and by the aggregator. The results never depend on it. A site that shares its machine lowers the number
by the processor affinity of the process (`taskset`, a container's cpuset).
"""

import os

# More threads than this wait for memory rather than for a core.
MAX_THREADS = 4


def thread_count() -> int:
    """The cores that this process may use, at most `MAX_THREADS`."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, MAX_THREADS)
