"""A server that is well until it is told to be ill, for Prometheus to see; run by its name."""

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from fakes import FakeSource, fake_forecaster
from feastrain.errors import DataError, FeastrainError
from feastrain.serving.api import create_app, listen, serve
from feastrain.serving.swap import BundleWatch, Sources
from feastrain.settings import load_settings
from feastrain.stores.fallback.breaker import BreakerLimits
from feastrain.stores.fallback.config import PostgresFallback, RedisPrimary
from feastrain.stores.fallback.postgres import PostgresLedger
from feastrain.stores.fallback.primary import Primary
from feastrain.stores.fallback.sqlite import SqliteLedger
from feastrain.stores.fallback.tiers import Tiers
from feastrain.stores.online_rows import OnlineRows

LEVELS: dict[tuple[object, ...], float] = {(1, "b"): 100.0, (2, "c"): 200.0}
BUNDLE = "b0b0b0b0b0b0b0b0"
ILL = "ill"
"""The file in the server's folder whose presence makes it ill."""


class IllSource:
    """Reads the fakes after a row of real stores; when ill it is slow, late, and fails for site 2.

    Its Redis is a real one, for the test to kill. The PostgreSQL that it asks when it is ill is at
    a port where nothing listens.
    """

    def __init__(self, source: FakeSource, folder: Path, redis: str) -> None:
        self._source, self._ill = source, folder / ILL
        primary = Primary(RedisPrimary(connection_string=redis))
        self._tiers = Tiers(SqliteLedger(folder / "online.db"), primary, BreakerLimits())
        self._tiers.ledger.create(["goods"])
        config = PostgresFallback(
            host="127.0.0.1", port=1, database="x", user="x", password="x", pool_seconds=0.05
        )
        self._dead = PostgresLedger(config)

    def as_of(self) -> datetime:
        return self._source.as_of() if self._ill.exists() else datetime.now(UTC)

    def read(self, series: pa.Table) -> OnlineRows:
        self._tiers.read({"goods": [b"key"]})
        rows = self._source.read(series)
        if not self._ill.exists():
            now = datetime.now(UTC)
            happened = np.full(len(series), int(now.timestamp() * 1e6))
            return replace(rows, as_of=now, happened=happened)
        time.sleep(0.3)
        if 2 in series["site"].to_pylist():
            try:
                self._dead.fetch("goods", [b"key"])
            except self._dead.failures as error:
                message = "the online store does not answer"
                raise FeastrainError(message) from error
        return rows


def damaged() -> Sources:
    """Open what the recipe's pointer leads to newly."""
    message = "the bundle is damaged: train it again"
    raise DataError(message)


def main() -> None:
    """Serve at a port, from a folder, with a Redis."""
    port, folder, redis = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    settings = load_settings().model_copy(update={"port": port})
    forecaster, source, history = fake_forecaster(LEVELS)
    forecaster.source = IllSource(source, folder, redis)
    watch = BundleWatch(folder / BUNDLE, damaged, seconds=0.2)
    with listen(settings) as listener:
        serve(create_app(forecaster, history, settings, watch=watch), settings, listener)


if __name__ == "__main__":
    main()
