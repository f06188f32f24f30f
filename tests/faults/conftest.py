"""Faults as options: how often each is injected, and where the table of outcomes goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from outcomes import Outcome, recorded, table, write_table

if TYPE_CHECKING:
    from collections.abc import Callable

OUTCOMES = pytest.StashKey[dict[str, list[Outcome]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take how often, how long, and where to."""
    group = parser.getgroup("faults")
    group.addoption("--faults-times", type=int, default=1, help="how often each fault is injected")
    group.addoption("--soak-seconds", type=float, default=20.0, help="how long the soak lasts")
    group.addoption(
        "--faults-record",
        type=Path,
        default=None,
        help="file that each injection is added to as it happens; several sessions may share it",
    )
    group.addoption(
        "--faults-table",
        type=Path,
        default=None,
        help="page whose tables are written at the end, of all that the record holds",
    )


@pytest.fixture(scope="session")
def times(pytestconfig: pytest.Config) -> int:
    """How often each fault is injected."""
    return int(pytestconfig.getoption("--faults-times", default=1))


@pytest.fixture
def outcome_of(pytestconfig: pytest.Config) -> Callable[[str, str], Outcome]:
    """Make an outcome that is a row of one of the tables."""
    record = pytestconfig.getoption("--faults-record", default=None)

    def make(name: str, fault: str) -> Outcome:
        outcome = Outcome(fault, record=record, name=name)
        pytestconfig.stash.setdefault(OUTCOMES, {}).setdefault(name, []).append(outcome)
        return outcome

    return make


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the tables, and put them on the page that was named."""
    page = config.getoption("--faults-table", default=None)
    record = config.getoption("--faults-record", default=None)
    tables = recorded(record) if record and record.exists() else config.stash.get(OUTCOMES, {})
    for name, outcomes in tables.items():
        told = [outcome for outcome in outcomes if outcome.times]
        terminalreporter.section(f"faults: {name}")
        terminalreporter.write_line(table(told))
        if page is not None and told:
            write_table(page, name, told)
