"""What faults did to clients: a table of it, for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BEGIN, END = "<!-- faults: {} -->", "<!-- end of faults: {} -->"


@dataclass
class Outcome:
    """What a number of injections of one fault came to."""

    fault: str
    times: int = 0
    survived: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    """What must be none, by name: writes lost, written twice, stale reads."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Time without an answer that clients saw, by client."""

    def add(self, wrong: dict[str, int], seconds: dict[str, float], *, survived: bool) -> None:
        """Note one injection."""
        self.times += 1
        self.survived += survived
        for name, count in wrong.items():
            self.wrong[name] = self.wrong.get(name, 0) + count
        for name, each in seconds.items():
            self.seconds.setdefault(name, []).append(each)


def table(outcomes: list[Outcome]) -> str:
    """Return outcomes as Markdown; times are p50 / longest."""
    wrong = list(dict.fromkeys(name for each in outcomes for name in each.wrong))
    clients = list(dict.fromkeys(name for each in outcomes for name in each.seconds))
    head = ["fault", "times", "survived", *wrong, *clients]
    rows = [
        [
            each.fault,
            str(each.times),
            str(each.survived),
            *(str(each.wrong.get(name, "")) for name in wrong),
            *(_spread(each.seconds.get(name, [])) for name in clients),
        ]
        for each in outcomes
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_table(page: Path, name: str, outcomes: list[Outcome]) -> None:
    """Put a table in its place on a page."""
    text = page.read_text()
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"{page} has no place for the table {name!r}"
    page.write_text(f"{before}{begin}\n{table(outcomes)}\n{end}{after}")


def _spread(seconds: list[float]) -> str:
    return f"{_told(median(seconds))} / {_told(max(seconds))}" if seconds else ""


def _told(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
