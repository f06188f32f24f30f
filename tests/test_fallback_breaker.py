"""The circuit breaker: what it lets through, whatever the order of calls and outcomes."""

from __future__ import annotations

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
        self.opened: float | None = None
        self.trial: float | None = None

    @rule(seconds=st.floats(0, 20), draw=st.floats(0, 0.999))
    def wait(self, seconds: float, draw: float) -> None:
        """Time passes."""
        self.now += seconds
        self.draw = draw

    def _until(self) -> tuple[float, float]:
        """Return the earliest and latest end of the wait that the model knows of."""
        assert self.opened is not None
        span = min(LIMITS.first_seconds * 2 ** (self.trials - 1), LIMITS.longest_seconds)
        return self.opened + span / 2, self.opened + span

    @rule()
    def ask(self) -> None:
        """A closed one lets all through, an open one none, one on trial one."""
        allowed = self.breaker.allows(self.now)
        if self.opened is None:
            assert allowed
            return
        if self.trial is not None:
            assert allowed == (self.now >= self.trial + LIMITS.trial_seconds)
        else:
            earliest, latest = self._until()
            assert allowed or self.now < latest
            assert not allowed or self.now >= earliest
        if allowed:
            self.trial = self.now

    @rule()
    def succeed(self) -> None:
        """Any call that goes well closes it."""
        self.breaker.succeeded()
        self.in_row = self.trials = 0
        self.opened = self.trial = None

    @rule()
    def fail(self) -> None:
        """Enough failures in a row open it, a failed trial at once; a late one changes nothing."""
        self.breaker.failed(self.now)
        if self.opened is not None and self.trial is None:
            return
        self.in_row += 1
        if self.trial is not None or self.in_row >= LIMITS.failures:
            self.opened, self.trial = self.now, None
            self.trials += 1

    @precondition(lambda self: self.opened is not None and self.trial is None)
    @rule()
    def come_back(self) -> None:
        """After the longest wait there is always a trial: it never stays away for good."""
        self.now += LIMITS.longest_seconds
        self.ask()
        assert self.trial == self.now

    @invariant()
    def tells_its_state(self) -> None:
        """Its state is the model's."""
        if self.opened is None:
            expected = "closed"
        else:
            expected = "open" if self.trial is None else "half-open"
        assert expected == self.breaker.state


TestCalls = Calls.TestCase
