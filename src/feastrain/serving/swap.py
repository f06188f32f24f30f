"""Another bundle without a pause: what answers is replaced between two requests.

The recipe's pointer leads to the bundle to serve. A server looks at it every few seconds, and at
once on SIGHUP. A bundle that it leads to newly is loaded beside the one that answers, tried on
real series, and takes over for the requests that come after; those begun end where they began.
One that fails stays out. To roll back is to point back.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from feastrain.errors import DataError, FeastrainError
from feastrain.telemetry import bind, event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastapi import Response

    from feastrain.serving.evidence import Evidence
    from feastrain.serving.forecaster import Forecaster
    from feastrain.serving.history import History
    from feastrain.serving.metrics import Metrics

A = TypeVar("A", bound="Answering")
TRIED_SERIES = 32
"""How many series a bundle must forecast before it takes over."""
AGAIN_SECONDS = 60.0
"""When a bundle that failed is tried once more: the store may have been away."""


@dataclass(frozen=True)
class Sources:
    """What a server answers from."""

    forecaster: Forecaster
    history: History
    evidence: Evidence | None = None

    @property
    def bundle(self) -> str:
        """The fingerprint of the bundle."""
        return self.forecaster.bundle.fingerprint

    @property
    def snapshot(self) -> str:
        """The fingerprint of what the bundle was trained on."""
        return str(self.forecaster.bundle.lineage["snapshot"])


class Answering(Protocol):
    """What answers the routes from one bundle."""

    def close(self) -> None:
        """Finish the work begun."""


class Standing(Generic[A]):
    """What answers now; what answered before goes with the last request on it."""

    def __init__(self, answering: A, sources: Sources) -> None:
        self.answering = answering
        self.sources = sources

    def endpoint(self, part: Callable[[A], Any], method: Callable[..., Any]) -> Any:
        """Return `method` of the part that stands when it is called, as a route calls it."""

        @functools.wraps(method)
        async def ask(*given: Any, **named: Any) -> Response:
            answer: Response = await method(part(self.answering), *given, **named)
            return answer

        signature = inspect.signature(method)
        parameters = list(signature.parameters.values())[1:]  # without self
        ask.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return ask


class BundleWatch:
    """Follows a recipe's pointer."""

    def __init__(self, pointer: Path, load: Callable[[], Sources], seconds: float) -> None:
        """Follow `pointer`, which is looked at every so many seconds; `load` opens its bundle."""
        self._pointer = pointer
        self._load = load
        self._seconds = seconds
        self._refused = ""
        self._again = 0.0

    async def run(
        self, standing: Standing[A], make: Callable[[Sources], A], metrics: Metrics
    ) -> None:
        """Replace what stands whenever the pointer leads to another bundle, until cancelled.

        Args:
            standing: what to replace.
            make: makes what answers from what was loaded.
            metrics: counts what became of each bundle.
        """
        hung_up = asyncio.Event()
        with _on_hangup(hung_up):
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hung_up.wait(), self._seconds)
                    self._again = 0.0
                hung_up.clear()
                named, stays = self._pointer.resolve().name, standing.sources.bundle
                waits = named == self._refused and time.monotonic() < self._again
                if named == stays or waits:
                    continue
                began = time.monotonic()
                try:
                    newer = await asyncio.to_thread(self._try, standing.sources, make)
                # Whatever a bundle breaks on, the one that answers goes on.
                except Exception as error:  # noqa: BLE001
                    self._refuse(named, stays, error, metrics)
                    continue
                standing.answering, standing.sources = newer
                took = round(time.monotonic() - began, 2)
                event("bundle_swapped", before=stays, bundle=newer[1].bundle, seconds=took)
                bind(bundle=newer[1].bundle, snapshot=newer[1].snapshot)
                metrics.answers_from(newer[1].bundle, newer[1].snapshot)
                metrics.bundle_swap("swapped")

    def _try(self, served: Sources, make: Callable[[Sources], A]) -> tuple[A, Sources]:
        """Load what the pointer leads to, and see that it can take over."""
        newer = self._load()
        refuse_unfit(newer, served)
        return make(newer), newer

    def _refuse(self, named: str, stays: str, error: Exception, metrics: Metrics) -> None:
        self._refused, self._again = named, time.monotonic() + AGAIN_SECONDS
        told = (
            str(error) if isinstance(error, FeastrainError) else f"{type(error).__name__}: {error}"
        )
        event("bundle_refused", bundle=named, stays=stays, error=told)
        metrics.bundle_swap("refused")


def refuse_unfit(newer: Sources, served: Sources) -> None:
    """Refuse to answer from `newer` what was answered from `served`.

    Raises:
        DataError: it forecasts other things, or no real series.
        FeastrainError: the online store does not answer.
    """
    for what, before, after in (
        ("series keyed by", served.history.types, newer.history.types),
        ("steps ahead:", _horizon(served), _horizon(newer)),
        ("quantiles", served.forecaster.bundle.quantiles, newer.forecaster.bundle.quantiles),
    ):
        if before != after:
            message = (
                f"bundle {newer.bundle} forecasts {what} {after}, the one that is served {before}: "
                "clients of one cannot read the other; start a server of its own for it"
            )
            raise DataError(message)
    keys = newer.history.keys
    tried = keys[:: -(-len(keys) // TRIED_SERIES) or 1]
    forecast = newer.forecaster.forecast(newer.history.table(tried))  # refuses what is no number
    if not forecast.found.any():
        message = (
            f"the online store knows none of {len(tried)} series of bundle {newer.bundle}: "
            "materialise its features first"
        )
        raise DataError(message)


def _horizon(sources: Sources) -> int:
    return sources.forecaster.bundle.columns.horizon


@contextlib.contextmanager
def _on_hangup(hung_up: asyncio.Event) -> Iterator[None]:
    """Set an event at each SIGHUP, where this thread can hear it; afterwards it is not heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        deaf_to_hangup()


def deaf_to_hangup() -> None:
    """Pass over SIGHUP, which would end the process, while nothing can be swapped."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
