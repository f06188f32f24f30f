"""Backtests: origins, what is kept, and that nothing after an origin moves what it said."""

import json
import math
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feastrain import Project
from feastrain.errors import DataError, ExpectationError, RecipeError, UsageError
from feastrain.evaluation.backtest import BAR, REFERENCE, leaderboard
from feastrain.evaluation.charts import Plot
from feastrain.evaluation.forecasts import FILE, Forecasts
from feastrain.evaluation.report_page import Report, as_page
from feastrain.evaluation.tables import band_of, score_table
from feastrain.settings import Settings

CUTOFF = datetime(2024, 1, 5, 23, 59, 59, tzinfo=UTC)


def forecasts_by_hand() -> Forecasts:
    """Two shops, one cut-off, five steps: the model is 10 too high, the naive forecast 20."""
    rows = [
        {
            "shop": shop,
            "event_timestamp": CUTOFF,
            "step": step,
            "label": math.nan if (shop, step) == ("b", 5) else 100.0 * step,
            "weight": 5.0 if step == 3 else 1.0,
            "special": step == 3,
            "mlp": 100.0 * step + 10,
            "mlp@0.1": 100.0 * step + (1 if shop == "a" else -1),
            "mlp@0.5": 100.0 * step + 10,
            "mlp@0.9": 100.0 * step + 20,
            REFERENCE: 100.0 * step - 20,
            BAR: 100.0 * step + 5,
        }
        for shop in ("a", "b")
        for step in range(1, 6)
    ]
    systems = {"mlp": (0.1, 0.5, 0.9), REFERENCE: (), BAR: ()}
    return Forecasts(pa.Table.from_pylist(rows), systems, ("shop",))


def test_scores_by_group_equal_the_hand_computed_example() -> None:
    """Each group has its own rows, and a hole counts in none of them."""
    found = {
        (row["by"], row["group"]): row
        for row in score_table(forecasts_by_hand()).to_pylist()
        if row["system"] == "mlp"
    }
    counted = {key: row["rows"] for key, row in found.items()}
    assert {
        ("all", ""): 9,
        ("step", "1"): 2,
        ("step", "2-4"): 6,
        ("step", "5"): 1,
        ("special", "yes"): 2,
        ("special", "no"): 7,
        ("shop", "a"): 5,
        ("shop", "b"): 4,
    } == counted
    assert 10 == pytest.approx(found["step", "2-4"]["wmae"])
    assert 10 / 300 == pytest.approx(found["special", "yes"]["wape"])
    assert (0.0, 1.0) == (found["shop", "a"]["coverage"], found["shop", "b"]["coverage"])


def test_a_group_without_a_label_has_no_scores() -> None:
    """Of a shop that nothing is known of there is no row; the others keep theirs."""
    made = forecasts_by_hand()
    label = [
        math.nan if shop == "b" else known
        for shop, known in zip(*(made.table[n].to_pylist() for n in ("shop", "label")), strict=True)
    ]
    column = made.table.schema.get_field_index("label")
    table = made.table.set_column(column, "label", pa.array(label))
    found = score_table(Forecasts(table, made.systems, made.entities)).to_pylist()
    assert ["a"] * 3 == [row["group"] for row in found if row["by"] == "shop"]


def test_a_dot_is_drawn_where_there_is_a_number() -> None:
    """What is not known has neither a dot nor a tip."""
    plot = Plot([0, 1], [0, 1])
    plot.dots([(0, math.nan), (1, 0.5)], "label", ["nobody knows", "half"])
    drawn = plot.svg("sales")
    assert 1 == drawn.count("<circle")
    assert ("half" in drawn, "nobody knows" in drawn) == (True, False)


