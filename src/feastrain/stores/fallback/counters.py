"""What Prometheus is told of an online store: where answers came from, and what failed."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge

STATES = ("closed", "half-open", "open")


@cache
def _metrics() -> tuple[Counter, Counter, Gauge, Counter]:
    """Make the metrics once a process, in Prometheus's default registry, as Feast does its own."""
    return (
        Counter(
            "feastrain_online_answers",
            "Keys answered by an online store, by where the answer came from",
            ["source"],
        ),
        Counter(
            "feastrain_online_primary_errors",
            "Calls that the primary of an online store did not answer, by call and error",
            ["call", "error"],
        ),
        Gauge(
            "feastrain_online_breaker_state",
            "Whether the primary is asked: 0 closed (it is), 1 half-open (on trial), 2 open",
            multiprocess_mode="livemax",
        ),
        Counter(
            "feastrain_online_pool_timeouts",
            "Waits for a connection that ended without one: all were in use, or the store is away",
            ["store"],
        ),
    )


def collectors() -> tuple[Counter | Gauge, ...]:
    """Return every metric of the online stores of this process."""
    return _metrics()


def pool_timed_out(store: str) -> None:
    """Count a wait for a connection that ended without one."""
    _metrics()[3].labels(store).inc()


class Counters:
    """The metrics of one online store."""

    def __init__(self, *sources: str) -> None:
        answers, self._errors, self._breaker, timeouts = _metrics()
        self._answers = {source: answers.labels(source) for source in sources}
        for source in sources:
            timeouts.labels(source)
        self._state = ""

    def answered(self, source: str, keys: int) -> None:
        """Count keys that a store answered."""
        self._answers[source].inc(keys)

    def failed(self, call: str, error: Exception) -> None:
        """Count a call that the primary did not answer."""
        self._errors.labels(call, type(error).__name__).inc()

    def breaker(self, state: str) -> None:
        """Say which state the breaker is in."""
        if state != self._state:
            self._state = state
            self._breaker.set(STATES.index(state))
