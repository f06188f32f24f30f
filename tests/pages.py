"""Pages of the documentation whose commands are run."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from feastrain.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a page's blocks say, from the first to the last.

    The lines of `sh` are run: `cd FOLDER`, `cp FROM TO` and `feastrain VERB ...`, which ends with
    0, or as its comment says: `# exit code 4`. A `diff` is applied, and a block of another language
    that begins with a file's name in a comment becomes that file.
    """
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for language, block in blocks:
        if language == "sh":
            for line in block.splitlines():
                _run_line(line, monkeypatch)
        elif language == "diff":
            _apply(block)
        elif named := re.match(r"(?:#|--) (\S+\.\w+)\n", block):
            path = Path(named[1])
            path.parent.mkdir(exist_ok=True)
            path.write_text(block[named.end() :])


def _run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = words = shlex.split(line, comments=True)
    if program == "cd":
        monkeypatch.chdir(arguments[0])
        return
    if program == "cp":
        shutil.copyfile(*arguments)
        return
    assert program == "feastrain", line
    code = re.search(r"# exit code (\d+)", line)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == (int(code[1]) if code else 0), line


def _apply(diff: str) -> None:
    """Change a file as a diff says, whose `@@` need not say at which line."""
    head, *lines = diff.splitlines()
    path = Path(head.removeprefix("--- "))
    for hunk in "\n".join(lines).split("@@\n"):
        kept = [[line[1:] for line in hunk.splitlines() if line[:1] != sign] for sign in "+-"]
        before, after = ("".join(f"{line}\n" for line in side) for side in kept)
        assert 1 == path.read_text().count(before), before
        path.write_text(path.read_text().replace(before, after))


def run_notebook(notebook: Path) -> list[object]:
    """Run every code cell, and return what the last line of each shows, if it shows anything."""
    names: dict[str, object] = {}
    shown = []
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            *before, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(before, []), notebook.name, "exec"), names)
            if isinstance(last, ast.Expr):
                expression = ast.Expression(last.value)
                shown.append(eval(compile(expression, notebook.name, "eval"), names))
            else:
                exec(compile(ast.Module([last], []), notebook.name, "exec"), names)
    return shown
