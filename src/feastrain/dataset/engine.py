"""Where parts are made: here one after the other, or by the machines of a Ray cluster at once."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

from feastrain.dataset.parts import make_part
from feastrain.errors import FeastrainError, ProjectError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from feastrain.dataset.parts import Part
    from feastrain.recipe import Recipe

RETRIES = 3
"""How often a part is made again whose worker died; its file is the same."""


class Engine(Protocol):
    """Makes the parts of a training set."""

    def make(self, parts: Sequence[Part]) -> Iterator[Counter[str]]:
        """Yield the rows by split of every part as it is finished, in any order."""


class LocalEngine:
    """Makes one part after the other, so that one is in memory at a time."""

    def make(self, parts: Sequence[Part]) -> Iterator[Counter[str]]:
        """Yield the rows by split of every part as it is finished."""
        yield from map(make_part, parts)


class RayEngine:
    """Makes parts as tasks of a Ray cluster that shares the project's folder.

    A task reads the share of the sources that its series lie in, and writes its own file: rows
    never come to this process.
    """

    def __init__(self, address: str | None) -> None:
        """Name the cluster, `HOST:PORT` or `ray://HOST:PORT`; None starts one on this machine."""
        self._address = address

    def make(self, parts: Sequence[Part]) -> Iterator[Counter[str]]:
        """Yield the rows by split of every part as it is finished, in any order.

        Raises:
            ProjectError: Ray is not installed.
            FeastrainError: the cluster cannot be reached, or a part's workers died again and again.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # noqa: TID251 - Ray's own switch
        try:
            import ray
        except ImportError as error:
            message = "engine ray needs Ray: pip install 'feastrain[ray]'"
            raise ProjectError(message) from error
        with _cluster(self._address):
            task = ray.remote(max_retries=RETRIES, scheduling_strategy="SPREAD")(make_part)
            pending = [task.remote(part) for part in parts]
            while pending:
                (done,), pending = ray.wait(pending, num_returns=1)
                try:
                    yield ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, FeastrainError):
                        raise error.cause from error
                    raise
                except ray.exceptions.RayError as error:
                    message = f"a part of the training set failed on Ray: {_one_line(error)}"
                    raise FeastrainError(message) from error


def engine_of(recipe: Recipe, ray_address: str | None) -> Engine:
    """Return the engine that a recipe asks for."""
    return RayEngine(ray_address) if recipe.retrieval.engine == "ray" else LocalEngine()


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, unless this process is connected already."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address, include_dashboard=False if address is None else None, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = f"Ray cluster {address or 'on this machine'} cannot be used: {_one_line(error)}"
        raise FeastrainError(message) from error
    try:
        yield
    finally:
        ray.shutdown()


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
