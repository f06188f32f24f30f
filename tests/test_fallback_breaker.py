"""The circuit breaker: what it lets through, whatever the order of calls and outcomes."""

from __future__ import annotations

import math

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from feastrain.stores.fallback.breaker import Breaker, BreakerLimits

LIMITS = BreakerLimits(failures=3, first_seconds=1.0, longest_seconds=8.0, trial_seconds=2.0)


class Calls(RuleBasedStateMachine):
    """Clients that ask before they call, and tell how it went; a model counts beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.draw = 0.0
        self.breaker = Breaker(LIMITS, lambda: self.draw)
        self.in_row = 0
        self.trials = 0
        self.until: float | None = None  # when the wait of one that is open ends
        self.trial: float | None = None

    @rule(seconds=st.floats(0, 20), draw=st.floats(0, 0.999))
    def wait(self, seconds: float, draw: float) -> None:
        """Time passes."""
        self.now += seconds
        self.draw = draw

    @rule()
    def ask(self) -> None:
        """A closed one lets all through, an open one none, one on trial one."""
        allowed = self.breaker.allows(self.now)
        if self.until is None:
            assert allowed
            return
        ends = self.until if self.trial is None else self.trial + LIMITS.trial_seconds
        assert allowed == (self.now >= ends)
        if allowed:
            self.trial = self.now

    @rule()
    def succeed(self) -> None:
        """Any call that goes well closes it."""
        self.breaker.succeeded()
        self.in_row = self.trials = 0
        self.until = self.trial = None

    @rule()
    def fail(self) -> None:
        """Enough failures in a row open it, a failed trial at once; a late one changes nothing."""
        self.breaker.failed(self.now)
        if self.until is not None and self.trial is None:
            return
        self.in_row += 1
        if self.trial is not None or self.in_row >= LIMITS.failures:
            span = min(LIMITS.first_seconds * 2**self.trials, LIMITS.longest_seconds)
            self.until, self.trial = self.now + span * (1 + self.draw) / 2, None
            self.trials += 1

    @precondition(lambda self: self.until is not None and self.trial is None)
    @rule()
    def come_back(self) -> None:
        """A trial is let through as the wait ends, and not a moment sooner."""
        assert self.until is not None
        if self.now < self.until:
            assert not self.breaker.allows(math.nextafter(self.until, 0))
        self.now = max(self.now, self.until)
        self.ask()
        assert self.trial == self.now

    @invariant()
    def tells_its_state(self) -> None:
        """Its state is the model's."""
        opened = "open" if self.trial is None else "half-open"
        expected = "closed" if self.until is None else opened
        assert expected == self.breaker.state
        assert (expected == "closed" and not self.in_row) == self.breaker.healthy


TestCalls = Calls.TestCase
