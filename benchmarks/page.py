"""The page in a real Chromium: first paint, when a planner can read it, and a keystroke's answer.

`--project` names a project in which `feastrain demo` ran; without it one is made of the twin,
which takes minutes. `--screenshot FILE` keeps a picture, and is refused of any data but the twin's.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from feastrain.demo import run_demo
from feastrain.errors import FeastrainError
from feastrain.project import Project
from figures import Figure, options, tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from playwright.sync_api import Browser

LOADS, QUICK_LOADS = 9, 3
VIEW = {"width": 1360, "height": 1080}
TYPED = ("1", "12", "store 12", "store 12 dept 9", "")
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
# The time from a keystroke until the table has been drawn again.
KEYSTROKE = """async (text) => {
  const field = document.getElementById("search");
  const started = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input"));
  await new Promise((drawn) => requestAnimationFrame(drawn));
  return performance.now() - started;
}"""


def main() -> None:
    """Print the figures, and keep a picture if one is asked for."""
    asked = options(__doc__, _extend)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("page: no chromium on this machine; install it (Debian's package is `chromium`)")
    with contextlib.ExitStack() as stack:
        project = _project(asked, stack)
        address = stack.enter_context(_serving(project, asked.recipe))
        started = stack.enter_context(sync_playwright())
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        stack.callback(browser.close)
        figures = _measure(browser, address, QUICK_LOADS if asked.quick else LOADS)
        if asked.screenshot:
            _picture(browser, address, asked.screenshot)
    tell(figures, asked.json)


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", type=Path, help="a project in which `feastrain demo` ran")
    parser.add_argument("--recipe", default="mlp", help="which recipe's bundle is served")
    parser.add_argument("--screenshot", type=Path, metavar="FILE", help="keep a picture")


def _project(asked: argparse.Namespace, stack: contextlib.ExitStack) -> Project:
    if asked.project is None:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return run_demo(scratch / "twin", None, asked.recipe).project
    project = Project(asked.project)
    source = str(project.raw_facts()["source"])
    if asked.screenshot and "twin" not in source:
        message = f"{asked.project} holds {source}: a picture to publish is made of the twin alone"
        raise FeastrainError(message)
    return project


@contextlib.contextmanager
def _serving(project: Project, recipe: str) -> Iterator[str]:
    """Serve the project on a free port, and yield the page's address."""
    command = [sys.executable, "-m", "feastrain", "serve", recipe, "--port", str(_free_port())]
    server = subprocess.Popen(
        command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            found = re.search(r"serving on (http://\S+/)", line)
            if found:
                break
        else:
            message = f"`{' '.join(command[2:])}` ended in {project.root} before it served"
            raise FeastrainError(message)
        yield found[1]
    finally:
        server.terminate()
        server.wait(30)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _measure(browser: Browser, address: str, loads: int) -> list[Figure]:
    paints, shown, keystrokes = [], [], []
    for _ in range(loads):
        context = browser.new_context(viewport=VIEW)  # a new one has nothing in its cache
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#facts dd")
        shown.append(page.evaluate("performance.now()"))
        paints.append(page.evaluate(PAINT))
        keystrokes += [page.evaluate(KEYSTROKE, text) for text in TYPED]
        context.close()
    medians = {
        "first_paint_ms": statistics.median(paints),
        "series_shown_ms": statistics.median(shown),
        "keystroke_ms": statistics.median(keystrokes),
    }
    return [
        Figure("page", "chromium", "feastrain", metric, value) for metric, value in medians.items()
    ]


def _picture(browser: Browser, address: str, file: Path) -> None:
    context = browser.new_context(viewport=VIEW, locale="en-US", device_scale_factor=1)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#facts dd")
    page.wait_for_selector("#drivers-list li")
    page.screenshot(path=file)
    context.close()


if __name__ == "__main__":
    main()
