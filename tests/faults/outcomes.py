"""What faults did to clients: a record of every injection, and a table of it, for people.

    python tests/faults/outcomes.py docs/faults.jsonl docs/reliability.md

writes the tables anew from the record.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    record: Path | None = None
    """Where each injection is noted as it happens; it outlives a session that is killed."""
    name: str = ""
    """The table it is a row of."""

    def add(
        self, wrong: dict[str, int], seconds: dict[str, float], *, survived: bool, times: int = 1
    ) -> None:
        """Note an injection, or several that were looked at together."""
        self.times += times
        self.survived += survived * times
        for name, count in wrong.items():
            self.wrong[name] = self.wrong.get(name, 0) + count
        for name, each in seconds.items():
            self.seconds.setdefault(name, []).append(each)
        if self.record is not None:
            noted = {
                "table": self.name, "fault": self.fault, "times": times, "survived": survived,
                "wrong": wrong,
                "seconds": {name: round(each, 4) for name, each in seconds.items()},
                "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "code": _commit(),
            }  # fmt: skip
            with self.record.open("a") as out:
                out.write(json.dumps(noted) + "\n")


def recorded(record: Path) -> dict[str, list[Outcome]]:
    """Return what a record holds, by table; rows in the order of their first injection."""
    tables: dict[str, dict[str, Outcome]] = {}
    for line in record.read_text().splitlines():
        noted: dict[str, Any] = json.loads(line)
        rows = tables.setdefault(noted["table"], {})
        outcome = rows.setdefault(noted["fault"], Outcome(noted["fault"]))
        outcome.add(
            noted["wrong"], noted["seconds"], survived=noted["survived"], times=noted["times"]
        )
    return {name: list(rows.values()) for name, rows in tables.items()}


def table(outcomes: list[Outcome]) -> str:
    """Return outcomes as Markdown; times are p50 / longest."""
    wrong = _names(each.wrong for each in outcomes)
    clients = _names(each.seconds for each in outcomes)
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


@cache
def _commit() -> str:
    """Return the commit that is tried, so that a figure tells which code it is of."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()


def _names(each: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for names in each for name in names))


def _spread(seconds: list[float]) -> str:
    return f"{_told(median(seconds))} / {_told(max(seconds))}" if seconds else ""


def _told(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


if __name__ == "__main__":
    for name, outcomes in recorded(Path(sys.argv[1])).items():
        write_table(Path(sys.argv[2]), name, outcomes)
