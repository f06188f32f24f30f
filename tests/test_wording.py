"""A forecast as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from feastrain.serving.forecaster import Forecast
from feastrain.serving.wording import Wording

CUTOFF = datetime(2012, 8, 31, tzinfo=UTC)
LEVELS = (0.1, 0.5, 0.9)
HORIZON = 3
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def forecast_of(
    quantiles_MHQ: np.ndarray, found: list[bool], events: list[list[str]] | None
) -> Forecast:
    """Return a forecast that says these numbers."""
    return Forecast(
        series=pa.table({"shop": np.arange(len(quantiles_MHQ))}),
        quantiles_MHQ=quantiles_MHQ,
        levels=LEVELS,
        periods=[CUTOFF + step * timedelta(days=7) for step in range(1, HORIZON + 1)],
        event_MH=None if events is None else np.array(events, dtype=np.str_).reshape(-1, HORIZON),
        as_of=CUTOFF,
        found=np.array(found),
        read_seconds=0.0,
    )


@given(
    values=st.lists(FINITE, min_size=18, max_size=18),
    events=st.none() | st.lists(st.text(), min_size=6, max_size=6),
    shop=st.text(),
    steps=st.integers(1, HORIZON),
)
def test_numbers_and_texts_are_read_as_they_were(
    values: list[float], events: list[str] | None, shop: str, steps: int
) -> None:
    """To the last bit, whatever the texts are."""
    quantiles_MHQ = np.array(values).reshape(2, HORIZON, 3)
    # NumPy's texts end where their zeros begin.
    named = None if events is None else [text.rstrip("\0") for text in events]
    rows = None if named is None else [named[:HORIZON], named[HORIZON:]]
    forecast = forecast_of(quantiles_MHQ, [True, False, True], rows)
    wording = Wording(("shop", "item"), lambda period: f"100% {period:%Y-%m-%d}")
    keys: list[tuple[int | str, ...]] = [(shop, 1), (shop, 2), (shop, 3)]
    told = wording.series(keys, forecast, ["ok", "unknown", "stale"], [1.25, 2.5, 3.5], steps)

    def known(place: int, status: str, age: float) -> dict[str, object]:
        made = []
        for step in range(steps):
            one: dict[str, object] = {
                "step": step + 1,
                "period": f"100% {forecast.periods[step]:%Y-%m-%d}",
                "quantiles": dict(zip(map(str, LEVELS), quantiles_MHQ[place, step], strict=True)),
            }
            made.append(one | ({} if rows is None else {"event": rows[place][step]}))
        key = {"shop": shop, "item": 2 * place + 1}
        return {"key": key, "status": status, "age_seconds": age, "steps": made}

    unknown = {"shop": shop, "item": 2}
    assert [json.loads(text) for text in told] == [
        known(0, "ok", 1.25),
        {"key": unknown, "status": "unknown", "age_seconds": None, "steps": []},
        known(1, "stale", 3.5),
    ]
