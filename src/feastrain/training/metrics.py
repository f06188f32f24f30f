"""What Prometheus is told of a run: scraped from rank 0, or pushed once when it ends.

The numbers are plain ones and become metrics when they are asked for. The metric classes of
prometheus_client are not used, since Feast turns on their multi-process mode in every process
that inherits its environment.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from http.client import HTTPException
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest, push_to_gateway
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from feastrain.dataset.latest import last_effort
from feastrain.settings import without_password
from feastrain.telemetry import say
from feastrain.training.observer import Boosted, End, Epoch, Saved, Step
from feastrain.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from feastrain.training.observer import About, Event

JOB = "feastrain"
PUSH_SECONDS = 5.0
BOUNDS = tuple(float(f"{digits}e{power}") for power in range(-3, 4) for digits in (1, 2.5, 5))
"""Upper bounds of the histograms' buckets, in seconds."""

PREFIX = "feastrain_training"
Family = type[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily | InfoMetricFamily]
_GAUGES = {
    "loss": "Training loss, the mean of the epoch so far",
    "validation_loss": "Pinball loss on the validation rows after the last epoch",
    "validation_wmae": "Weighted mean absolute error on the validation rows, in the label's unit",
    "gradient_norm": "Norm of the last step's gradient before it was clipped",
    "rows_per_second": "Rows read by all ranks in a second of the epoch so far",
    "epoch": "The epoch under way, counted from 1",
    "progress_ratio": "Steps done of all epochs, as a share of all steps",
    "remaining_seconds": "Time until the last epoch at the pace so far; patience may end it sooner",
    "finished": "1 when the bundle is published, else 0",
    "silent_seconds": "Time since a step, an epoch or rounds of a booster ended, or the run began",
    "silence_limit_seconds": "How long a run may be silent before it is not alive any more",
    "checkpoint_age_seconds": "Age of this process's newest checkpoint, or of the run before one",
    "checkpoint_interval_seconds": "How often the recipe asks for a checkpoint",
    "retrieval_seconds": "Time of the snapshot's point-in-time join, where it was last built here",
}
_COUNTERS = {
    "steps": "Steps of this process",
    "rows": "Rows read by all ranks since this process began",
    "restarts": "How often the ranks were started again",
}
_HISTOGRAMS = {
    "step_seconds": "Time of one step",
    "epoch_seconds": "Time of one epoch's steps, without validation",
    "checkpoint_seconds": "Time to write a checkpoint",
}
LABELS = {PREFIX: ("recipe", "run", "snapshot", "version")}
"""Labels of the metrics that have any."""
FAMILIES: dict[str, tuple[Family, str]] = {
    PREFIX: (InfoMetricFamily, "What is trained on what"),
    **{f"{PREFIX}_{name}": (GaugeMetricFamily, text) for name, text in _GAUGES.items()},
    **{f"{PREFIX}_{name}": (CounterMetricFamily, text) for name, text in _COUNTERS.items()},
    **{f"{PREFIX}_{name}": (HistogramMetricFamily, text) for name, text in _HISTOGRAMS.items()},
}
"""Every metric of a run: its kind, and what it means."""


