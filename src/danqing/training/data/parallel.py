"""Work on pictures, several at a time: Pillow decodes and scales beside Python."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
MAX_THREADS = 8


def at_once(work: Callable[[Item], Outcome], items: Sequence[Item]) -> Iterator[Outcome]:
    """``work`` on each item; the outcomes come in the order of the items.

    Who stops early waits for no more than is under way.
    """
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, items)
