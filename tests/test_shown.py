"""Results as a notebook shows them."""

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from feastrain import Project
from feastrain.shown import MOST_ROWS, Shown, as_html


class Words(HTMLParser):
    """Collects the words of a page, and which elements are open at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.opened: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what begins."""
        assert not attrs
        self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note what ends: the last one that began."""
        assert tag == self.opened.pop()

    def handle_data(self, data: str) -> None:
        """Note what is said."""
        self.words.append(data)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda project: project.snapshot("smoke"), "row_features"),
        (lambda project: project.bundle("smoke"), "validation_wmae"),
        (lambda project: project.plan("smoke"), "embargo"),
        (lambda project: project.size("smoke"), "memory of a node"),
        (lambda project: project.diff("smoke", "smoke"), "Difference"),
        (lambda project: project.drift("smoke", "smoke"), "Drift"),
    ],
)
def test_a_result_shows_what_it_is(
    demand: Project, made: Callable[[Project], Shown], said: str
) -> None:
    """As tables that are closed, of what `to_json` returns."""
    shown = Words(made(demand)._repr_html_())
    assert [] == shown.opened
    assert said in shown.words


def test_text_is_never_taken_for_markup() -> None:
    """Neither keys nor values."""
    shown = Words(as_html({"<b>": "<script>", "list": [{"<i>": "&"}, "plain"]}))
    assert {"<b>", "<script>"} <= set(shown.words)


def test_long_lists_are_shown_in_part() -> None:
    """The first rows, and how many there are."""
    rows: list[dict[str, Any]] = [{"row": number, "x": 1234.5} for number in range(MOST_ROWS + 1)]
    shown = Words(as_html(rows))
    assert f"{MOST_ROWS} of {MOST_ROWS + 1} rows" == shown.words[-1]
    assert "1,234" in shown.words or "1,235" in shown.words
    assert str(MOST_ROWS) not in shown.words
