"""One policy for what fails in passing: done again after growing waits, within a budget.

Who calls says which errors pass and how much may be spent; what is done must leave, done twice,
what doing it once does.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import stamina
from prometheus_client import Counter

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LOG = logging.getLogger(__name__)
FIRST_SECONDS, LONGEST_SECONDS = 0.02, 1.0


@dataclass(frozen=True)
class Budget:
    """How much may be spent on one piece of work; whichever ends first ends it."""

    seconds: float
    """Time, all waits counted."""
    attempts: int | None = None
    """Times that it is begun; None sets no limit."""


def again(work: Callable[[], T], passes: Callable[[Exception], bool], budget: Budget, at: str) -> T:
    """Do idempotent work, again where it failed in passing, and return what it returns.

    Args:
        work: what is done.
        passes: tells whether an error may go away by itself.
        budget: how much may be spent.
        at: the server, as told in the log and the metrics.

    Raises:
        Exception: the last error, where it does not pass or the budget is spent.
    """
    for attempt in stamina.retry_context(
        on=_Backoff(passes, at), attempts=budget.attempts, timeout=budget.seconds
    ):
        with attempt:
            return work()
    raise AssertionError


class _Backoff:
    """Exponential waits with full jitter, on errors that pass.

    (M. Brooker, Exponential Backoff and Jitter, 2015.)
    """

    def __init__(self, passes: Callable[[Exception], bool], at: str) -> None:
        self._passes, self._at = passes, at
        self._tried = 0

    def __call__(self, error: Exception) -> bool | float:
        if not self._passes(error):
            return False
        self._tried += 1
        span = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self._tried, 32))
        _retries().labels(self._at.partition(" ")[0].lower(), type(error).__name__).inc()
        LOG.warning("%s: %s; attempt %d failed", self._at, one_line(error), self._tried)
        return random.uniform(0, span)  # noqa: S311 - no secret


def one_line(error: object) -> str:
    """Return what an error says, without line breaks; its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


@cache
def _retries() -> Counter:
    return Counter(
        "feastrain_store_retries",
        "Calls of a store that failed in passing, by server and error",
        ["server", "error"],
    )
