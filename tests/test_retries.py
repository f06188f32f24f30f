"""What is tried again, for how long, and how a call without a deadline gets one."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from feastrain.stores.deadline import LateError, within
from feastrain.stores.retries import Budget, again

if TYPE_CHECKING:
    from collections.abc import Callable


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[float]]:
    """Return work that fails so often at first, and when it was begun."""
    begun: list[float] = []

    def work() -> str:
        begun.append(time.monotonic())
        if len(begun) <= times:
            raise error
        return "done"

    return work, begun


def passes(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def test_what_passes_is_tried_again_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The third time it goes well; each failure is a line with its cause, and is counted."""
    labels = {"server": "somedb", "error": "ConnectionError"}
    name = "feastrain_store_retries_total"
    before = REGISTRY.get_sample_value(name, labels) or 0
    work, begun = failing(2, ConnectionError("gone\n  away"))
    with caplog.at_level(logging.WARNING, "feastrain.stores.retries"):
        assert "done" == again(work, passes, Budget(5, 6), "SomeDB at here:1")
    assert 3 == len(begun)
    told = [r.getMessage() for r in caplog.records if r.name == "feastrain.stores.retries"]
    assert [f"SomeDB at here:1: gone away; attempt {n} failed" for n in (1, 2)] == told
    assert 2 == (REGISTRY.get_sample_value(name, labels) or 0) - before


def test_what_lasts_is_not() -> None:
    """An error that does not pass is raised at once."""
    work, begun = failing(9, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        again(work, passes, Budget(5, 6), "somedb")
    assert 1 == len(begun)


@pytest.mark.parametrize("budget", [Budget(60, 3), Budget(0.4)])
def test_a_budget_ends(budget: Budget) -> None:
    """So many attempts, or so much time, and the last error is raised."""
    work, begun = failing(10_000, ConnectionError("gone"))
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="gone"):
        again(work, passes, budget, "somedb")
    assert time.monotonic() - started < 2
    assert len(begun) == 3 if budget.attempts else len(begun) > 3


def test_a_call_that_is_late_is_left_alone() -> None:
    """Whoever waits is told in time; what is in time is returned, or raised, as it is."""
    over = threading.Event()
    with pytest.raises(LateError, match=r"^not over within 0.05 s$"):
        within(0.05, over.wait)
    over.set()
    assert within(5, over.wait)
    with pytest.raises(TimeoutError, match="its own"):
        within(5, failing(1, TimeoutError("its own"))[0])
