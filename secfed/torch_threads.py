"""One torch thread for a while: small networks are slower on several, and one gives the same figures on every machine.

A run's processes have one thread each; whatever times, rehearses or attacks a run does it the same way.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Within the block torch uses one thread; the former number is put back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
