"""Every benchmark in turn, in its short form or with `--full` in its long one, and one page of all.

Each runs in a process of its own, one at a time. The page (`docs/benchmarks.md`) says on what it
was measured; each figure of ours stands beside those of its peers in the same run, with the ratio.
A benchmark that fails is named on the page, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from figures import Figure

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
OURS = "feastrain"
OWN = {"memory": "checkpointed"}
"""What ours is called where its peer is ours too."""
NAMES = (
    "retrieval",
    "materialize",
    "online",
    "feeding",
    "tft",
    "checkpoint",
    "memory",
    "sizing",
    "startup",
    "main_job",
    "page",
    "accuracy",
)
LONG_ONLY = {"accuracy": "an hour", "page": "a demo of minutes"}
"""What has no form that is short, and how long it takes."""
VERSIONS = ("feastrain", "feast", "torch", "pyarrow", "duckdb", "redis", "psycopg", "onnxruntime")
HIGHER_IS_BETTER = ("per_s", "coverage", "agrees")


def main() -> int:
    """Run them all and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the long forms: hours")
    parser.add_argument("--only", default=",".join(NAMES), help="some of %(default)s")
    parser.add_argument(
        "--peers", metavar="PYTHON", help="an interpreter that has those of tft: see its --help"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="default: %(default)s")
    asked = parser.parse_args()
    wanted = [name for name in asked.only.split(",") if asked.full or name not in LONG_ONLY]
    if unknown := set(wanted) - {*NAMES}:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    began, sections, failed = datetime.now(UTC), [], []
    for number, name in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {name}", flush=True)
        figures, seconds, ended = measured(name, asked.peers, full=asked.full)
        if ended:
            failed.append(name)
        sections.append(section(name, figures, seconds, ended))
    asked.page.write_text("\n".join([*head(began, full=asked.full), *sections]))
    print(f"{asked.page} has the figures of {len(wanted) - len(failed)} benchmarks")
    for name in failed:
        print(f"failed: {name}; ./run bench {name} says why", file=sys.stderr)
    return 1 if failed else 0


def measured(name: str, peers: str | None, *, full: bool) -> tuple[list[Figure], float, int]:
    """Run one benchmark; return its figures, its seconds and its exit code."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        file = Path(scratch) / "figures.jsonl"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file)]
        command += [] if full else ["--quick"]
        command += ["--peers", peers] if peers and name == "tft" else []
        began = time.perf_counter()
        ended = subprocess.run(command, check=False).returncode
        seconds = time.perf_counter() - began
        lines = file.read_text().splitlines() if file.exists() else []
    return [Figure(**json.loads(line)) for line in lines], seconds, ended


def head(began: datetime, *, full: bool) -> list[str]:
    """Return the lines above the tables."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        "# Benchmarks",
        "",
        f"Written by `./run bench{' --full' if full else ''}` on {began:%Y-%m-%d}: the "
        f"{'long' if full else 'short'} form of every benchmark, one after the other. Figures of a "
        "run compare with each other; with those of another machine they do not.",
        "",
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}; {versions}.",
        "",
        "A ratio is ours to the peer's; where less is better, below 1 is good, where more is "
        "better (↑) above 1 is. What each benchmark measures, and how, is the first paragraph of "
        "`benchmarks/NAME.py`."
        + ("" if full else " Short forms train the smallest model: what it scores is no claim."),
        *[
            f"`{name}` takes {time_taken}, and runs with `--full` or by its name alone."
            for name, time_taken in LONG_ONLY.items()
            if not full
        ],
        "",
    ]


def section(name: str, figures: list[Figure], seconds: float, ended: int) -> str:
    """Return one benchmark's tables."""
    lines = [f"## {name}", "", f"`./run bench {name}`, {seconds:.0f} s in this run.", ""]
    if ended:
        lines += [f"**It failed in this run (exit code {ended}).**", ""]
    rows: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for figure in figures:
        rows[figure.case, figure.metric][figure.system] = figure.value
    own = OWN.get(name, OURS)
    peers = list(dict.fromkeys(f.system for f in figures if f.system != own))
    if rows:
        lines.append("| " + " | ".join(["case", "metric", own, *peers]) + " |")
        lines.append("|---|---|" + "---:|" * (1 + len(peers)))
    for (case, metric), values in rows.items():
        ours = values.get(own)
        told = [_beside(values.get(peer), ours) for peer in peers]
        arrow = " ↑" if metric.endswith(HIGHER_IS_BETTER) else ""
        lines.append("| " + " | ".join([case, metric + arrow, _shown(ours), *told]) + " |")
    return "\n".join([*lines, ""])


def _beside(peer: float | None, ours: float | None) -> str:
    if peer is None or not ours or not peer:
        return _shown(peer)
    return f"{_shown(peer)} ({ours / peer:.2f} x)"


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
