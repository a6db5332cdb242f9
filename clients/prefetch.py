"""Work done ahead of whoever needs it, by one thread, in the order that it would have without.

Runs at sites: batches are drawn and sent to a GPU while it computes the step before. The thread alone touches the
iterator, so what comes out is what the iterator gives, item by item, whatever the timing.
"""

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
THREAD = "prefetch"


def ahead(items: Iterator[Item], *, depth: int) -> Generator[Item, None, None]:
    """The same items, of which up to `depth` wait ready; close the generator where it is not read to its end.

    An error of the iterator is raised here, after the items that came before it. However this generator ends - read to
    the end, closed, or by an error or an interrupt of its reader - its thread has ended by then. It ends between two
    items, so an iterator that blocks for ever would keep it.

    Raises:
        ValueError: `depth` is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth = {depth}: at least one item has to be made ahead")
    return _read(items, depth)


def _read(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    room = threading.Semaphore(depth)
    stopped = threading.Event()
    made: SimpleQueue[tuple[Item] | BaseException | None] = SimpleQueue()

    def make() -> None:
        try:
            while True:
                room.acquire()
                if stopped.is_set():
                    return
                made.put((next(items),))
        except StopIteration:
            made.put(None)
        except BaseException as error:
            made.put(error)

    # A daemon, so that not even a reader that leaks its generator keeps the process from ending.
    thread = threading.Thread(target=make, name=THREAD, daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            # Room is made when an item is taken, so at most `depth` wait beside the one in use.
            room.release()
            yield item[0]
    finally:
        stopped.set()
        room.release()
        thread.join()
