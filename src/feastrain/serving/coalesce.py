"""Requests that wait for a thread are answered together: many cost little more than one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from feastrain.serving.workers import Workers

Q = TypeVar("Q")
R = TypeVar("R")


JOIN_SECONDS = 0.0005
"""How long a thread that answered several together waits for their clients to ask again.

Without it half of them find the other half being answered, and what could be one batch is two.
"""


class Coalescing(Generic[Q, R]):
    """A thread that is free takes all that wait by then; one that comes alone waits for nobody."""

    def __init__(
        self,
        answer: Callable[[list[Q]], list[R]],
        workers: Workers,
        size: Callable[[Q], int],
        most: int,
    ) -> None:
        """Answer by threads of `workers`.

        Args:
            answer: of several requests, in their order.
            workers: the threads, and how many requests may wait for them.
            size: of a request.
            most: how much is answered together; a larger request is answered alone.
        """
        self._answer = answer
        self._workers = workers
        self._size = size
        self._most = most
        self._waiting: deque[tuple[Q, Future[R], Context]] = deque()
        self._lock = threading.Lock()
        self._busy = 0
        """Threads that answer."""

    async def ask(self, asked: Q) -> R:
        """Return the answer.

        Raises:
            Overloaded: there is no place left.
        """
        self._workers.reserve()
        told = Future[R]()
        told.add_done_callback(lambda _: self._workers.release())
        with self._lock:
            self._waiting.append((asked, told, copy_context()))
            idle = self._busy < self._workers.threads
            self._busy += idle
        if idle:
            self._workers.run(self._work)
        return await asyncio.wrap_future(told)

    def _work(self) -> None:
        while batch := self._taken():
            first = batch[0][2]  # what several requests cost is told in the trace of the first
            first.run(self._tell, [(asked, told) for asked, told, _ in batch])
            if len(batch) > 1:
                time.sleep(JOIN_SECONDS)

    def _tell(self, batch: list[tuple[Q, Future[R]]]) -> None:
        if len(batch) > 1:
            # What one request breaks on is not for the others to hear: each is asked again alone.
            with contextlib.suppress(Exception):
                answers = self._answer([asked for asked, _ in batch])
                for (_, told), answer in zip(batch, answers, strict=True):
                    told.set_result(answer)
                return
        for asked, told in batch:
            try:
                told.set_result(self._answer([asked])[0])
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                told.set_exception(error)

    def _taken(self) -> list[tuple[Q, Future[R], Context]]:
        """Take what waits, without those that gave up; nothing, and the thread is idle."""
        batch: list[tuple[Q, Future[R], Context]] = []
        left = self._most
        with self._lock:
            while self._waiting and (not batch or self._size(self._waiting[0][0]) <= left):
                asked, told, context = self._waiting.popleft()
                if told.set_running_or_notify_cancel():
                    batch.append((asked, told, context))
                    left -= self._size(asked)
            self._busy -= not batch
        return batch
