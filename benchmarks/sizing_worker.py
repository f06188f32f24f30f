"""One rank of a run, which leaves its peak memory in a file: `sizing_worker.py FOLDER ...`.

The other arguments are those of `feastrain.training.run`. Bytes are the kernel's `VmHWM`:
everything resident at once, shared libraries and all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from feastrain.training import run


def main() -> None:
    """Run the rank, and write `peak-RANK`."""
    folder = Path(sys.argv.pop(1))
    try:
        run.main()
    finally:
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        peak = int(status["VmHWM"].split()[0]) * 1024
        (folder / f"peak-{os.environ['RANK']}").write_text(str(peak))


if __name__ == "__main__":
    main()
