"""Threads of our own that do what an event loop should not wait for.

The clients of the stores block, and are bounded by their time limits; a thread each, as many as
there are connections, keeps a slow store from taking the threads that others share.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


class Threads:
    """Threads that are started when they are needed, in whichever process needs them."""

    def __init__(self) -> None:
        self._running: tuple[int, ThreadPoolExecutor] | None = None

    async def run(self, work: Callable[[], T], count: int) -> T:
        """Do `work` in one of `count` threads and return what it returns."""
        if self._running is None or self._running[0] != os.getpid():
            threads = ThreadPoolExecutor(count, thread_name_prefix="feastrain-online")
            self._running = (os.getpid(), threads)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._running[1], work)

    def close(self) -> None:
        """End the threads once they are done; new ones are started when they are needed."""
        if self._running is not None and self._running[0] == os.getpid():
            self._running[1].shutdown(wait=False)
        self._running = None


class Done:
    """What may be awaited, or not: it is over already."""

    def __await__(self) -> Generator[None, None, None]:
        """Return at once."""
        yield from ()
