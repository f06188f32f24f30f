"""Threads that forecast while the event loop answers others, and no more work than they can do."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class Overloaded(Exception):  # noqa: N818 - the state of the server, not a fault of its code
    """Every thread works and the waiting places are taken."""


class Workers:
    """A pool of `threads` with `waiting` places before it; beyond those, work is refused."""

    def __init__(self, threads: int = 2, waiting: int = 32) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="forecast")
        self._places = threading.Semaphore(threads + waiting)

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Do `work` in a thread.

        Raises:
            Overloaded: there is no place left.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded
        future = self._pool.submit(work, *args, **kwargs)
        future.add_done_callback(lambda _: self._places.release())
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish the work begun and take no more."""
        self._pool.shutdown()
