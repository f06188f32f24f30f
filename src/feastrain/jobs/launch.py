"""A run in the background: the process that `feastrain.jobs.local` starts, and leaves to itself.

    python -m feastrain.jobs.launch FOLDER

does what the folder's request says.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
from pathlib import Path

from feastrain.artifacts import is_published, point
from feastrain.errors import FeastrainError
from feastrain.jobs.backends import run_request
from feastrain.jobs.record import Request, noting_the_end, take
from feastrain.telemetry import say


def launch(folder: Path, lock: int | None) -> None:
    """Run what is asked for, and have its bundle be the recipe's last.

    Args:
        folder: the run.
        lock: its lock, where whoever started this process has it taken already.

    Raises:
        FeastrainError: as the run failed, or was stopped.
    """
    if lock is None:
        lock = take(folder)
    fcntl.fcntl(lock, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    request = Request.load(folder)
    # The lock is let go of by the end of this process: who sees it free sees no process of the run.
    with noting_the_end(folder):
        if not is_published(Path(request.bundle)):
            run_request(request, folder)
        point(Path(request.pointer), Path(request.bundle))


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=int, metavar="FD")
    asked = parser.parse_args()
    try:
        launch(asked.folder, asked.lock)
    except FeastrainError as error:
        say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
