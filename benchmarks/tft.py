"""Training a Temporal Fusion Transformer: samples a second, ours against its peers.

Every system trains the same network (52 + 8 periods, width 32, 4 heads, dropout 0.1, three
quantiles) on the same panel (3 static, 5 observed and 6 known-ahead numbers) in steps of 256
windows: gathering them, forward, loss, backward, clipping, AdamW. Imports, the first steps,
validation, logging and checkpoints are off the clock. Each runs in a process of its own, as one
process with all cores as threads and as a process for each core; systems take turns, the
middle of a system's turns counts, and a system is as fast as its faster layout.

The peers are found in this interpreter, or in another that has them (`--peers`):

    python3 -m venv peers
    peers/bin/pip install torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu
    peers/bin/pip install pytorch-forecasting==1.8.0 neuralforecast==3.3.0
    ./run bench tft --peers peers/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure, options, tell
from tft_panel import CONTEXT, HORIZON

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME, CASE = "tft", f"{CONTEXT}+{HORIZON}"
HERE = Path(__file__).parent
MODULES = {"pytorch-forecasting": "pytorch_forecasting", "neuralforecast": "neuralforecast"}
SYSTEMS = ("feastrain", *MODULES)
TURNS, QUICK_TURNS = 5, 1
STEPS, QUICK_STEPS = (8, 40), (3, 8)
"""Of the warm-up, and on the clock."""
LIMIT_S = 900
MALLOC = {
    # Memory that a step frees serves the next one, and never goes back to the system.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "99999999999",
    "MALLOC_TOP_PAD_": "67108864",
}


@dataclass(frozen=True)
class Run:
    """A system in one layout of processes and threads."""

    system: str
    python: str
    processes: int
    threads: int

    @property
    def layout(self) -> str:
        """How it is told."""
        return f"{self.processes} x {self.threads}"

    def rate(self, steps: tuple[int, int]) -> float:
        """Return the samples a second of one turn."""
        numbers = [str(number) for number in steps]
        layout = [str(self.processes), str(self.threads)]
        command = [self.python, str(HERE / "tft_peers.py"), self.system, *layout, *numbers]
        if self.system == "feastrain":
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
            command = [self.python, *torchrun, layout[0], str(HERE / "tft_ours.py"), *numbers]
        place = {**os.environ, **MALLOC, "OMP_NUM_THREADS": layout[1]}
        done = subprocess.run(
            command, env=place, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        told = [line for line in done.stdout.splitlines() if line.startswith('{"samples_per_s"')]
        if done.returncode or not told:
            sys.exit(f"{self.system} {self.layout} failed:\n{done.stderr[-2000:]}")
        return float(json.loads(told[0])["samples_per_s"])


def main() -> None:
    """Measure the systems that are asked for, and tell what each trained in a second."""
    asked = options(__doc__, _extend)
    runs = list(_runs(asked))
    steps = QUICK_STEPS if asked.quick else STEPS
    rates: dict[Run, list[float]] = {run: [] for run in runs}
    for turn in range(QUICK_TURNS if asked.quick else TURNS):
        for run in runs[:: 1 if turn % 2 else -1]:
            rates[run].append(run.rate(steps))
            print(f"{run.system} {run.layout}: {rates[run][-1]:,.0f} samples/s", flush=True)
    middle = {run: statistics.median(seen) for run, seen in rates.items()}
    best = {
        system: max(rate for run, rate in middle.items() if run.system == system)
        for system in dict.fromkeys(run.system for run in runs)
    }
    figures = [Figure(NAME, run.layout, run.system, "samples_per_s", middle[run]) for run in runs]
    figures += [Figure(NAME, CASE, system, "samples_per_s", rate) for system, rate in best.items()]
    tell(figures, asked.json)
    for peer in best.keys() & MODULES.keys():
        if "feastrain" in best:
            print(f"feastrain trains {best['feastrain'] / best[peer]:.2f} times {peer}")


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--system", choices=SYSTEMS, action="append", help="by default all")
    parser.add_argument(
        "--peers", default=sys.executable, metavar="PYTHON", help="an interpreter with the peers"
    )


def _runs(asked: argparse.Namespace) -> Iterator[Run]:
    cores = os.cpu_count() or 1
    for system in asked.system or SYSTEMS:
        python = asked.peers if system in MODULES else sys.executable
        if system in MODULES and not _has(python, MODULES[system]):
            print(f"{system} is not in {python}: skipped; --peers names an interpreter that has it")
            continue
        for processes in sorted({1, cores}):
            yield Run(system, python, processes, cores // processes)


def _has(python: str, module: str) -> bool:
    """Return whether an interpreter can find a module."""
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", find], check=False).returncode == 0
    except OSError as error:
        sys.exit(f"{python} does not start: {error.strerror}")


if __name__ == "__main__":
    main()
