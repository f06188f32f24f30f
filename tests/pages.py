"""Pages of the documentation whose commands are run."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from feastrain.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the lines of a page's `sh` blocks: `cd FOLDER` and `feastrain VERB ...`."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            program, *arguments = words = shlex.split(line, comments=True)
            if program == "cd":
                monkeypatch.chdir(arguments[0])
                continue
            assert program == "feastrain", line
            monkeypatch.setattr("sys.argv", words)
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == 0, line


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
