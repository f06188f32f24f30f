"""The Temporal Fusion Transformer: what it may see, and that its short cuts change nothing."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from feastrain.errors import RecipeError
from feastrain.jobs.train import train
from feastrain.models import encoder as encoders
from feastrain.models.bundle import load_bundle
from feastrain.models.tft import TFT, VariableSelection, architecture, variables
from feastrain.models.windows import WindowBatch, WindowRows
from feastrain.recipe import TFTModel
from gangs import same_weights
from tiny_snapshot import COLUMNS, tiny_recipe, tiny_snapshot, tiny_tables
from tiny_snapshot import TFT as TFT_RECIPE

ROWS, KNOWN = tiny_tables()
ENCODER = encoders.fit(COLUMNS, ROWS, KNOWN)
CONTEXT = 6
WEIGHTS = ("static_BV", "past_BLV", "future_BHV")


@pytest.fixture
def model() -> TFT:
    torch.manual_seed(0)
    recipe = TFTModel(kind="tft", context=CONTEXT, hidden=8, heads=2, dropout=0.2)
    return TFT(**architecture(recipe, ENCODER))


@pytest.fixture
def batch() -> WindowBatch:
    rows = WindowRows(ENCODER, ROWS, KNOWN, ROWS, context=CONTEXT, frequency=timedelta(weeks=1))
    return rows.batch(torch.tensor([2, 30, 100, 479]))


def test_quantiles_do_not_cross(model: TFT, batch: WindowBatch) -> None:
    """One number for each row, step and quantile, increasing along the quantiles."""
    quantile_BHQ = model.eval()(batch)
    assert (4, 3, 3) == quantile_BHQ.shape
    assert bool((quantile_BHQ.diff(dim=-1) > 0).all())


def test_steps_see_no_later_step(model: TFT, batch: WindowBatch) -> None:
    """What is known ahead of a later period moves no earlier step, and does move its own."""
    before = model.eval()(batch)
    known_BHK = batch.known_BHK.clone()
    known_BHK[:, 1] += 3
    after = model(replace(batch, known_BHK=known_BHK))
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_periods_before_a_series_began_do_not_count(model: TFT, batch: WindowBatch) -> None:
    """Whatever stands at places without a row, the forecast is the same."""
    assert 0 == batch.valid_BL[0, 0]
    before = model.eval()(batch)
    past_BLO = torch.where(batch.valid_BL.unsqueeze(-1) == 0, 7.0, batch.past_BLO)
    assert torch.equal(before, model(replace(batch, past_BLO=past_BLO)))
    assert not torch.equal(before, model(replace(batch, past_BLO=batch.past_BLO.nan_to_num() + 7)))


def test_the_whole_look_back_is_read(model: TFT, batch: WindowBatch) -> None:
    """The oldest period of a full window moves the forecast."""
    before = model.eval()(batch)
    past_BLO = batch.past_BLO.clone()
    past_BLO[1, 0] += 5
    after = model(replace(batch, past_BLO=past_BLO))
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2:], after[2:])


def test_recomputed_activations_give_the_same_gradients(model: TFT, batch: WindowBatch) -> None:
    """With and without gradient checkpointing, dropout included, gradients are equal."""
    gradients = []
    for recompute in (False, True):
        model.train().recompute = recompute
        torch.manual_seed(1)
        model.zero_grad()
        model(batch).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_reduced_precision_is_close(model: TFT, batch: WindowBatch) -> None:
    """Under bfloat16 autocast forecasts are those of single precision, roughly, and learn."""
    expected = model.eval()(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = model(batch)
    torch.testing.assert_close(expected, actual.float(), rtol=0.05, atol=0.1)
    actual.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_learns(model: TFT, batch: WindowBatch) -> None:
    """No parameter is left without a gradient."""
    model(batch).square().sum().backward()
    assert [] == [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ]


def test_a_model_without_categories_waits_for_no_gradient() -> None:
    """Where all is numeric, every parameter that ranks wait for gets a gradient."""
    select = VariableSelection(2, [], 4, dropout=0.1)
    select(torch.randn(3, 2, 2), torch.zeros(3, 2, 0, dtype=torch.int64))[0].sum().backward()
    assert [] == [
        name for name, p in select.named_parameters() if p.requires_grad and p.grad is None
    ]


def test_weights_of_an_explanation_are_shares(model: TFT, batch: WindowBatch) -> None:
    """Selection weights and attention add up to 1; nothing attends to a place without a row."""
    explained = model.eval().explain(batch)
    for weights in vars(explained).values():
        torch.testing.assert_close(torch.ones(weights.shape[:-1]), weights.sum(-1))
    padded = torch.cat([batch.valid_BL == 0, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    assert 0 == explained.attention_BHT.masked_select(padded.unsqueeze(1).expand(4, 3, 9)).sum()
    assert 0 == explained.attention_BHT[:, 0, -2:].sum()


def test_variables_are_named_in_the_order_they_are_read(model: TFT, batch: WindowBatch) -> None:
    """The column of a batch under each name holds that feature, and each weight has a name."""
    names, explained = variables(ENCODER), model.eval().explain(batch)
    assert ("log_unit", "shop", "kind") == names.static
    assert ("last_year", "holiday") == names.future[-2:]
    assert (3, 5, 3) == tuple(len(of) for of in (names.static, names.past, names.future))
    for of, weights in zip((names.static, names.past, names.future), WEIGHTS, strict=True):
        assert len(of) == getattr(explained, weights).shape[-1]
    past_LV = torch.cat([batch.past_BLO, batch.past_known_BLK], dim=-1)[1]
    row = ROWS.slice(30, 1).to_pylist()[0]
    read = dict(zip(names.past, past_LV[-1].tolist(), strict=False))
    scales = {number.name: number for number in (*ENCODER.observed_numbers, *ENCODER.known)}
    unit = float(batch.unit_B[1])
    assert row["sold"] / unit == pytest.approx(read["sold"], rel=1e-5)
    assert row["mean"] / unit == pytest.approx(read["mean"], rel=1e-5)
    expected = (row["weather"] - scales["weather"].mean) / scales["weather"].deviation
    assert expected == pytest.approx(read["weather"], rel=1e-4)
    assert "season" == names.past[3] == names.future[0]


def test_a_number_is_read_as_its_embedding_through_a_gated_residual_network() -> None:
    """The composed affine maps give what the paper's embedding and network give, written out."""
    torch.manual_seed(2)
    width = 4
    select = VariableSelection(1, [], width, dropout=0.0).eval()
    weight_W, bias_W = torch.randn(width), torch.randn(width)
    first_WW, constant_W = torch.randn(width, width), torch.randn(width)
    second_WW, gate_WX = torch.randn(width, width), torch.randn(width, 2 * width)
    with torch.no_grad():
        select.number_in[0, 0], select.number_in[0, 2] = (
            weight_W @ first_WW,
            bias_W @ first_WW + constant_W,
        )
        select.number_skip[0, 0], select.number_skip[0, 2] = weight_W, bias_W
        select.gate[0] = second_WW @ gate_WX
    number_B11 = torch.randn(5, 1, 1)
    embedded_BW = number_B11[:, 0] * weight_W + bias_W
    inner_BW = functional.elu(embedded_BW @ first_WW + constant_W) @ second_WW
    expected = functional.layer_norm(
        embedded_BW + functional.glu(inner_BW @ gate_WX, dim=-1), (width,)
    )
    actual, _ = select(number_B11, torch.zeros(5, 1, 0, dtype=torch.int64))
    torch.testing.assert_close(expected, actual[:, 0])


