"""Being asked to stop: a flag that ranks look at together between two steps."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class StopRequest:
    """Whether SIGTERM or SIGINT arrived; the handler sets a flag and nothing else."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Note the first signal; a second one ends the process at once."""
        if self.received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = True


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT for the length of the block."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
