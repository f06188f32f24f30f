"""One system, measured in a process of its own: its time, its memory, and whether it is right.

Peak memory is resident memory as Linux counts it (VmHWM), of this process and of the processes it
started; what they share is counted once for each. A database server is not among them.
"""

from __future__ import annotations

import gc
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_oracle import batches, compare, parts
from retrieval_systems import SYSTEMS, Place, UnavailableError, dask_sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrieval_data import Case
    from retrieval_systems import Answer

RUNS, QUICK_S = 3, 10.0  # what takes less than QUICK_S is run RUNS times


def measure(system: str, place: Place, *, once: bool) -> dict[str, Any]:
    """Open the system, run it, and compare its answer with the oracle's.

    Returns:
        `skipped` with the reason where the system is not to be had; else `walls` (seconds of each
        run), `peak_rss_mb`, `added_mb` (above the level before the retrieval), `asked` and
        `rows_out`, and the oracle's verdict.
    """
    Path("/proc/self/oom_score_adj").write_text("1000")  # out of memory: end this process first
    try:
        retrieve = SYSTEMS[system](place)
    except UnavailableError as reason:
        return {"skipped": str(reason)}
    measured, answer = _clocked(retrieve, once=once)
    asked = dask_sample(place.case) if system == "feast-dask-sample" else place.case.rows
    return {**measured, "asked": asked, **_judged(answer, place.case, place.folder, asked)}


def _clocked(retrieve: Callable[[], Answer], *, once: bool) -> tuple[dict[str, Any], Answer]:
    gc.collect()
    before = _tree("VmRSS")
    _reset_peak()
    walls: list[float] = []
    while True:
        started = time.perf_counter()
        answer = retrieve()
        walls.append(time.perf_counter() - started)
        if once or walls[0] >= QUICK_S or len(walls) == RUNS:
            break
        del answer
    peak = _tree("VmHWM")
    return {"walls": walls, "peak_rss_mb": peak, "added_mb": peak - before}, answer


def _judged(answer: Answer, case: Case, folder: Path, asked: int) -> dict[str, Any]:
    if isinstance(answer, Path):
        rows = sum(pq.ParquetFile(file).metadata.num_rows for file in parts(answer))
        verdict = compare(case, folder, batches(answer), asked)
    else:
        if isinstance(answer, pd.DataFrame):
            answer = pa.Table.from_pandas(answer, preserve_index=False)
        rows = len(answer)
        verdict = compare(case, folder, answer.to_batches(), asked)
    return {"rows_out": rows, **asdict(verdict)}


def _reset_peak() -> None:
    for process in _family():
        (process / "clear_refs").write_text("5")


def _tree(field: str) -> float:
    """Return a field of /proc/PID/status, summed over this process and its descendants, in MB."""
    lines = [line for p in _family() for line in (p / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1_000


def _family() -> list[Path]:
    family = [Path("/proc/self")]
    for process in family:
        for task in (process / "task").iterdir():
            children = (task / "children").read_text().split()
            family += [Path(f"/proc/{child}") for child in children]
    return family
