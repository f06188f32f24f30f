"""A deadline for calls that have none of their own."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class LateError(Exception):
    """A call was not over in time; its thread goes on, and nobody hears what comes of it."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own and return what it returns, but wait only so long.

    Raises:
        LateError: it was not over in time.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, daemon=True, name="feastrain-deadline").start()
    try:
        return done.result(seconds)
    except TimeoutError as error:
        if done.done():
            raise  # the work's own
        message = f"not over within {seconds:g} s"
        raise LateError(message) from error
