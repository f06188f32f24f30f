"""Reading 20 features of 1, 10 and 100 entities from one Redis: ours, Feast's SDK, the limit.

Ours is our store's reader: a primary with a fallback behind it, answers as arrays. `feast-sdk` is
`get_online_features(...).to_dict()` on Feast's own Redis store. `limit` is a pipeline of HMGETs of
the raw client, with the numbers unpacked into an array: the same features, eight bytes each, no
store around them. All three hold the same rows of 421,570; each reads other entities every time.
Systems take turns in blocks, and quantiles are over all calls of a system. Then the fallback's
case is measured: what a client saw while Redis was killed (SIGKILL), paused (SIGSTOP) and came
back.
"""

from __future__ import annotations

import argparse
import contextlib
import struct
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figures import Figure, options, tell
from online_repo import FALLBACK, NAMES, ROWS, SPAN, apply, postgres, redis, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureStore

    Entities = dict[str, list[int]]
    Read = Callable[[Entities], object]

NAME = "online"
CASES = {"1x20": 1, "10x20": 10, "100x20": 100}
BLOCKS, CALLS = 20, 200
QUICK_BLOCKS, QUICK_ROWS = 4, 20_000


def main() -> None:
    """Measure the cases that are asked for, and tell quantiles of a call in milliseconds."""
    asked = options(__doc__, _extend)
    rows = QUICK_ROWS if asked.quick else ROWS
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="online-")))
        servers = stack.enter_context(redis()), stack.enter_context(postgres())
        write_rows(scratch / "rows.parquet", rows)
        systems = _systems(scratch, *servers, stack)
        blocks = QUICK_BLOCKS if asked.quick else BLOCKS
        times = {
            case: _measured(systems, CASES[case], rows, blocks) for case in asked.case.split(",")
        }
    tell(
        (
            Figure(NAME, case, system, f"p{quantile}_ms", float(np.percentile(of, quantile)) * 1e3)
            for case, by_system in times.items()
            for system, of in by_system.items()
            for quantile in (50, 99)
        ),
        asked.json,
    )
    for case, by_system in times.items():
        ours, sdk, limit = (
            np.percentile(by_system[name], [50, 99]) for name in ("feastrain", "feast-sdk", "limit")
        )
        print(
            f"{case}: feastrain's p50 and p99 are {sdk[0] / ours[0]:.1f} and "
            f"{sdk[1] / ours[1]:.1f} times as fast as Feast's SDK, {ours[0] / limit[0]:.2f} and "
            f"{ours[1] / limit[1]:.2f} of the limit"
        )


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", default=",".join(CASES), help="some of %(default)s")


def _systems(
    scratch: Path, primary: dict[str, Any], fallback: dict[str, Any], stack: contextlib.ExitStack
) -> dict[str, Read]:
    from feastrain.stores.fallback.bulk import write_view
    from feastrain.stores.feature_repo import online_store_of

    path = scratch / "rows.parquet"
    config = {"type": FALLBACK, "primary": primary, "fallback": fallback}
    ours = apply(scratch / "ours", path, config)
    feasts = apply(scratch / "feasts", path, primary)
    online, view = online_store_of(ours), ours.get_feature_view("numbers")
    assert online is not None
    stack.callback(online.close)
    write_view(ours, view, online.tiers(ours.config), SPAN)
    _fill_feasts(feasts, path)
    client, raw = _raw(primary, path)
    reader = online.reader(ours.config, [(view, NAMES)])
    features = [f"numbers:{name}" for name in NAMES]

    def limit(entities: Entities) -> object:
        pipe = client.pipeline(transaction=False)
        for store, item in zip(entities["store"], entities["item"], strict=True):
            pipe.hmget(b"raw:%d:%d" % (store, item), raw)
        return np.frombuffer(b"".join([b"".join(row) for row in pipe.execute()]))

    systems: dict[str, Read] = {
        "feastrain": reader.read,
        "feast-sdk": lambda entities: feasts.get_online_features(features, entities).to_dict(),
        "limit": limit,
    }
    _agree(systems)
    return systems


def _fill_feasts(store: FeatureStore, path: Path) -> None:
    import io

    from feastrain.stores.feature_repo import quiet_offline_store

    with quiet_offline_store(), contextlib.redirect_stdout(io.StringIO()):
        store.materialize(*SPAN)


def _raw(primary: dict[str, Any], path: Path) -> tuple[Any, list[bytes]]:
    import pyarrow.parquet as pq
    from redis import Redis

    host, port = primary["connection_string"].split(":")
    client = Redis(host, int(port))
    fields = [name.encode() for name in NAMES]
    table = pq.read_table(path)
    values = np.column_stack([table[name].to_numpy() for name in NAMES])
    keys = zip(table["store"].to_pylist(), table["item"].to_pylist(), strict=True)
    pipe = client.pipeline(transaction=False)
    for number, ((store, item), row) in enumerate(zip(keys, values.tolist(), strict=True), 1):
        packed = [struct.pack("<d", value) for value in row]
        pipe.hset(b"raw:%d:%d" % (store, item), mapping=dict(zip(fields, packed, strict=True)))
        if number % 5_000 == 0:
            pipe.execute()
    pipe.execute()
    return client, fields


def _agree(systems: dict[str, Any]) -> None:
    """Check that all systems answer the same, bit for bit."""
    entities = {"store": [1, 2, 3], "item": [7, 7, 9]}
    (rows,) = systems["feastrain"](entities)
    told = systems["feast-sdk"](entities)
    expected = systems["limit"](entities).reshape(3, -1)
    assert rows.found.all()
    for place, name in enumerate(NAMES):
        assert rows.values[name].tolist() == told[name] == expected[:, place].tolist()


def _measured(
    systems: dict[str, Read], entities: int, rows: int, blocks: int
) -> dict[str, list[float]]:
    """Return the seconds of each system's calls."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {system: [] for system in systems}
    for block in range(-1, blocks):  # the first warms up
        for system, read in systems.items():
            for _ in range(CALLS):
                drawn = rng.integers(0, rows, entities)
                asked = {"store": (drawn % 45 + 1).tolist(), "item": (drawn // 45 + 1).tolist()}
                started = time.perf_counter()
                read(asked)
                if block >= 0:
                    times[system].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()
