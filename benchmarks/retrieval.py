"""Point-in-time retrieval: seconds, memory and right answers, ours against its peers.

Every system answers the same entity frame from the same tables, in a process of its own: the
latest fact at or before each row's time, recorded by then and no older than a year. The clock runs
for the retrieval alone, not for imports and opening the store; what takes less than ten seconds is
the best of three runs. `agrees` says whether 2,000 sampled rows are right, value for value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import Figure, options, tell
from retrieval_data import CASES, WEEKS, Case, cache_folder, case_folder
from retrieval_oracle import draw_oracle
from retrieval_systems import QUICK, SYSTEMS, Place, systems_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

NAME = "retrieval"
LIMIT_S, WIDE_LIMIT_S = 900, 3_600  # a system that takes longer is stopped
TOLD = ("peak_rss_mb", "added_mb", "rows_out")
DEFAULT_CASES = "421k,4m"  # 42m takes an hour and 30 GB of disk: ask for it
PROJECTED_ROWS = 100_000_000

Results = dict[tuple[str, str], dict[str, Any]]


def main() -> None:
    """Measure the systems that are asked for, and tell what they took."""
    if sys.argv[1:2] == ["--worker"]:
        _work(json.loads(sys.argv[2]))
        return
    asked = options(__doc__, _extend)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # servers stop, scratch goes
    results: Results = {}
    for case in _cases(asked):
        for system, result in _measured(case, asked):
            results[case.name, system] = result
            print(f"{case.name} {system}: {_line(result)}", flush=True)
    figures = [figure for key, result in results.items() for figure in _figures(*key, result)]
    if figures:
        tell(figures, asked.json)
    for line in (*_ratios(results), *_growth(results)):
        print(line)


def _extend(parser: argparse.ArgumentParser) -> None:
    cases, systems = ",".join(CASES), ", ".join(SYSTEMS)
    parser.add_argument("--case", default=DEFAULT_CASES, help=f"some of {cases}: %(default)s")
    parser.add_argument("--system", help=f"some of {systems}; all that a case measures if left out")
    parser.add_argument("--rows", type=int, help="one case of this many entity rows instead")
    parser.add_argument("--wide", action="store_true", help="with --rows: as the case 42m is")


def _cases(asked: argparse.Namespace) -> list[Case]:
    if asked.rows:
        series = max(2, round(asked.rows / (WEEKS - 0.5)))
        return [Case(str(asked.rows), asked.rows, series, asked.wide)]
    if asked.quick:
        return [CASES["421k"]]
    return [CASES[_known(name, CASES)] for name in asked.case.split(",")]


def _systems(case: Case, asked: argparse.Namespace) -> tuple[str, ...]:
    if asked.system:
        return tuple(_known(name, SYSTEMS) for name in asked.system.split(","))
    return QUICK if asked.quick else systems_of(case)


def _known(name: str, known: dict[str, Any]) -> str:
    if name not in known:
        sys.exit(f"no {name}; there are {', '.join(known)}")
    return name


def _measured(case: Case, asked: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    folder = case_folder(case, draw_oracle)
    systems = _systems(case, asked)
    for system in systems:
        if not system.endswith("-postgres"):
            yield system, _run(case, system, folder, once=asked.quick)
    on_postgres = [system for system in systems if system.endswith("-postgres")]
    if on_postgres:
        from retrieval_postgres import serving, stop_statements

        with serving(case, folder) as postgres:
            for system in on_postgres:
                yield system, _run(case, system, folder, once=asked.quick, postgres=postgres)
                stop_statements(postgres)


def _run(
    case: Case,
    system: str,
    folder: Path,
    *,
    once: bool,
    postgres: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure one system in a fresh process; its failure is its result."""
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="scratch-") as scratch:
        place = {"folder": str(folder), "scratch": scratch, "postgres": postgres}
        order = {"case": dataclasses.asdict(case), "system": system, "once": once, **place}
        command = [sys.executable, __file__, "--worker", json.dumps(order)]
        said, heard = Path(scratch, "stderr"), Path(scratch, "result.json")
        with said.open("w") as stderr:
            worker = subprocess.Popen(
                command, stdout=stderr, stderr=stderr, cwd=scratch, start_new_session=True
            )
            limit = WIDE_LIMIT_S if case.wide else LIMIT_S
            try:
                code = worker.wait(limit)
            except subprocess.TimeoutExpired:
                return {"failed": f"stopped after {limit} s"}
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        if heard.is_file():  # some libraries crash after it, on their way out
            result: dict[str, Any] = json.loads(heard.read_text())
            return result
        if code == -signal.SIGKILL:
            return {"failed": "killed, most likely out of memory"}
        return {"failed": _reason(said.read_text()) or f"exit code {code}"}


