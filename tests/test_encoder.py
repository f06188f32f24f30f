import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feastrain.errors import DataError, RecipeError
from feastrain.models.encoder import CLIP, Encoder, _side_by_side, fit
from tiny_snapshot import COLUMNS, HORIZON, tiny_tables

ROWS, KNOWN = tiny_tables()
TRAIN = ROWS.slice(0, 300)
ENCODER = fit(COLUMNS, TRAIN, KNOWN)

numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


def _with(table: pa.Table, name: str, values: object) -> pa.Table:
    position = table.schema.get_field_index(name)
    return table.set_column(position, name, pa.array(values, type=table.schema.field(name).type))


@settings(max_examples=50)
@given(st.lists(numbers, min_size=5, max_size=5), st.lists(numbers, min_size=5, max_size=5))
def test_no_input_makes_an_output_that_is_no_number(
    sold: list[float | None], mean: list[float | None]
) -> None:
    """Whatever a column holds, every encoded number is finite and within the clip."""
    rows = _with(_with(ROWS.slice(0, 5), "sold", sold), "mean", mean)
    encoded = ENCODER.encode(rows, KNOWN)
    for array in (encoded.row_NF, encoded.step_NHS, encoded.known_GHK):
        assert np.isfinite(array).all()
    assert np.abs(encoded.row_NF[:, 1:]).max() <= CLIP
    assert np.isfinite(encoded.unit_N).all()
    assert (encoded.unit_N > 0).all()


def test_json_round_trip_encodes_alike() -> None:
    """An encoder that travelled through JSON text encodes every row the same."""
    travelled = Encoder.from_json(json.loads(json.dumps(ENCODER.to_json())))
    assert travelled == ENCODER
    before, after = (encoder.encode(ROWS, KNOWN) for encoder in (ENCODER, travelled))
    for name, array in vars(before).items():
        np.testing.assert_array_equal(array, getattr(after, name))


def test_unknown_category_is_zero() -> None:
    """A shop that was never trained on has code 0, and the known ones do not."""
    encoded = ENCODER.encode(_with(ROWS.slice(0, 2), "shop", [1, 999]), KNOWN)
    assert [1, 0] == encoded.category_NC[:, 0].tolist()


def test_an_event_that_is_not_categorical_is_read_by_no_model() -> None:
    """It stays among the columns, so that it is told, and no input of a model holds it."""
    columns = COLUMNS.model_copy(update={"categorical": ("shop", "kind")})
    with pytest.raises(RecipeError, match="holiday"):
        fit(columns, TRAIN, KNOWN)
    encoder = fit(columns, TRAIN, KNOWN, "holiday")
    renamed = _with(KNOWN, "holiday", ["another"] * len(KNOWN))
    before, after = (encoder.encode(ROWS, known) for known in (KNOWN, renamed))
    for name, array in vars(before).items():
        np.testing.assert_array_equal(array, getattr(after, name))
    assert ("season", "holiday") == encoder.columns.known_ahead


def test_order_of_rows_is_kept() -> None:
    """Shuffled rows give the shuffled encoding, each with its own known-ahead rows."""
    order = np.random.default_rng(0).permutation(len(ROWS))
    whole, mixed = ENCODER.encode(ROWS, KNOWN), ENCODER.encode(ROWS.take(pa.array(order)), KNOWN)
    np.testing.assert_array_equal(whole.row_NF[order], mixed.row_NF)
    np.testing.assert_array_equal(whole.group_N[order], mixed.group_N)
    np.testing.assert_array_equal(whole.step_NHS[order], mixed.step_NHS)


def test_labels_are_in_units_of_the_row() -> None:
    """A label times the row's unit is the label, and one not observed weighs nothing."""
    label_NH, weight_NH = ENCODER.labels(ROWS)
    expected = np.column_stack(
        [ROWS[f"label_{h}"].to_numpy(zero_copy_only=False) for h in (1, 2, 3)]
    )
    seen = np.isfinite(expected)
    restored = label_NH * ENCODER.unit(ROWS)[:, None]
    np.testing.assert_allclose(restored[seen], expected[seen], rtol=1e-5)
    np.testing.assert_array_equal(weight_NH > 0, seen)


def test_size_of_a_series_only_shows_in_its_unit() -> None:
    """A shop a thousand times as large differs in the first column, its log unit, alone."""
    row = ROWS.slice(1, 1)
    large = row
    for name in ("sold", "mean", *(f"last_year_{h}" for h in range(1, HORIZON + 1))):
        large = _with(large, name, [row[name][0].as_py() * 1000])
    before, after = ENCODER.encode(row, KNOWN), ENCODER.encode(large, KNOWN)
    np.testing.assert_allclose(before.row_NF[:, 1:], after.row_NF[:, 1:], rtol=1e-5)
    np.testing.assert_allclose(before.step_NHS, after.step_NHS, rtol=1e-5)
    assert after.row_NF[0, 0] > before.row_NF[0, 0]


def test_a_constant_column_stays_small() -> None:
    """Equal numbers whose deviation is a rounding error do not blow another value up."""
    constant = _with(TRAIN, "weather", [0.1] * len(TRAIN))
    encoder = fit(COLUMNS, constant, KNOWN)
    other = _with(ROWS.slice(0, 1), "weather", [0.2])
    assert np.abs(encoder.encode(other, KNOWN).row_NF[0, -1]) < 1


def test_text_that_is_not_categorical_is_refused() -> None:
    """A text feature outside `categorical` is named, with the key that would take it."""
    columns = COLUMNS.model_copy(update={"categorical": ("shop", "holiday")})
    with pytest.raises(RecipeError, match="'kind' is text; list it in"):
        fit(columns, TRAIN, KNOWN)


def test_rows_without_known_ahead_rows_are_refused() -> None:
    """A cut-off that the known-ahead table does not have is counted."""
    with pytest.raises(DataError, match="8 rows have no known-ahead rows"):
        ENCODER.encode(ROWS, KNOWN.slice(HORIZON))


def test_known_ahead_rows_out_of_step_are_refused() -> None:
    """Known-ahead rows must be H steps in order for each cut-off."""
    with pytest.raises(DataError, match="are not 3 steps in order"):
        ENCODER.encode(ROWS, KNOWN.slice(1))


@given(
    count=st.integers(0, 4),
    kinds=st.lists(
        st.sampled_from([pa.float64(), pa.float32(), pa.int64(), pa.uint8(), pa.bool_()]),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_columns_side_by_side_are_the_numbers_of_each(
    count: int, kinds: list[pa.DataType], data: st.DataObject
) -> None:
    """Columns of any numeric type, with nulls, read together are what each is when read alone."""
    values = st.lists(st.sampled_from([None, 0, 1, 200]), min_size=count, max_size=count)
    table = pa.table(
        {
            f"column {place}": pa.array(
                [None if v is None else bool(v) for v in drawn] if kind == pa.bool_() else drawn,
                type=kind,
            )
            for place, kind in enumerate(kinds)
            for drawn in [data.draw(values)]
        }
    )
    alone = [table[name].cast(pa.float64()).to_numpy() for name in table.column_names]
    np.testing.assert_array_equal(_side_by_side(table, table.column_names), np.column_stack(alone))


def test_no_training_row_is_refused() -> None:
    """There is nothing to learn a mean or a vocabulary from."""
    with pytest.raises(DataError, match="no training row to fit an encoder on; shorten the split"):
        fit(COLUMNS, TRAIN.slice(0, 0), KNOWN)
