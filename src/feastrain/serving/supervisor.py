"""Several processes that serve one socket, and the parent that keeps them at it.

The parent opens the socket and answers nothing. Workers are spawned, not forked: what they load
has threads, which a fork would leave behind. Each accepts from the same socket, so one that dies
takes only its own requests along.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feastrain.errors import BY_CODE, FeastrainError
from feastrain.serving.listening import SharedListener, Shares
from feastrain.serving.server import FORCE_SECONDS, tell
from feastrain.settings import share_metrics
from feastrain.startup import check_types_when_called
from feastrain.telemetry import event

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from feastrain.settings import Settings

    Work = Callable[[Settings, socket.socket, Callable[[], None]], None]

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A worker that served this long and dies is started again as if it were the first time."""
HUNG_SECONDS = 30.0
"""A worker whose event loop says nothing for so long answers nobody, and is killed."""
LOOK_SECONDS = 0.1


@dataclass
class _Worker:
    """One place among the workers, and the process that holds it."""

    number: int
    process: Any = None
    news: Any = None
    """What the process tells: that it serves, or the error it cannot serve for."""
    serves: bool = False
    started: float = 0.0
    deaths: int = 0
    again: float = 0.0
    """When to start it again."""


def supervise(work: Work, settings: Settings, listener: socket.socket) -> None:
    """Run `work` in `settings.serve_workers` processes until SIGTERM or SIGINT, then drain them.

    Args:
        work: serves a socket until SIGTERM, and calls its last argument when it begins to; it
            must be importable from a new interpreter.
        settings: how many workers, and how long they may take to drain.
        listener: the socket; it is closed when the workers begin to drain.

    Raises:
        FeastrainError: no worker serves and one cannot start, or one did not drain in time.
    """
    folder = Path(tempfile.mkdtemp(prefix="feastrain-metrics-"))
    told = settings.model_copy(update={"metrics_folder": folder})
    supervisor = _Supervisor(work, told, listener)
    try:
        with share_metrics(folder), supervisor.signals():
            supervisor.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Supervisor:
    """Starts workers, starts them again, and stops them."""

    def __init__(self, work: Work, settings: Settings, listener: socket.socket) -> None:
        self._work = work
        self._settings = settings
        self._listener = listener
        self._workers = [_Worker(number + 1) for number in range(settings.serve_workers)]
        self._spawn = multiprocessing.get_context("spawn")
        self._held = self._spawn.RawArray("d", 2 * settings.serve_workers)
        self._stopping = False
        self._told = False

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT stop the workers, and SIGHUP tell them of another bundle."""

        def stop(*_: object) -> None:
            self._stopping = True

        def look(*_: object) -> None:
            for worker in self._workers:
                if worker.serves and worker.process.is_alive():
                    os.kill(worker.process.pid, signal.SIGHUP)

        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: look}
        before = {number: signal.signal(number, handlers[number]) for number in handlers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self) -> None:
        """Serve until asked to stop."""
        try:
            while not self._stopping:
                for worker in self._workers:
                    if worker.process is None and time.monotonic() >= worker.again:
                        self._start(worker)
                news = {one.news: one for one in self._workers if one.process is not None}
                for heard in connection.wait(list(news), LOOK_SECONDS):
                    self._hear(news[heard])
                for worker in filter(self._hangs, self._workers):
                    event("worker_hangs", worker=worker.number, silent_for=HUNG_SECONDS)
                    worker.process.kill()
        finally:
            self._stop()

    def _start(self, worker: _Worker) -> None:
        worker.news, ours = self._spawn.Pipe(duplex=False)
        shares = Shares(self._held, worker.number - 1)
        arguments = (self._work, self._settings, self._listener, shares, ours)
        worker.process = self._spawn.Process(target=_run, args=arguments)
        worker.process.start()
        ours.close()
        worker.started = time.monotonic()

    def _hear(self, worker: _Worker) -> None:
        """Take what a worker tells; that it tells no more is its end."""
        try:
            error = worker.news.recv()
        except EOFError:
            self._bury(worker)
            return
        if error is None:
            worker.serves = True
            event("worker_serves", worker=worker.number, pid=worker.process.pid)
            if not self._told:
                self._told = True
                tell(self._listener, self._settings)
        elif not any(one.serves for one in self._workers):
            code, text = error
            raise BY_CODE.get(code, FeastrainError)(text)
        else:
            event("worker_cannot_start", worker=worker.number, error=error[1])

    def _hangs(self, worker: _Worker) -> bool:
        silent = Shares(self._held, worker.number - 1).silent_seconds
        return worker.serves and worker.process.is_alive() and silent > HUNG_SECONDS

    def _bury(self, worker: _Worker) -> None:
        """Forget a process that ended, and say when another takes its place."""
        from prometheus_client.multiprocess import mark_process_dead

        worker.process.join(FORCE_SECONDS)
        pid, code = worker.process.pid, worker.process.exitcode
        served = worker.serves
        self._clear(worker)
        mark_process_dead(pid, str(self._settings.metrics_folder))  # type: ignore[no-untyped-call]
        if not served and not any(one.serves for one in self._workers):
            message = f"worker {worker.number} ended with exit code {code} before it served; "
            raise FeastrainError(message + "what it wrote above says why")
        if time.monotonic() - worker.started >= STEADY_SECONDS:
            worker.deaths = 0
        span = min(FIRST_WAIT_SECONDS * 2.0**worker.deaths, LONGEST_WAIT_SECONDS)
        wait = span * (1 + random.random()) / 2  # noqa: S311 - jitter
        worker.deaths += 1
        worker.again = time.monotonic() + wait
        event("worker_died", worker=worker.number, pid=pid, exit_code=code, again_in=round(wait, 2))

    def _clear(self, worker: _Worker) -> None:
        Shares(self._held, worker.number - 1).leave()
        worker.news.close()
        worker.process.close()
        worker.process, worker.news, worker.serves = None, None, False

    def _stop(self) -> None:
        """Drain all workers.

        Raises:
            FeastrainError: one did not end in time, and was killed.
        """
        self._listener.close()  # so that the last worker to close it is the last that accepts
        left = [worker for worker in self._workers if worker.process is not None]
        for worker in left:
            worker.process.terminate()
        deadline = time.monotonic() + self._settings.drain_seconds + 2 * FORCE_SECONDS
        failed = []
        for worker in left:
            worker.process.join(max(deadline - time.monotonic(), 0.0))
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            if worker.serves and worker.process.exitcode != 0:
                failed.append(f"worker {worker.number} (exit code {worker.process.exitcode})")
            self._clear(worker)
        if failed and self._stopping:
            message = f"{', '.join(failed)} did not drain within {self._settings.drain_seconds} s: "
            raise FeastrainError(message + "its log says what it was at")


def _run(
    work: Work,
    settings: Settings,
    listener: socket.socket,
    shares: Shares,
    news: Any,
) -> None:
    """Work in a process of one's own; tell the parent of success and of what prevents it."""
    check_types_when_called()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl+C goes to all; ours is TERM
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(settings, SharedListener(listener.detach(), shares), lambda: news.send(None))
    except FeastrainError as error:
        news.send((error.exit_code, str(error)))
        sys.exit(error.exit_code)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    event("parent_died", error="the process that started this one is gone; it drains")
    os.kill(os.getpid(), signal.SIGTERM)
