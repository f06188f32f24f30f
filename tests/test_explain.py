"""What a TFT's forecasts rest on, told by name: as numbers, as tables and as a page."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from feastrain import Project
from feastrain.cli import app, main
from feastrain.errors import UsageError
from feastrain.evaluation.explain import MOST_ROWS, Shares, _sample, explain, networks
from feastrain.evaluation.explain_page import as_page
from feastrain.models.architecture import make_rows
from feastrain.models.tft import TFT

SHARES = Shares(
    recipe="<tft>",
    part="test",
    rows=2,
    static={"size": 0.75, "[kind]": 0.25},
    past={"sold": 1.0},
    future={"holiday": 0.6, "season": 0.4},
    attention=[[0.1, 0.2, 0.3, 0.4, 0.0], [0.0, 0.1, 0.2, 0.3, 0.4]],
    special={"special": 0.3, "ordinary": 0.1},
)


def test_every_list_of_shares_adds_up_to_one(looking_back: Project) -> None:
    """By the names of the recipe's features, the largest first; attention by step."""
    explained = looking_back.explain("tft")
    shares = explained.shares
    columns = looking_back.snapshot("tft").columns
    assert {"log_unit", "store", "dept", "store_size", "store_type"} == set(shares.static)
    assert set(columns.observed) | set(columns.known_ahead) == set(shares.past)
    assert set(columns.stepped) | set(columns.known_ahead) == set(shares.future)
    for of in (shares.static, shares.past, shares.future):
        assert 1 == pytest.approx(sum(of.values()))
        assert sorted(of.values(), reverse=True) == list(of.values())
    assert (8, 10 + 8) == np.shape(shares.attention)
    np.testing.assert_allclose(np.sum(shares.attention, axis=1), 1, rtol=1e-5)
    assert looking_back.explain("tft").cached


def test_shares_are_the_means_of_what_the_model_weighs(looking_back: Project) -> None:
    """Over all rows at once, periods without a row left out, they come out the same."""
    shares = looking_back.explain("tft", "train").shares
    bundle, snapshot = looking_back.bundle("tft"), looking_back.snapshot("tft")
    rows = snapshot.rows("train")
    (network,) = networks(bundle)
    windows = make_rows(
        network.architecture, bundle.encoder, rows, snapshot.known(), snapshot.rows()
    )
    batch = windows.batch(torch.arange(len(rows)))
    assert isinstance(network.module, TFT)
    with torch.inference_mode():
        weighed = network.module.explain(batch)
    there_M = batch.valid_BL.flatten().bool()
    past_V = weighed.past_BLV.flatten(0, 1)[there_M].mean(0)
    np.testing.assert_allclose(sorted(past_V.tolist()), sorted(shares.past.values()), rtol=1e-4)
    np.testing.assert_allclose(weighed.attention_BHT.mean(0), shares.attention, rtol=1e-4)
    holiday = bundle.encoder.known_categories.index("holiday")
    ordinary = bundle.encoder.vocabularies["holiday"].index("") + 1
    code_BL = batch.past_category_BLD[..., holiday]
    assert shares.special is not None
    actual = weighed.attention_BHT.mean(1)[:, :10][(code_BL != ordinary) & (code_BL > 0)].mean()
    assert float(actual) == pytest.approx(shares.special["special"], rel=1e-4)


def test_without_an_event_nothing_is_said_of_special_periods(
    looking_back: Project, tmp_path: Path
) -> None:
    """A recipe that names no feature of events has no holidays to tell from other periods."""
    bundle, snapshot = looking_back.bundle("tft"), looking_back.snapshot("tft")
    recipe = bundle.lineage["recipe"]
    label = recipe["label"] | {"event": None}
    eventless = replace(bundle, lineage=bundle.lineage | {"recipe": recipe | {"label": label}})
    told = explain(snapshot, bundle, tmp_path / "told")
    silent = explain(snapshot, eventless, tmp_path / "silent")
    assert None is not told.shares.special
    assert replace(told.shares, special=None) == silent.shares
    assert "A special past period" in told.page.read_text()
    assert "A special past period" not in silent.page.read_text()


def test_lags_count_back_from_the_cutoff() -> None:
    """Lag 1 is the last past period, and each is the mean over steps."""
    assert {1: 0.25, 2: 0.15, 3: 0.05} == pytest.approx(SHARES.by_lag())


def test_of_many_rows_some_are_taken_evenly() -> None:
    """As many as there may be, in order, the first among them."""
    taken = _sample(pa.table({"row": np.arange(3 * MOST_ROWS)}))["row"].to_numpy()
    assert np.array_equal(np.arange(0, 3 * MOST_ROWS, 3), taken)


class _Text(HTMLParser):
    """Reads the texts of a page, and that its tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag not in {"meta", "rect", "line"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"rect", "line"}:
            assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_stands_alone() -> None:
    """Every name and share is there, escaped, and nothing is fetched or run."""
    page = as_page(SHARES)
    read = _Text()
    read.feed(page)
    assert [] == read.open
    assert {"size", "[kind]", "75.0%", "sold", "step 2", "+2"} <= set(read.texts)
    assert "What forecasts rest on: <tft>" in read.texts
    assert "step 2, on lag 3: 0.0%" in read.texts
    assert "step 2, on step 2: 40.0%" in read.texts
    assert None is re.search(r"<script|src=|href=|url\(|<tft>", page)


def test_the_verb_prints_tables_and_json(
    looking_back: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables for a person, numbers for a program, and a copy of the page."""
    where = ["explain", "tft", "-C", str(looking_back.root), "--part", "validation"]
    app([*where, "--out", str(tmp_path / "page.html")], standalone_mode=False)
    told = capsys.readouterr().out
    for text in ("sales_last_year", "store_size", "█", "lag", "a special past period draws"):
        assert text in told
    explained = looking_back.explain("tft", "validation")
    assert explained.page.read_bytes() == (tmp_path / "page.html").read_bytes()
    capsys.readouterr()
    app([*where, "--json"], standalone_mode=False)
    assert explained.to_json() == json.loads(capsys.readouterr().out)


def test_a_model_that_is_no_tft_is_refused_in_one_line(
    demand: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says which kind the recipe trains, and ends in exit code 2."""
    monkeypatch.setattr("sys.argv", ["feastrain", "explain", "smoke", "-C", str(demand.root)])
    with pytest.raises(SystemExit) as left:
        main()
    assert 2 == left.value.code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("feast")]
    assert "recipe 'smoke' trains a model of kind mlp" in line


def test_a_part_without_rows_is_refused(looking_back: Project, tmp_path: Path) -> None:
    """There is nothing to average."""
    with pytest.raises(UsageError, match="no unheard rows"):
        explain(looking_back.snapshot("tft"), looking_back.bundle("tft"), tmp_path, "unheard")  # type: ignore[arg-type]
