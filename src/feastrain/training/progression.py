"""OpenShift AI's view of a run: its controller reads JSON from a port of rank 0.

It keeps what it reads as the job's annotation `trainer.opendatahub.io/trainerStatus`.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from feastrain.training.observer import End, Epoch, Step
from feastrain.training.port import Answer

if TYPE_CHECKING:
    from feastrain.training.observer import Event


class Progression:
    """Holds the newest state of a run, for whoever asks."""

    def __init__(self) -> None:
        self._told: dict[str, Any] = {
            "progressPercentage": 0,
            "trainMetrics": {},
            "evalMetrics": {},
        }

    def see(self, event: Event) -> None:
        """Remember how far the run is."""
        match event:
            case Step():
                steps = event.epochs * event.steps
                self._told = self._told | {
                    "progressPercentage": min(100 * event.done // steps, 99),
                    "estimatedRemainingSeconds": round(event.remaining_seconds),
                    "currentStep": event.done,
                    "totalSteps": steps,
                    "currentEpoch": event.epoch,
                    "totalEpochs": event.epochs,
                    "trainMetrics": {"loss": event.loss, "rows_per_s": event.rows_per_s},
                }
            case Epoch():
                scores = {"loss": event.validation_loss, "wmae": event.validation_wmae}
                self._told = self._told | {"evalMetrics": scores}
            case End("finished"):
                over = {"progressPercentage": 100, "estimatedRemainingSeconds": 0}
                self._told = self._told | over
            case _:
                pass

    def answer(self, path: str) -> Answer:
        """Return the state, at `/metrics`."""
        if path != "/metrics":
            return Answer(HTTPStatus.NOT_FOUND, b"/metrics\n")
        return Answer(HTTPStatus.OK, json.dumps(self._told).encode(), "application/json")
