"""Threads that forecast while the event loop answers others, and no more work than they can do."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")


class Overloaded(Exception):  # noqa: N818 - the state of the server, not a fault of its code
    """Every thread works and the waiting places are taken."""


class Workers:
    """A pool of `threads` with `waiting` places before it; beyond those, work is refused.

    One thread is the default: most of a forecast holds the interpreter's lock, and what waits
    for one thread is forecast together.
    """

    def __init__(self, threads: int = 1, waiting: int = 32) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="forecast")
        self._places = threading.Semaphore(threads + waiting)

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Do `work` in a thread.

        Raises:
            Overloaded: there is no place left.
        """
        self.reserve()
        future = self.run(work, *args, **kwargs)
        future.add_done_callback(lambda _: self.release())
        return asyncio.wrap_future(future)

    def reserve(self) -> None:
        """Take a place, for the caller to release.

        Raises:
            Overloaded: there is none left.
        """
        if not self._places.acquire(blocking=False):
            raise Overloaded

    def release(self) -> None:
        """Give a place back."""
        self._places.release()

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do `work` in a thread; those that wait for it have their places."""
        return self._pool.submit(work, *args, **kwargs)

    def close(self) -> None:
        """Finish the work begun and take no more."""
        self._pool.shutdown()