def test_leaderboard_marks_what_is_no_better_than_growth() -> None:
    """The least error comes first; a model that a simple forecast beats is told so."""
    entries = leaderboard(score_table(forecasts_by_hand()))
    assert [BAR, "mlp", REFERENCE] == [entry.system for entry in entries]
    assert [False] * 3 == [entry.beats_growth for entry in entries]
    assert [0.75, 0.5, 0.0] == pytest.approx([entry.improvement for entry in entries])


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        (1, ["1"]),
        (3, ["1", "2-3"]),
        (9, ["1", "2-4", "5-8", "9"]),
        (40, ["1", "2-4", "5-8", "9-40"]),
    ],
)
def test_bands_end_with_the_horizon(horizon: int, expected: list[str]) -> None:
    """1, 2-4, 5-8 and the rest, as far as there are steps."""
    names = band_of(np.arange(1, horizon + 1))
    assert expected == list(dict.fromkeys(names))


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory, demand: Project) -> Project:
    """The shared project with a recipe of two origins, backtested."""
    root = tmp_path_factory.mktemp("rolling") / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    recipe = (root / "recipes" / "smoke.yaml").read_text()
    recipe = recipe.replace("name: smoke", "name: rolling")
    recipe = recipe.replace("split:\n", "backtest: {origins: 2, every: 6}\nsplit:\n")
    assert "rows: [500, null]" in recipe
    recipe = recipe.replace("rows: [500, null]", "rows: [1280, null]")  # as there are today
    (root / "recipes" / "rolling.yaml").write_text(recipe)
    project = Project(root, Settings())
    project.backtest("rolling")
    return project


def test_each_origin_has_a_model_of_its_own(rolling: Project) -> None:
    """Two bundles on two snapshots, whose test cut-offs are six weeks apart; all labels pooled."""
    result = rolling.backtest("rolling")
    cutoffs = [np.datetime64(origin[:10]) for origin in result.origins]
    assert [np.timedelta64(42, "D")] == [b - a for a, b in pairwise(cutoffs)]
    manifest = json.loads((result.path / "manifest.json").read_text())
    origins = [rolling.artifacts / "origins" / name for name in manifest["forecasts"]]
    bundles = {json.loads((path / "manifest.json").read_text())["bundle"] for path in origins}
    assert 2 == len(bundles)
    pooled = sum(pq.read_metadata(path / FILE).num_rows for path in origins)
    assert pooled == pq.read_metadata(result.path / FILE).num_rows


def test_a_second_backtest_makes_nothing(rolling: Project) -> None:
    """Snapshots, bundles, forecasts and scores are found; no file is written anew."""

    def state() -> dict[str, int]:
        kept = ("snapshots", "bundles", "runs", "origins", "backtests")
        return {
            str(path): path.stat().st_mtime_ns
            for name in kept
            for path in (rolling.artifacts / name).rglob("*")
            if path.is_file()
        }

    before, first = state(), rolling.backtest("rolling")
    assert first.cached
    assert before == state()


def test_a_past_origin_is_not_what_is_served(rolling: Project) -> None:
    """The recipe's last snapshot is that of the newest origin; what is served stays what it was."""
    newest = rolling.build("rolling")
    assert newest.fingerprint == rolling.snapshot("rolling").fingerprint
    assert not rolling.bundle_pointer("rolling").exists()
    assert newest.fingerprint == rolling.train("rolling").lineage["snapshot"]


def test_what_is_expected_of_today_is_not_required_of_a_past_origin(rolling: Project) -> None:
    """Its smaller training set was made all the same, but is not what `build --as-of` gives."""
    first = datetime.fromisoformat(rolling.backtest("rolling").origins[0])
    with pytest.raises(ExpectationError, match="rows"):
        rolling.build("rolling", as_of=first + timedelta(weeks=8))