def test_a_missing_number_is_no_zero(model: TFT, batch: WindowBatch) -> None:
    """What is missing is told apart from a number that is zero."""
    before = model.eval()(batch)
    known = batch.known_BHK.clone()
    known[0, 0, 0] = torch.nan
    zero = batch.known_BHK.clone()
    zero[0, 0, 0] = 0
    missing = model(replace(batch, known_BHK=known))
    assert bool(missing.isfinite().all())
    assert not torch.equal(missing, model(replace(batch, known_BHK=zero)))
    assert not torch.equal(missing, before)


def test_a_recipe_with_nothing_known_ahead_is_refused() -> None:
    """A decoder that reads nothing is refused in one line that says what to do."""
    columns = COLUMNS.model_copy(update={"known_ahead": (), "stepped": ()})
    encoder = encoders.fit(columns, ROWS, KNOWN.select(["event_timestamp", "step"]))
    with pytest.raises(RecipeError, match="give a view the role known_ahead"):
        architecture(TFTModel(kind="tft"), encoder)


@pytest.mark.distributed
def test_two_processes_land_a_bundle_that_learned(tmp_path: Path) -> None:
    """Under torchrun a TFT beats a constant, and two runs of one seed are one model."""
    snapshot = tiny_snapshot(tmp_path)
    bundles = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        made = train(tiny_recipe(folder, 15, TFT_RECIPE), snapshot, folder / "artifacts")
        bundles.append(load_bundle(made.path))
    labels = snapshot.rows("validation")["label_1"].drop_null().to_numpy()
    assert bundles[0].metrics["validation_wmae"] < 0.4 * abs(labels).mean()
    assert same_weights(bundles[0].path, bundles[1].path)


def test_a_bundle_forecasts_from_rows_and_their_past(tmp_path: Path) -> None:
    """Rows asked for alone with their past get the forecasts they get among all others."""
    snapshot = tiny_snapshot(tmp_path)
    recipe = tiny_recipe(tmp_path, 1, TFT_RECIPE)
    bundle = load_bundle(train(recipe, snapshot, tmp_path / "artifacts").path)
    rows, known, past = snapshot.rows("test"), snapshot.known(), snapshot.rows()
    every = bundle.forecast(rows, known, past)
    some = bundle.forecast(rows.slice(3, 2), known, past.slice(0, 60))
    np.testing.assert_allclose(every[3:5], some, rtol=1e-4)
    assert not np.allclose(every, bundle.forecast(rows, known))
