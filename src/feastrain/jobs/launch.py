"""A run in the background: the process that `feastrain.jobs.local` starts, and leaves to itself.

    python -m feastrain.jobs.launch FOLDER [--lock FD]

does what the folder's request says. Whoever starts it holds the run's lock: by a file that it
inherits, or, without one, for as long as it lives.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from feastrain.artifacts import is_published, point
from feastrain.errors import FeastrainError
from feastrain.jobs.backends import run_request
from feastrain.jobs.record import LOCK, Request, noting_the_end
from feastrain.telemetry import say

if TYPE_CHECKING:
    from collections.abc import Callable


def launch(folder: Path, run: Callable[[Request, Path], None] = run_request) -> None:
    """Run what is asked for, and have its bundle be the recipe's last.

    Args:
        folder: the run.
        run: what does so.

    Raises:
        FeastrainError: as the run failed, or was stopped.
    """
    request = Request.load(folder)
    with noting_the_end(folder):
        if not is_published(Path(request.bundle)):
            run(request, folder)
        point(Path(request.pointer), Path(request.bundle))


def adopted(run: Callable[[Path], None]) -> None:
    """Read the command line and run; a FeastrainError becomes one line and its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=int, metavar="FD")
    asked = parser.parse_args()
    if asked.lock is None:
        _end_with_holder(asked.folder)
    else:
        # Let go of by the end of this process: who sees it free sees no process of the run.
        fcntl.fcntl(asked.lock, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    try:
        run(asked.folder)
    except FeastrainError as error:
        say(str(error))
        sys.exit(error.exit_code)


def _end_with_holder(folder: Path) -> None:
    """End at once, and all ranks with this process, when the process is gone that has the lock."""
    holder, *_ = (folder / LOCK).read_text().split()

    def watch() -> None:
        with contextlib.suppress(ProcessLookupError):
            select.select([os.pidfd_open(int(holder))], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.platform == "linux":
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    adopted(launch)
