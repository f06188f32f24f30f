"""Where ranks meet: torchrun's store, which still answers when a collective does not."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import torch.distributed as dist

from feastrain.errors import BY_CODE, FeastrainError, LostRankError, SilentRankError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from torch.distributed.distributed_c10d import Store

Answer = TypeVar("Answer")

ROLL_CALL_SECONDS = 3.0
"""How far apart ranks may notice that a collective has failed."""
POLL_SECONDS = 0.02
STORE_SECONDS = 5.0
"""How long a store may take to answer; where its keeper is frozen, its client waits for ever."""
KEEPER = "the first node, which keeps torchrun's store,"


class Meeting:
    """What the ranks of a run tell each other beside their collectives.

    Args:
        store: that all ranks reach; nobody else writes its keys.
        rank: of this process.
        world_size: how many ranks there are.
        timeout: the longest that a rank waits for the others.
    """

    def __init__(self, store: Store, rank: int, world_size: int, timeout: timedelta) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._seconds = timeout.total_seconds()

    def share(self, topic: str, word: str) -> list[str]:
        """Return the word of every rank, in their order.

        Raises:
            SilentRankError: a rank said nothing within the time-out; the message names it.
        """
        heard = self._hear(topic, word, self._seconds)
        missing = self._missing(heard)
        if missing:
            message = (
                f"{missing} of {self._world_size} did not join within {self._seconds:g} s: "
                "see whether it was started and reaches the first rank"
            )
            raise self.agree(SilentRankError(message))
        return [heard[rank] for rank in range(self._world_size)]

    def agree(self, mine: FeastrainError) -> FeastrainError:
        """Return why the run ends: what the first rank to leave said, the same for all."""
        told = json.dumps([mine.exit_code, str(mine)])
        try:
            first = _within(STORE_SECONDS, lambda: self._store.compare_set("left", "", told))
        except (dist.DistError, TimeoutError):  # The store went with the agent that held it.
            return mine
        code, message = json.loads(first)
        return mine if str(mine) == message else BY_CODE[code](message)

    def explain(self, failure: RuntimeError) -> FeastrainError:
        """Return why a collective failed: what a rank said as it left, or who does not answer."""
        try:
            heard = _within(
                ROLL_CALL_SECONDS + STORE_SECONDS,
                lambda: self._hear("lost", "here", ROLL_CALL_SECONDS),
            )
            missing = self._missing(heard)
        except dist.DistError:
            missing = ""
        except TimeoutError:
            missing = KEEPER
        missing = missing or "a rank"
        if "timed out" in str(failure).lower():
            message = (
                f"{missing} did not answer for {self._seconds:g} s; if it was only slow, raise "
                "FEASTRAIN_TRAINING_TIMEOUT_SECONDS; the same command resumes"
            )
            return self.agree(SilentRankError(message))
        return self.agree(LostRankError(f"{missing} is gone; the same command resumes"))

    def _hear(self, topic: str, word: str, seconds: float) -> dict[int, str]:
        """Say a word, and return what was said by whom when all have spoken or some left."""
        self._store.set(f"{topic}/{self._rank}", word)
        keys = [f"{topic}/{rank}" for rank in range(self._world_size)]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._store.check(keys) or self._store.check(["left"]):
                break
            time.sleep(POLL_SECONDS)
        return {
            rank: self._store.get(key).decode()
            for rank, key in enumerate(keys)
            if self._store.check([key])
        }

    def _missing(self, heard: dict[int, str]) -> str:
        missing = [rank for rank in range(self._world_size) if rank not in heard]
        return named(missing) if missing else ""


def _within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Return an answer that comes in time, of a call that cannot be broken off.

    Raises:
        TimeoutError: none came; the thread that asked is left behind.
    """
    answer: Future[Answer] = Future()

    def asking() -> None:
        try:
            answer.set_result(ask())
        except dist.DistError as error:
            answer.set_exception(error)

    threading.Thread(target=asking, daemon=True).start()
    return answer.result(seconds)


def named(ranks: list[int]) -> str:
    """Return `rank 1`, or `ranks 1, 2`."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
