"""The page: its files are ours, vendored as published, and nothing else is trusted."""

import hashlib
import re
from pathlib import Path

import pytest

from fakes import AppClient, fake_forecaster
from feastrain.serving.api import PAGE, create_app
from feastrain.settings import Settings

OURS = sorted(path for path in PAGE.iterdir() if path.suffix in {".html", ".js", ".css", ".svg"})


@pytest.fixture(scope="module")
def client() -> AppClient:
    forecaster, _, history = fake_forecaster({(1, "b"): 100.0})
    return AppClient(create_app(forecaster, history, Settings()))


def test_vendored_files_are_those_that_were_published() -> None:
    """Each has the checksum in SHA256SUMS, its licence is beside it, and there is no other."""
    vendor = PAGE / "vendor"
    lines = (vendor / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split("  ") for line in lines)}
    actual = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in vendor.iterdir()
        if path.name != "SHA256SUMS"
    }
    assert expected == actual
    assert "uPlot.LICENSE" in actual


def test_every_file_that_the_page_names_is_served(client: AppClient) -> None:
    """The page, its scripts and its styles, each with its own type."""
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="/?(static/[^"]+)"', page.text)
    assert {Path(name).suffix for name in named} >= {".js", ".css"}
    for name in named:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        kind = "javascript" if name.endswith(".js") else "css" if name.endswith(".css") else "svg"
        assert kind in answer.headers["content-type"]


def test_no_file_lies_there_unused(client: AppClient) -> None:
    """What the package carries is what the page, or one of its scripts, names."""
    text = client.get("/").text + "".join(path.read_text() for path in PAGE.glob("*.js"))
    unused = [path.name for path in OURS if path.name != "index.html" and path.name not in text]
    assert unused == []


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/v1/series", "/no/such/path"])
def test_every_answer_trusts_only_this_server(client: AppClient, path: str) -> None:
    """No script, style or connection from elsewhere or inline, and no frame around the page."""
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_the_page_asks_nothing_of_the_internet(path: Path) -> None:
    """No address of another server, but for the names of XML's namespaces."""
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"')]*", path.read_text()))
    assert addresses <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.js")), ids=lambda path: path.name)
def test_text_is_never_parsed_as_markup(path: Path) -> None:
    """A series may be called `<script>`: it is shown, not run."""
    dangerous = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert re.findall(dangerous, path.read_text()) == []


def test_the_page_has_no_inline_script_or_style(client: AppClient) -> None:
    """The policy would not let it run."""
    text = client.get("/").text
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text) == []


def test_files_outside_the_page_are_not_served(client: AppClient) -> None:
    """Neither the code beside it nor anything above."""
    for path in ("/static/../api.py", "/static/%2e%2e/api.py", "/static/..%2fapi.py"):
        assert client.get(path).status_code == 404
