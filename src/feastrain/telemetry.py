"""What a run tells the person watching it: stages, progress, tables.

On a terminal a stage is one line that fills in as it works; elsewhere it is one JSON line
when it ends, and one now and then while it lasts. All of it goes to standard error: standard
output is for results alone. Every line says the time and what `bind` was told: the run, the
snapshot, the bundle.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import TaskID

PROGRESS_SECONDS = 10.0
"""Least time between two JSON lines about one stage's progress."""

BOUND: dict[str, object] = {}
"""What every line of this process says besides its own facts."""
ENDED: list[Ended] = []
"""The stages of this process that ended, well or not."""


@dataclass(frozen=True)
class Ended:
    """What became of a stage."""

    name: str
    seconds: float
    failed: bool
    cached: bool


@dataclass
class Stage:
    """One step of the journey: what it made is told by `made`, how far it is by `advance`."""

    name: str
    facts: dict[str, object] = field(default_factory=dict)
    cached: bool = False
    _speaks: bool = False
    _progress: Progress | None = None
    _task: TaskID | None = None
    _spoke: float = field(default_factory=time.perf_counter)

    def made(self, *, cached: bool = False, **facts: object) -> None:
        """Say what this stage produced, or that an earlier run already had."""
        self.cached = cached
        self.facts.update(facts)

    def tell(self, kind: str, **facts: object) -> None:
        """Say that something happened within this stage."""
        if self._progress is not None:
            said = "  ".join(f"{key} {_readable(value)}" for key, value in facts.items())
            self._progress.console.print(f"  [dim]{kind:<12} {escape(said)}[/]", highlight=False)
        elif self._speaks:
            self._spoke = time.perf_counter()
            event(kind, **facts)

    def advance(self, done: float, total: float, **facts: object) -> None:
        """Show that `done` of `total` units of work are finished."""
        if self._progress is not None and self._task is not None:
            note = "  ".join(f"{key} {_readable(value)}" for key, value in facts.items())
            self._progress.update(self._task, completed=done, total=total, note=note)
        elif self._speaks and time.perf_counter() - self._spoke >= PROGRESS_SECONDS:
            self.tell("progress", stage=self.name, done=done, total=total, **facts)


@contextlib.contextmanager
def stage(name: str, *, live: bool = True) -> Iterator[Stage]:
    """Time one stage and report it when it ends well.

    Args:
        name: what the stage is called.
        live: whether to draw its progress on a terminal; not while another process draws.
    """
    started = time.perf_counter()
    console = Console(stderr=True)
    current = Stage(name)
    failed = True
    try:
        with _shown(name, console, live=live) as current:
            yield current
        failed = False
    finally:
        seconds = time.perf_counter() - started
        ENDED.append(Ended(name, seconds, failed, current.cached))
    if console.is_terminal:
        facts = "  ".join(
            f"[dim]{key}[/] {_readable(value)}" for key, value in current.facts.items()
        )
        mark = "[cyan]=[/]" if current.cached else "[green]✓[/]"
        when = "cached" if current.cached else f"{seconds:.1f} s"
        console.print(f"{mark} {name:<12} {when:>8}  {facts}", highlight=False, soft_wrap=True)
    else:
        event(
            "stage", stage=name, seconds=round(seconds, 3), cached=current.cached, **current.facts
        )


@contextlib.contextmanager
def _shown(name: str, console: Console, *, live: bool) -> Iterator[Stage]:
    """Yield a stage that shows its progress."""
    if console.is_terminal and live:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as progress:
            task = progress.add_task(name, total=None, note="")
            yield Stage(name, _speaks=True, _progress=progress, _task=task)
    else:
        yield Stage(name, _speaks=not console.is_terminal)


def bind(**facts: object) -> None:
    """Have every later line of this process say these facts too; the latest word on each holds."""
    BOUND.update(facts)


class _Lines(logging.Handler):
    """Writes what libraries log, and what stores warn of, as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        facts = {"level": record.levelname.lower(), "logger": record.name}
        if record.exc_info:
            facts["traceback"] = logging.Formatter().formatException(record.exc_info)
        event("log", text=record.getMessage(), **facts)


def log_as_lines() -> None:
    """Have the log of this process's libraries, from warnings on, written as JSON lines.

    On a terminal, and where somebody else has said how to log, it stays as it is.
    """
    root = logging.getLogger()
    if not root.handlers and not Console(stderr=True).is_terminal:
        root.addHandler(_Lines(logging.WARNING))


def event(kind: str, **facts: object) -> None:
    """Write one JSON line to standard error."""
    now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"event": kind, "at": now, **BOUND, **facts}, default=_plain)
    # In one go: other processes write to the same place.
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def say(text: str) -> None:
    """Write one plain sentence to standard error, as JSON where nobody watches."""
    console = Console(stderr=True)
    if console.is_terminal:
        console.print(text, highlight=False)
    else:
        event("note", text=text)


def _plain(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def _readable(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
