"""When a server that fails is left alone, and when it is tried again: pure, time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True)
class BreakerLimits:
    """When a breaker opens, and for how long."""

    failures: int = 3
    """Failures in a row that open it."""
    first_seconds: float = 0.5
    """Longest wait before the first trial; it doubles with every trial that fails."""
    longest_seconds: float = 15.0
    """Longest wait before any trial."""
    trial_seconds: float = 5.0
    """After this a trial that nobody told the end of counts as failed."""


class Breaker:
    """Closed: calls go through. Open: none does. Half-open: one does, and decides.

    The wait is drawn evenly from the upper half of its span, so that the processes that saw one
    server die do not all come back to it at one moment.
    (M. Nygard, Release It!, 2007; jitter: M. Brooker, Exponential Backoff and Jitter, 2015.)
    """

    def __init__(self, limits: BreakerLimits, draw: Callable[[], float]) -> None:
        """Start closed.

        Args:
            limits: when it opens, and for how long.
            draw: gives numbers evenly spread over [0, 1).
        """
        self._limits = limits
        self._draw = draw
        self.state: State = "closed"
        self._failures = 0
        self._trials = 0
        self._until = 0.0

    @property
    def healthy(self) -> bool:
        """Whether the last call went well."""
        return self.state == "closed" and not self._failures

    def allows(self, now: float) -> bool:
        """Tell whether a call may go through at `now`; who is told so tells how it ended."""
        if self.state == "closed":
            return True
        if now < self._until:
            return False
        self.state = "half-open"
        self._until = now + self._limits.trial_seconds
        return True

    def succeeded(self) -> None:
        """Close: the server answered."""
        self.state = "closed"
        self._failures = self._trials = 0

    def failed(self, now: float) -> None:
        """Count a failure at `now`; the last of too many opens, and so does a failed trial."""
        if self.state == "open":
            return  # a call that started while it was closed
        self._failures += 1
        if self.state == "closed" and self._failures < self._limits.failures:
            return
        self.state = "open"
        span = self._limits.first_seconds * 2.0 ** min(self._trials, 32)
        self._trials += 1
        self._until = now + min(span, self._limits.longest_seconds) * (1 + self._draw()) / 2
