"""What the documents name is there: the walk of somebody who reads the code by them."""

import pkgutil
import re
from pathlib import Path

import pytest
import typer

from feastrain.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
VERBS = {*getattr(typer.main.get_command(app), "commands", {})}
DELEGATED = {*re.findall(r"^    ([a-z]+)\)", (ROOT / "run").read_text(), re.MULTILINE)}
"""What `run` does itself."""


def text_of(page: Path) -> str:
    return page.read_text()


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_every_link_leads_to_a_file(page: Path) -> None:
    """Of those that stay within the project."""
    targets = re.findall(r"\]\(([^)#\s]+)", text_of(page))
    near = [target for target in targets if "://" not in target and "mailto:" not in target]
    assert [] == [target for target in near if not (page.parent / target).exists()]


def test_every_test_that_is_named_exists(page: Path) -> None:
    """A file of tests, and the test in it."""
    missing = []
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", text_of(page)):
        path = ROOT / file
        begins = f"def {name}"  # `test_...` stands for a table of them
        if not path.is_file() or (name and begins not in path.read_text()):
            missing.append(f"{file}::{name}")
    assert [] == missing


def test_every_command_that_is_named_exists(page: Path) -> None:
    """A verb of feastrain, or what `run` does itself; a benchmark by its name."""
    text = text_of(page)
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))
    verbs = {*re.findall(r"(?:\./run|`feastrain|^feastrain) ([a-z]+)\b", code, re.MULTILINE)}
    assert set() == verbs - VERBS - DELEGATED
    benchmarks = {*re.findall(r"\./run bench ([a-z]\w+)", text)}
    assert [] == [name for name in benchmarks if not (ROOT / "benchmarks" / f"{name}.py").is_file()]


def test_every_stage_begins_where_the_architecture_says() -> None:
    """The entry functions of its table are there."""
    table = re.search(
        r"\| stage \| entry function .*?\n\n", text_of(ROOT / "ARCHITECTURE.md"), re.DOTALL
    )
    assert table is not None
    columns = [line.split("|")[2] for line in table[0].splitlines()[2:-1]]
    names = [name for column in columns for name in re.findall(r"`([\w.]+)`", column)]
    assert len(names) > 10
    for name in names:
        pkgutil.resolve_name(f"feastrain.{name}")


def test_every_file_of_the_architecture_exists() -> None:
    """Each is named as it is called, with or without its room."""
    there = {path.name for path in ROOT.glob("src/**/*.py")}
    named = {*re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", text_of(ROOT / "ARCHITECTURE.md"))}
    assert len(named) > 30
    assert set() == named - there
