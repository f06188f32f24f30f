"""Starting a command that needs Feast: `import feast` as a command of ours has it, and as it is.

Each is a process of its own, in turns; its processor time is what the kernel accounts to it. The
peer is a bare `import feast` in the same environment.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from figures import Figure, options, tell

if TYPE_CHECKING:
    import argparse

NAME = "startup"
PROGRAMS = {
    "feastrain": "from feastrain.startup import check_types_when_called as soon; soon(); ",
    "feast": "",
}


def main() -> None:
    """Start both as often as asked, and tell the medians."""
    asked = options(__doc__, _extend)
    measured: dict[str, list[tuple[float, float]]] = {system: [] for system in PROGRAMS}
    for _ in range(1 + (3 if asked.quick else asked.times)):  # the first warms up
        for system, before in PROGRAMS.items():
            measured[system].append(_started(f"{before}import feast"))
    medians = {
        system: [statistics.median(of) for of in zip(*times[1:], strict=True)]
        for system, times in measured.items()
    }
    tell(
        [
            Figure(NAME, "import feast", system, metric, value)
            for system, values in medians.items()
            for metric, value in zip(("wall_s", "cpu_s"), values, strict=True)
        ],
        asked.json,
    )
    ours, peer = medians["feastrain"], medians["feast"]
    print(
        f"feastrain takes {ours[0] / peer[0]:.2f} of the time, {ours[1] / peer[1]:.2f} of the CPU"
    )


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=10, help="starts of each: %(default)s")


def _started(program: str) -> tuple[float, float]:
    """Return the seconds, and processor seconds, that a program takes from start to end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
