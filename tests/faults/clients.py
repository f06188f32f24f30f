"""Clients that do one thing again and again while servers fail, and what they saw."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from feastrain.errors import FeastrainError

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_SECONDS = 0.02


class Client(threading.Thread):
    """One client: calls `work` until it is stopped, and notes when that went well."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._stopping = threading.Event()
        self.went_well: list[float] = []
        self.refused: Counter[str] = Counter()
        """Calls that ended in our one line, by that line."""
        self.broke: list[BaseException] = []
        """Calls that ended otherwise: none should."""
        self.seconds: list[tuple[float, float]] = []
        """When each call that went well began, and how long it took."""

    def run(self) -> None:
        """Call until stopped."""
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._work()
            except FeastrainError as error:
                self.refused[str(error)] += 1
                time.sleep(PAUSE_SECONDS)
            except BaseException as error:  # noqa: BLE001 - told by the test
                self.broke.append(error)
                time.sleep(PAUSE_SECONDS)
            else:
                now = time.monotonic()
                self.went_well.append(now)
                self.seconds.append((started, now - started))
                time.sleep(PAUSE_SECONDS)

    def stop(self, seconds: float = 120) -> None:
        """End after the call that is under way."""
        self._stopping.set()
        self.join(seconds)
        assert not self.is_alive(), f"{self.name} hangs"

    def outage(self, since: float) -> float:
        """Return the longest time between two calls that went well, from a moment on."""
        before = [at for at in self.went_well if at < since][-1:]
        times = [*before, *(at for at in self.went_well if at >= since)]
        return max((b - a for a, b in pairwise(times)), default=float("inf"))

    def well_since(self, moment: float) -> bool:
        """Tell whether a call that began after a moment went well."""
        return any(began > moment for began, _ in self.seconds[-50:])
