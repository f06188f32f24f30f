"""Forecasts as of a past cut-off, as the last backtest made them with what was known then.

The bundle that is served was trained on what came after; asked about the past it would know the
answer. So the past is answered by the models of a backtest, or not at all.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from feastrain.serving.routes import instant

if TYPE_CHECKING:
    from datetime import datetime

    from feastrain.recipe import Recipe
    from feastrain.serving.evidence import Evidence
    from feastrain.serving.history import Key


class PastForecasts:
    """What a backtest said at its cut-offs."""

    def __init__(self, evidence: Evidence | None, recipe: Recipe) -> None:
        self._evidence = evidence
        self._recipe = recipe
        stamps = [] if evidence is None else evidence.table["event_timestamp"].unique().to_pylist()
        self._cutoffs: list[datetime] = sorted(stamp.astimezone(UTC) for stamp in stamps)

    def answer(self, keys: list[Key], as_of: datetime, steps: int | None) -> dict[str, Any]:
        """Return the forecasts of some series as of a time before the online cut-off.

        Raises:
            HTTPException: 422, no backtest has the cut-off that was the last one then.
        """
        cutoff = max((one for one in self._cutoffs if one <= as_of), default=None)
        if self._evidence is None or cutoff is None or as_of >= cutoff + self._recipe.frequency:
            raise HTTPException(422, self._refusal(as_of))
        series = [self._one(key, cutoff, steps) for key in keys]
        return {
            "cutoff": instant(cutoff),
            "bundle": None,
            "snapshot": None,
            "backtest": self._evidence.name,
            "source": "backtest",
            "quantiles": list(self._evidence.levels) or [0.5],
            "series": series,
        }

    def _one(self, key: Key, cutoff: datetime, steps: int | None) -> dict[str, Any]:
        assert self._evidence is not None
        name = self._recipe.period_name(cutoff)
        made = [one["steps"] for one in self._evidence.of(key) if one["cutoff"] == name]
        return {
            "key": dict(zip(self._recipe.entities, key, strict=True)),
            "status": "ok" if made else "unknown",
            "age_seconds": None,
            "steps": made[0][:steps] if made else [],
        }

    def _refusal(self, as_of: datetime) -> str:
        if not self._cutoffs:
            return (
                f"as_of: nothing is known as of {instant(as_of)}: leave it out, or publish a "
                "backtest (`feastrain backtest`), whose cut-offs can then be asked for"
            )
        first, last = instant(self._cutoffs[0]), instant(self._cutoffs[-1])
        return (
            f"as_of: nothing is known as of {instant(as_of)}; the last backtest has "
            f"{len(self._cutoffs)} cut-offs from {first} to {last}; leave it out for today's"
        )