def test_no_label_after_an_origin_moves_what_it_said(rolling: Project, tmp_path: Path) -> None:
    """With every later sale made absurd in the raw tables, the forecasts of an origin are equal."""
    root, first = tmp_path / "demand", rolling.backtest("rolling").origins[0][:10]
    shutil.copytree(rolling.root, root, symlinks=True)
    recipe = (root / "recipes" / "rolling.yaml").read_text()
    recipe = recipe.replace("{origins: 2, every: 6}", f"{{origins: [{first}]}}")
    (root / "recipes" / "rolling.yaml").write_text(recipe)
    tables = []
    for corrupted in (False, True):
        if corrupted:
            corrupt_sales_after(root, np.datetime64(first))
        path = Project(root, Settings()).backtest("rolling").path
        tables.append(pq.read_table(path / FILE))
    before, after = tables
    assert before.num_rows == after.num_rows > 0
    systems = [name for name in before.column_names if name not in ("label", "weight")]
    assert "lightgbm" in systems
    for name in systems:
        assert before[name].equals(after[name]), name
    assert not before["label"].equals(after["label"])


def corrupt_sales_after(root: Path, day: np.datetime64) -> None:
    """Change every sale of a week after `day` in the project's raw tables."""
    path = root / "data" / "raw" / "sales.parquet"
    table = pq.read_table(path)
    sold = table["weekly_sales"].to_numpy().copy()
    later = table["date"].to_numpy().astype("datetime64[D]") > day
    assert later.any()
    sold[later] = 1e5 - 3 * sold[later]
    place = table.schema.get_field_index("weekly_sales")
    path.unlink()
    pq.write_table(table.set_column(place, "weekly_sales", pa.array(sold)), path)


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ("{origins: [2011-11-12]}", UsageError, "has 2011-11-12, which is no cut-off"),
        ("{origins: [2010-05-07]}", DataError, "has 2010-05-07: the data has"),
        ("{origins: 40, every: 9}", DataError, "the first of 40 origins lies 351 periods back"),
        ("{origins: 0}", RecipeError, "backtest.origins"),
    ],
)
def test_origins_that_cannot_be_are_told(
    demand: Project, tmp_path: Path, asked: str, error: type[Exception], told: str
) -> None:
    """One line says which origin, before anything is built."""
    recipe = (demand.root / "recipes" / "smoke.yaml").read_text()
    path = tmp_path / "asked.yaml"
    path.write_text(recipe.replace("split:\n", f"backtest: {asked}\nsplit:\n"))
    with pytest.raises(error, match=told):
        demand.backtest(path)


def test_labels_that_all_weigh_nothing_are_refused(tmp_path: Path) -> None:
    """There is no weighted error then."""
    made = forecasts_by_hand()
    column = made.table.schema.get_field_index("weight")
    weightless = made.table.set_column(column, "weight", pa.array(np.zeros(10)))
    with pytest.raises(DataError, match="weigh nothing"):
        leaderboard(score_table(Forecasts(weightless, made.systems, made.entities)))


def test_report_shows_names_as_text_and_asks_nothing_of_the_internet() -> None:
    """A series may be called `<script>`; and one without history has a chart all the same."""
    made = forecasts_by_hand()
    shop = pa.array(
        ["<script>" if name == "a" else name for name in made.table["shop"].to_pylist()]
    )
    forecasts = Forecasts(made.table.set_column(0, "shop", shop), made.systems, made.entities)
    scores = score_table(forecasts)
    labels = made.table.select(["shop", "event_timestamp", "label"]).slice(0, 1)
    page = as_page(Report("r", "sold", BAR, leaderboard(scores), forecasts, scores, labels))
    assert "&lt;script&gt;" in page
    assert [] == re.findall(r"<script|https?://|@import|url\(", page)
    assert "no better than seasonal-naive-growth" in page
    assert 2 + 1 + 2 <= page.count("<svg")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_report_opens_in_a_browser_without_an_error(rolling: Project, tmp_path: Path) -> None:
    """Chromium draws all charts and has nothing to complain of."""
    quiet = "no-sandbox disable-gpu no-first-run disable-background-networking disable-sync"
    page = rolling.backtest("rolling").page
    opened = subprocess.run(
        [
            *("chromium", "--headless", f"--user-data-dir={tmp_path}", "--enable-logging=stderr"),
            *(f"--{option}" for option in quiet.split()),
            *("--disable-component-update", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in opened.stderr
    assert page.read_text().count("<svg") == opened.stdout.count("<svg") > 4
    assert 'class="band c0"' in opened.stdout
