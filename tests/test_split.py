from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feastrain.dataset.labels import lay_out
from feastrain.dataset.spine import make_spine
from feastrain.dataset.split import Fold, backtest_folds, rolling_origins, split_cutoffs
from feastrain.dataset.split import Split as Cutoffs
from feastrain.errors import DataError, UsageError
from feastrain.recipe import Features, Label, Recipe, Split
from feastrain.recipe.data import Backtest


def _recipe(horizon: int, validation: int, test: int, extra: int, frequency: str = "1d") -> Recipe:
    return Recipe(
        name="law",
        entities=("series",),
        frequency=frequency,
        horizon=horizon,
        label=Label(source="labels.parquet", column="sales"),
        features=Features(repo="repo", service="service", roles={}),
        split=Split(validation_cutoffs=validation, test_cutoffs=test, embargo=horizon + extra),
    )


sizes = st.integers(1, 12)


@given(
    horizon=sizes, validation=sizes, test=sizes, extra=st.integers(0, 5), spare=st.integers(1, 40)
)
def test_labels_of_a_part_are_known_before_the_next(
    horizon: int, validation: int, test: int, extra: int, spare: int
) -> None:
    """The last label of each part closes at or before the first cut-off of the next."""
    recipe = _recipe(horizon, validation, test, extra)
    least = 2 * (horizon + extra) + horizon + validation + test - 2
    split = split_cutoffs(least + spare, recipe)
    assert split.train[-1] + horizon <= split.validation[0]
    assert split.validation[-1] + horizon <= split.test[0]
    assert split.test[-1] + horizon == least + spare - 1
    assert (spare, validation, test) == (len(split.train), len(split.validation), len(split.test))


@given(horizon=sizes, validation=sizes, test=sizes, extra=st.integers(0, 5))
def test_data_too_short_names_what_is_needed(
    horizon: int, validation: int, test: int, extra: int
) -> None:
    """One period less than the least is refused, and the least is named."""
    recipe = _recipe(horizon, validation, test, extra)
    least = 2 * (horizon + extra) + horizon + validation + test - 2
    with pytest.raises(DataError, match=f"needs at least {least + 1}"):
        split_cutoffs(least, recipe)
    split_cutoffs(least + 1, recipe)


@given(warm_up=st.integers(0, 9), spare=st.integers(1, 9))
def test_cutoffs_that_warm_up_train_nothing(warm_up: int, spare: int) -> None:
    """The first that trains comes after them, and data that ends before it is refused."""
    recipe = _recipe(horizon=3, validation=2, test=1, extra=0)
    asked = recipe.split.model_copy(update={"warm_up": warm_up})
    recipe = recipe.model_copy(update={"split": asked})
    split = split_cutoffs(10 + warm_up + spare, recipe)
    assert range(warm_up, warm_up + spare) == split.train
    assert {"unused"} >= {split.part_of(position) for position in range(warm_up)}
    remedy = "shorten the horizon or the split" + f", or its warm_up of {warm_up}" * (warm_up > 0)
    with pytest.raises(DataError, match=f"needs at least {11 + warm_up}: {remedy}$"):
        split_cutoffs(10 + warm_up, recipe)


@given(
    parts=st.tuples(sizes, sizes, sizes, st.integers(0, 5)),
    origins=st.integers(1, 5),
    step=st.integers(1, 6),
    spare=st.integers(0, 20),
)
def test_each_origin_is_the_split_of_its_day(
    parts: tuple[int, int, int, int], origins: int, step: int, spare: int
) -> None:
    """A fold is the recipe's split of the data that was there `step` periods before the next."""
    recipe = _recipe(*parts)
    least = 2 * recipe.embargo + sum(parts[:3]) - 1
    periods = least + (origins - 1) * step + spare
    folds = rolling_origins(periods, recipe, origins, step)
    moved = range((origins - 1) * step, -1, -step)
    assert [split_cutoffs(periods - back, recipe) for back in moved] == folds
    for earlier, later in pairwise(folds):
        assert later.test.start - earlier.test.start == step
        assert len(later.train) - len(earlier.train) == step


def test_origins_that_do_not_fit_are_told() -> None:
    """The oldest origin is named when the data is too short for it; none is no wish."""
    recipe = _recipe(horizon=3, validation=2, test=1, extra=0)
    with pytest.raises(DataError, match=r"the first of 4 origins lies 6 periods back: .* needs"):
        rolling_origins(15, recipe, origins=4, step=2)
    for origins, step in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="both must be at least one"):
            rolling_origins(30, recipe, origins, step)


def _asking(recipe: Recipe, **backtest: object) -> Recipe:
    return recipe.model_copy(update={"backtest": Backtest.model_validate(backtest)})


@given(
    parts=st.tuples(sizes, sizes, sizes, st.integers(0, 5)),
    origins=st.integers(1, 5),
    step=st.integers(1, 6),
    spare=st.integers(0, 20),
)
def test_folds_are_asked_for_by_number_or_by_date(
    parts: tuple[int, int, int, int], origins: int, step: int, spare: int
) -> None:
    """The dates may come in any order, and twice; a fold ends with its last label."""
    recipe = _recipe(*parts)
    periods = 2 * recipe.embargo + sum(parts[:3]) - 1 + (origins - 1) * step + spare
    names = [f"day {position:03d}" for position in range(periods)]
    splits = rolling_origins(periods, recipe, origins, step)
    moved = range((origins - 1) * step, -1, -step)
    expected = [Fold(cut, periods - 1 - back) for cut, back in zip(splits, moved, strict=True)]
    assert expected == backtest_folds(names, _asking(recipe, origins=origins, every=step))
    dates = [names[cut.test.start] for cut in splits]
    assert expected == backtest_folds(names, _asking(recipe, origins=[*dates[::-1], *dates]))


