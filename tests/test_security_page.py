"""The security page says nothing that no test shows."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def table() -> list[list[str]]:
    """Return the rows of the table of claims: claim, where, shown by."""
    part = PAGE.partition("## What stands in the way")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


def test_every_claim_names_its_tests_and_they_exist() -> None:
    """A claim of the table has at least one, by file and name."""
    rows = table()
    assert len(rows) > 20
    for claim, *_, shown in rows:
        named = NAMED.findall(shown)
        assert named, f"no test shows that {claim}"
        for path, test in named:
            tree = ast.parse((ROOT / path).read_text())
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
            assert test in {node.name for node in tree.body if isinstance(node, kinds)}, test


def test_every_place_that_the_page_names_exists() -> None:
    """A module that moved takes its line with it."""
    for _, where, _ in table():
        for place in re.findall(r"`([\w/.]+)`", where):
            assert any((base / place).exists() for base in (ROOT, ROOT / "src/feastrain")), place


def test_bandits_rules_are_on() -> None:
    """Everywhere but in tests, for all but assertions; what is let pass by line says why."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert ["S101"] == [rule for rule in lint["ignore"] if re.fullmatch(r"S\d+", rule)]
    wholesale = {path for path, rules in lint["per-file-ignores"].items() if "S" in rules}
    assert {"tests/**"} == wholesale
    let_pass = re.compile(r"# noqa: [^#\n]*\bS\d+[^-\n]*$", re.MULTILINE)
    unexplained = [
        f"{path.name}: {match[0]}"
        for path in (ROOT / "src").rglob("*.py")
        for match in let_pass.finditer(path.read_text())
    ]
    assert [] == unexplained