def _reason(said: str) -> str:
    """Return what a traceback ends with, whatever else was said after it."""
    lines = said.partition("Traceback (most recent call last)")[2].splitlines()[1:]
    ends = [line for line in lines if line and not line.startswith((" ", "During", "The above"))]
    return ends[0][:200] if ends else ""


def _work(order: dict[str, Any]) -> None:
    import warnings

    from retrieval_worker import measure

    warnings.simplefilter("ignore")
    scratch = Path(order["scratch"])
    place = Place(Case(**order["case"]), Path(order["folder"]), scratch, order["postgres"])
    result = measure(order["system"], place, once=order["once"])
    (scratch / "written").write_text(json.dumps(result))
    (scratch / "written").rename(scratch / "result.json")


def _figures(case: str, system: str, result: dict[str, Any]) -> Iterator[Figure]:
    if "walls" not in result:
        return
    wall, scale = min(result["walls"]), _asked_rows(case, result) / result["asked"]
    values = {"wall_s": wall, "first_s": result["walls"][0]}
    if scale > 1:
        values["extrapolated_wall_s"] = wall * scale
    values |= {name: result[name] for name in TOLD}
    values["rows_per_s"] = result["asked"] / wall
    values["agrees"] = float(result["wrong"] == 0)
    values["in_order"] = float(result["in_order"])
    for metric, value in values.items():
        yield Figure(NAME, case, system, metric, value)


def _asked_rows(case: str, result: dict[str, Any]) -> int:
    return CASES[case].rows if case in CASES else result["asked"]


def _line(result: dict[str, Any]) -> str:
    """Say in one line how a system fared."""
    for word in ("skipped", "failed"):
        if word in result:
            return f"{word}: {result[word]}"
    walls = ", ".join(f"{wall:.3g}" for wall in result["walls"])
    rows = f"{result['rows_out']:,} rows for {result['asked']:,}"
    wrong = f"{result['wrong']:,} of {result['sampled']:,} sampled rows wrong"
    return f"{walls} s; {rows}; {wrong}"


def _ratios(results: Results) -> Iterator[str]:
    walls = {key: min(result["walls"]) for key, result in results.items() if "walls" in result}
    for case in dict.fromkeys(case for case, _ in results):
        for ours, peer in (("feastrain", "limit"), ("feast-duckdb", "feastrain")):
            if (case, ours) in walls and (case, peer) in walls:
                ratio = walls[case, ours] / walls[case, peer]
                yield f"{case}: {ours} takes {ratio:.2f} times as long as {peer}"


def _growth(results: Results) -> Iterator[str]:
    """Say how a row's time grew from 4m to 42m, and what a hundred million rows would take."""
    for system in ("feastrain", "limit"):
        pair = [results.get((case, system), {}) for case in ("4m", "42m")]
        if not all("walls" in result for result in pair):
            continue
        small, large = (min(result["walls"]) / result["asked"] for result in pair)
        width = len(CASES["42m"].columns) / len(CASES["4m"].columns)
        yield (
            f"{system}: a row of 42m takes {large / small:.2f} times as long as one of 4m, "
            f"a value {large / small / width:.2f} times; {PROJECTED_ROWS:,} rows of "
            f"{len(CASES['42m'].columns)} features would take {large * PROJECTED_ROWS / 60:.1f} "
            "minutes if time grows with the rows"
        )


if __name__ == "__main__":
    main()
