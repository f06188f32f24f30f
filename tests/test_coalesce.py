"""Requests that wait for a thread are answered together."""

import asyncio
import contextlib
import threading

import pytest

from feastrain.serving.coalesce import Coalescing
from feastrain.serving.workers import Overloaded, Workers


class Doubling:
    """Answers numbers by their doubles, once the gate is open; 13 breaks it."""

    def __init__(self, workers: Workers, most: int = 4) -> None:
        self.batches: list[list[int]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.together = Coalescing(self._answer, workers, size=lambda _: 1, most=most)

    def _answer(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        self.entered.set()
        assert self.gate.wait(20)
        if 13 in batch:
            raise ValueError
        return [2 * number for number in batch]

    async def first(self) -> asyncio.Task[int]:
        """Have the only thread busy with a 0."""
        asking = asyncio.create_task(self.together.ask(0))
        await asyncio.to_thread(self.entered.wait, 20)
        return asking


async def _asked(doubling: Doubling, *numbers: int) -> list[int | BaseException]:
    first = await doubling.first()
    asking = [asyncio.create_task(doubling.together.ask(number)) for number in numbers]
    await asyncio.sleep(0)  # all of them wait by now
    doubling.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert 0 == await first
    return answers


def test_what_waits_is_answered_together_up_to_a_limit() -> None:
    """Each gets its own answer; no batch is larger than the limit."""
    with contextlib.closing(Workers(threads=1)) as workers:
        doubling = Doubling(workers)
        assert [2, 4, 6, 8, 10, 12] == asyncio.run(_asked(doubling, 1, 2, 3, 4, 5, 6))
    assert [[0], [1, 2, 3, 4], [5, 6]] == doubling.batches


def test_what_one_request_breaks_on_the_others_do_not_hear() -> None:
    """They are asked again, each alone."""
    with contextlib.closing(Workers(threads=1)) as workers:
        first, broken, last = asyncio.run(_asked(Doubling(workers), 1, 13, 3))
    assert isinstance(broken, ValueError)
    assert (2, 6) == (first, last)


def test_a_request_keeps_its_place_until_it_is_answered() -> None:
    """As many wait as there are places, whatever went before; one more is refused."""

    async def ask(doubling: Doubling) -> None:
        doubling.gate.set()
        for _ in range(50):
            await asyncio.gather(*(doubling.together.ask(number) for number in range(4)))
        doubling.gate.clear()
        doubling.entered.clear()
        busy = [await doubling.first()]
        busy += [asyncio.create_task(doubling.together.ask(number)) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await doubling.together.ask(9)
        doubling.gate.set()
        assert [0, 0, 2, 4] == await asyncio.gather(*busy)

    with contextlib.closing(Workers(threads=1, waiting=3)) as workers:
        asyncio.run(ask(Doubling(workers)))


def test_who_gives_up_is_not_answered() -> None:
    """And leaves its place to others."""

    async def ask(doubling: Doubling) -> None:
        first = await doubling.first()
        leaving = asyncio.create_task(doubling.together.ask(1))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        staying = asyncio.create_task(doubling.together.ask(2))
        await asyncio.sleep(0)
        doubling.gate.set()
        assert [0, 4] == await asyncio.gather(first, staying)

    with contextlib.closing(Workers(threads=1, waiting=1)) as workers:
        doubling = Doubling(workers)
        asyncio.run(ask(doubling))
    assert [[0], [2]] == doubling.batches
