"""What every system of the `tft` benchmark trains on, and how its steps are timed.

Peers run it in an environment of their own: it imports nothing but numpy.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

CONTEXT, HORIZON = 52, 8
HIDDEN, HEADS, DROPOUT = 32, 4, 0.1
QUANTILES = [0.1, 0.5, 0.9]
BATCH = 256
"""Windows of a step, over all processes."""
CLIP, RATE = 1.0, 1e-3
SERIES, PERIODS = 300, 160
STATIC, OBSERVED, KNOWN = 3, 5, 6
"""How many numbers there are of each role; the first observed one is the target."""


@dataclass(frozen=True)
class Panel:
    """S series over P periods; numbers have a mean near 0 and a deviation near 1."""

    static_SF: Floats
    observed_SPO: Floats
    known_PK: Floats
    """Of the calendar, so that all series share it."""


def draw() -> Panel:
    """Draw the same panel in every process: a season, a level for each series, and noise."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Floats:
        return rng.standard_normal(shape, dtype=np.float32)

    known_PK, static_SF = drawn(PERIODS, KNOWN), drawn(SERIES, STATIC)
    observed_SPO = drawn(SERIES, PERIODS, OBSERVED)
    season_P = np.sin(2 * np.pi * np.arange(PERIODS, dtype=np.float32) / CONTEXT)
    observed_SPO[..., 0] = season_P + known_PK[:, 0] + static_SF[:, :1] + 0.3 * observed_SPO[..., 0]
    return Panel(static_SF, observed_SPO, known_PK)


class Clock:
    """Times steps after a warm-up, and says in one JSON line what it saw."""

    def __init__(self, warm_up: int, timed: int) -> None:
        self.warm_up, self.timed, self.done = warm_up, timed, 0
        self._started = self._started_cpu = 0.0

    @property
    def steps(self) -> int:
        """All steps that a system has to take."""
        return self.warm_up + self.timed

    def step_ended(self) -> None:
        """Count a step: the clock starts with the last of the warm-up."""
        self.done += 1
        if self.done == self.warm_up:
            self._started, self._started_cpu = time.perf_counter(), _cpu_s()
        if self.done == self.steps:
            print(json.dumps(self._seen()), flush=True)

    def _seen(self) -> dict[str, float]:
        samples = self.timed * BATCH
        return {
            "samples_per_s": samples / (time.perf_counter() - self._started),
            "cpu_s": _cpu_s() - self._started_cpu,
        }


def _cpu_s() -> float:
    """Return the processor time of this process and its threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
