"""Who watches a run on this machine: progress always, the rest as the settings say."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from feastrain.errors import InterruptedRun
from feastrain.training.metrics import LastWord, Metrics
from feastrain.training.observer import Observer, Progress
from feastrain.training.port import answering
from feastrain.training.probes import probes_of
from feastrain.training.progression import Progression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from feastrain.settings import Settings
    from feastrain.telemetry import Stage
    from feastrain.training.observer import About, Outcome, Watcher


@contextlib.contextmanager
def watching(
    about: About,
    settings: Settings,
    progress: Stage,
    others: Sequence[Watcher] = (),
    *,
    leads: bool,
) -> Iterator[Observer]:
    """Yield the run's observer, and tell its watchers how the block ended.

    Args:
        about: the run.
        settings: which watchers there are, and where.
        progress: the stage that shows the run.
        others: watchers besides, which are told last.
        leads: whether this is rank 0; other ranks are not watched.

    Raises:
        UsageError: a setting asks for what cannot be had: a port, a package.
    """
    epochs = about.epochs
    if not leads:
        yield Observer(epochs)
        return
    with contextlib.ExitStack() as stack:
        observer = Observer(
            epochs, [Progress(progress), *_watchers(about, settings, stack), *others]
        )
        outcome: Outcome = "failed"
        try:
            yield observer
            outcome = "finished"
        except InterruptedRun:
            outcome = "interrupted"
            raise
        finally:
            observer.on_end(outcome)


def _watchers(about: About, settings: Settings, stack: contextlib.ExitStack) -> Iterator[Watcher]:
    if settings.metrics_port or settings.pushgateway:
        metrics = Metrics(about, settings.restarts, settings.training_timeout_seconds)
        yield metrics
        if settings.metrics_port:
            place = settings.metrics_host, settings.metrics_port
            stack.enter_context(answering(probes_of(metrics), *place, "FEASTRAIN_METRICS_PORT"))
        if settings.pushgateway:
            yield LastWord(metrics, settings.pushgateway, about.name)
    if settings.progress_port:
        progression = Progression()
        yield progression
        place = settings.metrics_host, settings.progress_port
        stack.enter_context(answering(progression.answer, *place, "FEASTRAIN_PROGRESS_PORT"))
    if settings.mlflow_tracking_uri:
        from feastrain.training.tracking import MlflowRun

        yield MlflowRun(about, settings.mlflow_tracking_uri)
    if settings.trainjob_status_url:
        from feastrain.training.trainjob import trainjob_progress

        yield from trainjob_progress()
