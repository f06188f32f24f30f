"""Work of a supervisor's workers that goes wrong; a worker imports it by name, and little else."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feastrain.errors import DataError
from feastrain.serving.listening import SharedListener


def die(*_: Any) -> None:
    """End before anything is served."""
    os._exit(7)


def stay(_: Any, listener: SharedListener, started: Callable[[], None]) -> None:
    """Serve as the first worker, have the parent stop, and be deaf to it; be late as another."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if _is_first(listener):
        _serve_as_far_as_the_parent_knows(listener, started)
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


def fail_beside_another(
    folder: Path, _: Any, listener: SharedListener, started: Callable[[], None]
) -> None:
    """Serve as the first worker; as another fail twice, then have the parent stop."""
    served = folder / "served"
    if _is_first(listener):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        _serve_as_far_as_the_parent_knows(listener, started)
        served.touch()
        time.sleep(60)
    while not served.exists():
        time.sleep(0.02)
    tries = len(list(folder.glob("try-*")))
    (folder / f"try-{tries}").touch()
    if tries < 2:
        message = "the bundle is damaged: train it again"
        raise DataError(message)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


def _is_first(listener: SharedListener) -> bool:
    return listener.shares._place == 0


def _serve_as_far_as_the_parent_knows(
    listener: SharedListener, started: Callable[[], None]
) -> None:
    """Say that this worker serves, until the parent knows: it hands SIGHUP on to those that do."""
    known: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: known.append(number))
    listener.shares.hold(0)
    started()
    while not known:
        os.kill(os.getppid(), signal.SIGHUP)
        time.sleep(0.02)