class Seconds:
    """How long things of one kind took, counted by upper bound."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds

    def value(self) -> dict[str, Any]:
        """Return the cumulative counts, and the sum, as a histogram is given them."""
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        return {"buckets": buckets, "sum_value": self._total}


class Metrics(Collector):
    """The numbers of one run, and whether it is alive.

    Args:
        about: the run.
        restarts: how often its ranks were started again.
        heartbeat_seconds: a run is alive while a step, or rounds of a booster, have ended within
            so many seconds.
        clock: in seconds.
    """

    def __init__(
        self,
        about: About,
        restarts: int = 0,
        heartbeat_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._about, self._restarts, self._clock = about, restarts, clock
        self._heartbeat_seconds = heartbeat_seconds
        self._lock = threading.Lock()
        self._gauges: dict[str, float] = {"finished": 0.0}
        self._step, self._epoch, self._checkpoint = Seconds(), Seconds(), Seconds()
        self._steps = self._rows = 0
        self._boosted = False
        self._beat = self._saved = clock()
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def see(self, event: Event) -> None:
        """Count one event."""
        with self._lock:
            match event:
                case Step():
                    self._see_step(event)
                case Epoch():
                    self._see_epoch(event)
                case Boosted():
                    self._beat, self._boosted = self._clock(), True
                case Saved(seconds):
                    self._checkpoint.observe(seconds)
                    self._saved = self._clock()
                case End(outcome):
                    self._gauges["finished"] = float(outcome == "finished")

    def _see_step(self, step: Step) -> None:
        self._beat = self._clock()
        self._steps, self._rows = self._steps + 1, self._rows + step.rows
        self._step.observe(step.seconds)
        self._gauges |= {
            "loss": step.loss,
            "gradient_norm": step.gradient_norm,
            "rows_per_second": step.rows_per_s,
            "epoch": step.epoch,
            "progress_ratio": step.done / (step.epochs * step.steps),
            "remaining_seconds": step.remaining_seconds,
        }

    def _see_epoch(self, epoch: Epoch) -> None:
        self._beat = self._clock()
        self._epoch.observe(epoch.seconds)
        self._gauges |= {
            "loss": epoch.loss,
            "validation_loss": epoch.validation_loss,
            "validation_wmae": epoch.validation_wmae,
        }

    @property
    def stalled_seconds(self) -> float | None:
        """How long ago the last step ended (or the run began), where that is too long."""
        silent = self._clock() - self._beat
        return silent if silent > self._heartbeat_seconds else None

    @property
    def stepping(self) -> bool:
        """Whether a step has ended, or rounds of a booster."""
        return self._steps > 0 or self._boosted

    def collect(self) -> Iterator[Metric]:
        """Yield every metric whose value is known."""
        with self._lock:
            families = list(self._families())
        yield from families

    def _families(self) -> Iterator[Metric]:
        for name, value in self._values().items():
            full = f"{PREFIX}_{name}" if name else PREFIX
            family, text = FAMILIES[full]
            given = value.value() if isinstance(value, Seconds) else {"value": value}
            yield family(full, text, **given)

    def _values(self) -> dict[str, Any]:
        """Return what is known, by the name of its metric."""
        about, now = self._about, self._clock()
        values = {
            "": {
                "recipe": about.recipe.name,
                "run": about.name,
                "snapshot": about.snapshot.fingerprint,
                "version": __version__,
            },
            **self._gauges,
            "silent_seconds": now - self._beat,
            "silence_limit_seconds": self._heartbeat_seconds,
            "checkpoint_age_seconds": now - self._saved,
            "checkpoint_interval_seconds": about.recipe.training.checkpoint_s,
            "steps": self._steps,
            "rows": self._rows,
            "restarts": self._restarts,
            "step_seconds": self._step,
            "epoch_seconds": self._epoch,
            "checkpoint_seconds": self._checkpoint,
        }
        retrieval = _retrieval_seconds(about)
        return values if retrieval is None else values | {"retrieval_seconds": retrieval}

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def _retrieval_seconds(about: About) -> float | None:
    """Return how long the snapshot's join took, where this machine made it last."""
    effort = last_effort(about.snapshot.path.parent, about.recipe.name)
    if effort is None or effort.snapshot != about.snapshot.fingerprint:
        return None
    return effort.join_seconds


class LastWord:
    """Pushes the metrics to a Pushgateway when the run ends; a failure is one warning line."""

    def __init__(self, metrics: Metrics, gateway: str, run: str) -> None:
        self._metrics, self._gateway, self._run = metrics, gateway, run

    def see(self, event: Event) -> None:
        """Push, if the run is over."""
        if not isinstance(event, End):
            return
        push(self._gateway, self._metrics.registry, {"run": self._run})


def push(gateway: str, registry: CollectorRegistry, group: dict[str, str]) -> None:
    """Push metrics to a Pushgateway as a group of their own; a failure is one warning line."""
    try:
        push_to_gateway(gateway, JOB, registry, group, PUSH_SECONDS)
    except (OSError, ValueError, HTTPException) as error:
        say(
            f"the metrics could not be pushed to {without_password(gateway)} ({error}); "
            "the run itself is as it was: mend FEASTRAIN_PUSHGATEWAY for the next"
        )
