"""Materialising 421,570 entities of 20 numbers, ours against Feast's own stores.

Both read the same Parquet file through the same offline store; what differs is the way from there
into the online store. `redis` is Feast's Redis store against ours with a SQLite file that is
written first: ours writes two stores in that time. `postgres` and `sqlite` are one store each.
Each system has a process of its own, whose largest resident memory is told beside the time, which
starts when the server is up and the repo is applied.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import Figure, options, tell
from online_repo import FALLBACK, ROWS, SPAN, address, apply, postgres, redis, write_rows

if TYPE_CHECKING:
    import argparse

NAME = "materialize"
CASES = ("redis", "postgres", "sqlite")
SYSTEMS = ("feastrain", "feast")
QUICK_ROWS = 20_000


def main() -> None:
    """Measure the cases that are asked for, in turn, or be one measured process."""
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        _work(json.loads(sys.argv[2]))
        return
    asked = options(__doc__, _extend)
    rows = QUICK_ROWS if asked.quick else ROWS
    figures = []
    with tempfile.TemporaryDirectory(prefix="materialize-") as scratch:
        path = Path(scratch) / "rows.parquet"
        write_rows(path, rows)
        for case in asked.case.split(","):
            for system in SYSTEMS:
                measured = _measured(Path(scratch) / f"{case}-{system}", path, case, system)
                figures += [Figure(NAME, case, system, *metric) for metric in measured.items()]
    tell(figures, asked.json)
    seconds = {(f.case, f.system): f.value for f in figures if f.metric == "wall_s"}
    for case in asked.case.split(","):
        times = seconds[case, "feast"] / seconds[case, "feastrain"]
        print(f"{case}: feastrain is {times:.1f} times as fast, {rows:,} entities")


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", default=",".join(CASES), help="some of %(default)s")


def _measured(folder: Path, path: Path, case: str, system: str) -> dict[str, float]:
    """Return the figures of one system, on a server that nothing was written to before."""
    with contextlib.ExitStack() as stack:
        if case == "redis":
            feasts = address(stack.enter_context(redis()))
        elif case == "postgres":
            feasts = stack.enter_context(postgres())
        else:
            feasts = {"type": "sqlite", "path": str(folder / "online.db")}
        if case == "redis":
            ours = {"primary": feasts, "fallback": {"type": "sqlite", "path": "online.db"}}
        else:
            ours = {"fallback": feasts}
        config = feasts if system == "feast" else {"type": FALLBACK, **ours}
        work = {"folder": str(folder), "path": str(path), "system": system, "config": config}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, "--worker", json.dumps(work)],
            stdout=subprocess.PIPE,
            check=True,
        )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _work(work: dict[str, Any]) -> None:
    from feastrain.stores.feature_repo import online_store_of, quiet_offline_store

    store = apply(Path(work["folder"]), Path(work["path"]), work["config"])
    started = time.perf_counter()
    with quiet_offline_store(), contextlib.redirect_stdout(io.StringIO()):
        if work["system"] == "feast":
            store.materialize(*SPAN)
        else:
            from feastrain.stores.fallback.bulk import write_view

            online = online_store_of(store)
            assert online is not None
            write_view(store, store.get_feature_view("numbers"), online.tiers(store.config), SPAN)
            online.close()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall_s": seconds, "peak_rss_mb": peak}))


if __name__ == "__main__":
    main()