@pytest.mark.parametrize(
    ("periods", "origin", "error", "told"),
    [
        (30, "day 19", UsageError, "has day 19, which is no .* newest such is day 18, and others"),
        (30, "day 3", DataError, "has day 3: the data has 15 periods, .* needs at least 16"),
        (10, "day 8", DataError, "^the data has 10 periods, .* needs at least 16"),
    ],
)
def test_a_date_that_begins_no_test_part_is_told(
    periods: int, origin: str, error: type[Exception], told: str
) -> None:
    """Its labels are not all there, too few lie before it, or the data is too short for any."""
    recipe = _asking(_recipe(horizon=2, validation=1, test=10, extra=0), origins=[origin])
    with pytest.raises(error, match=told):
        backtest_folds([f"day {position}" for position in range(periods)], recipe)


FREQUENCIES = {
    "1h": timedelta(hours=1),
    "12h": timedelta(hours=12),
    "1d": timedelta(days=1),
    "1w": timedelta(weeks=1),
}


@st.composite
def ragged(draw: st.DrawFn) -> tuple[Recipe, pa.Table]:
    """A recipe and the labels of a few series that begin late, stop early and skip periods."""
    frequency = draw(st.sampled_from(sorted(FREQUENCIES)))
    sized = st.integers(1, 4)
    recipe = _recipe(draw(sized), draw(sized), draw(sized), draw(st.integers(0, 3)), frequency)
    needed = 2 * recipe.embargo + recipe.horizon + recipe.split.validation_cutoffs
    needed += recipe.split.test_cutoffs
    periods = needed + draw(st.integers(0, 12))
    observed = np.array(
        [
            [0, *draw(st.lists(st.booleans(), min_size=periods - 2, max_size=periods - 2)), 0]
            for _ in range(draw(st.integers(1, 4)))
        ],
        dtype=bool,
    )
    observed[0, [0, -1]] = True  # some series begins and some series ends the grid
    series, period = np.nonzero(observed)
    start = datetime(2024, 1, 31, 23, tzinfo=UTC)
    stamps = [start + int(position) * FREQUENCIES[frequency] for position in period]
    table = pa.table(
        {
            "series": series,
            "event_timestamp": pa.array(stamps, pa.timestamp("us", tz="UTC")),
            "label": pa.array(np.ones(len(series))),
            "weight": pa.array(np.ones(len(series))),
        }
    )
    return recipe, table


def _spans(
    recipe: Recipe, table: pa.Table, split: Cutoffs
) -> dict[str, list[tuple[datetime, datetime]]]:
    """Cut-off and close of the last observed label of every row, by part."""
    spine = make_spine(lay_out(table, recipe), split, recipe.horizon)
    spans: dict[str, list[tuple[datetime, datetime]]] = {}
    for row in spine.to_pylist():
        steps = [s for s in range(1, recipe.horizon + 1) if row[f"label_{s}"] is not None]
        closes = row["event_timestamp"] + max(steps) * recipe.frequency
        spans.setdefault(row["split"], []).append((row["event_timestamp"], closes))
    return spans


@settings(deadline=None)
@given(drawn=ragged(), origins=st.integers(1, 3), step=st.integers(1, 3))
def test_no_label_of_a_part_closes_after_the_next_part_begins(
    drawn: tuple[Recipe, pa.Table], origins: int, step: int
) -> None:
    """By real timestamps, for any frequency, horizon, embargo and ragged series, in every fold."""
    recipe, table = drawn
    panel = lay_out(table, recipe)
    try:
        folds = rolling_origins(len(panel.periods), recipe, origins, step)
    except DataError:  # too short for that many origins, but never for one
        folds = rolling_origins(len(panel.periods), recipe, 1, step)
    for fold in folds:
        spans = _spans(recipe, table, fold)
        present = [part for part in ("train", "validation", "test") if part in spans]
        for earlier, later in pairwise(present):
            known = max(closes for _, closes in spans[earlier])
            begins = min(cutoff for cutoff, _ in spans[later])
            assert known <= begins
        assert all(closes <= panel.last_period for part in present for _, closes in spans[part])
        first = panel.periods[fold.validation[0]].astype("datetime64[us]").item()
        assert all(closes <= first.replace(tzinfo=UTC) for _, closes in spans.get("train", []))


def test_every_other_cutoff_is_unused() -> None:
    """Cut-offs in the embargo, or with labels still to come, belong to no part."""
    split = split_cutoffs(30, _recipe(horizon=3, validation=2, test=1, extra=0))
    parts = [split.part_of(position) for position in range(30)]
    expected = ["train"] * 20 + ["unused"] * 2 + ["validation"] * 2 + ["unused"] * 2 + ["test"]
    assert expected + ["unused"] * 3 == parts


def test_period_is_read_and_written_alike() -> None:
    """A frequency survives a round trip through its text."""
    recipe = _recipe(1, 1, 1, 0)
    assert timedelta(days=1) == recipe.frequency
    assert "1d" == recipe.data_section()["frequency"]
