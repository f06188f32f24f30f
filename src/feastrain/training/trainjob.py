"""Kubeflow's view of a run: its progress, sent from a thread so that training never waits.

Outside a TrainJob there is nobody to tell. This is the one module beside `feastrain.jobs` that
imports kubeflow: it runs within the ranks, where `jobs` does not.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from typing import TYPE_CHECKING, Any

from feastrain.telemetry import say
from feastrain.training.observer import End, Epoch, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from feastrain.training.observer import Event

PAUSE_SECONDS = 5.2
"""Kubeflow's client drops what comes within 5 s of an update that went through."""
SEND_SECONDS = 6.0
"""How long the end waits for the last update; with all else, less than a grace period of 30 s."""


class TrainJobProgress:
    """Sends the newest state every few seconds, and the last one whatever comes.

    Args:
        send: `kubeflow.trainer.update_trainjob_status`.
        pause_seconds: least time between two updates.
    """

    def __init__(self, send: Callable[..., bool], pause_seconds: float = PAUSE_SECONDS) -> None:
        self._send, self._pause = send, pause_seconds
        self._status: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def see(self, event: Event) -> None:
        """Remember how far the run is; after the last event, wait until that is sent."""
        match event:
            case Step():
                percent = 100 * event.done // (event.epochs * event.steps)
                self._metrics |= {
                    "epoch": event.epoch,
                    "loss": event.loss,
                    "rows_per_s": event.rows_per_s,
                }
                self._tell(min(percent, 99), event.remaining_seconds)
            case Epoch():
                self._metrics |= {
                    "validation_loss": event.validation_loss,
                    "validation_wmae": event.validation_wmae,
                }
                self._status = self._status | {"metrics": dict(self._metrics)}
            case End(outcome):
                if outcome == "finished":
                    self._tell(100, 0.0)
                self._over.set()
                self._thread.join(self._pause + SEND_SECONDS)
            case _:
                pass

    def _tell(self, percent: int, remaining_seconds: float) -> None:
        self._status = {
            "progress_percent": percent,
            "estimated_remaining_seconds": round(remaining_seconds),
            "metrics": dict(self._metrics),
        }

    def _work(self) -> None:
        told, earliest, over = self._status, 0.0, False
        while not over:
            over = self._over.wait(self._pause)
            if over:
                time.sleep(max(0.0, earliest - time.monotonic()))
            status = self._status
            if status is not told and self._send(**status):
                told, earliest = status, time.monotonic() + self._pause


def trainjob_progress() -> Iterator[TrainJobProgress]:
    """Yield the watcher that tells Kubeflow, if its client is installed."""
    if importlib.util.find_spec("kubeflow") is None:
        say("Kubeflow is not told of the progress: pip install 'feastrain[jobs]'")
        return
    from kubeflow.trainer import update_trainjob_status

    yield TrainJobProgress(update_trainjob_status)
