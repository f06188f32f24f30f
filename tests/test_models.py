import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feastrain.artifacts import publishing
from feastrain.errors import ArtifactError
from feastrain.models.batches import Rows, in_order, shuffled, steps_per_epoch
from feastrain.models.bundle import load_bundle, write_bundle
from feastrain.models.encoder import fit
from feastrain.models.losses import pinball_loss
from feastrain.models.mlp import MLP, architecture, increasing
from feastrain.recipe import MLPModel
from tiny_snapshot import COLUMNS, tiny_tables

ROWS, KNOWN = tiny_tables()
ENCODER = fit(COLUMNS, ROWS, KNOWN)
QUANTILES = (0.05, 0.1, 0.5, 0.9)


def _model() -> tuple[dict[str, object], MLP]:
    torch.manual_seed(0)
    made = architecture(MLPModel(hidden=(16, 8), embedding=2, quantiles=QUANTILES), ENCODER)
    model = MLP(**made)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=3)
    return made, model.eval()


def test_pinball_loss_equals_the_hand_computed_example() -> None:
    """Too low by 10 at q = 0.9 costs 9, too high by 10 costs 1; weights multiply and add up."""
    label = torch.tensor([[10.0, 10.0, 99.0]])
    weight = torch.tensor([[1.0, 5.0, 0.0]])
    forecast = torch.tensor([[[0.0], [20.0], [0.0]]])
    summed, total = pinball_loss(label, weight, forecast, torch.tensor([0.9]))
    assert (9.0 + 5 * 1.0, 6.0) == (pytest.approx(summed.item(), rel=1e-6), total.item())


@given(st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5), st.integers(0, 4))
def test_quantiles_increase_and_the_median_is_free(raw: list[float], middle: int) -> None:
    """Any five numbers become an increasing sequence around the one in the middle."""
    made = increasing(torch.tensor([[raw]]), middle)[0, 0]
    assert (made[1:] >= made[:-1]).all()
    assert made[middle].item() == pytest.approx(raw[middle])


def test_a_model_of_any_weights_never_crosses() -> None:
    """Quantiles of a network with wild weights increase for every row and step."""
    _, model = _model()
    rows = Rows(ENCODER.encode(ROWS, KNOWN))
    quantile_BHQ = model(rows.batch(torch.arange(len(rows))))
    assert (len(ROWS), 3, 4) == tuple(quantile_BHQ.shape)
    assert (quantile_BHQ.diff(dim=-1) >= 0).all()


sizes = st.integers(1, 50)


@given(rows=st.integers(1, 500), batch=sizes, world=st.integers(1, 4), seed=sizes, epoch=sizes)
def test_ranks_share_every_epoch(rows: int, batch: int, world: int, seed: int, epoch: int) -> None:
    """Ranks take equally many steps, no row twice, and all but the last partial step."""
    shares = [
        list(shuffled(rows, batch_rows=batch, seed=seed, epoch=epoch, rank=r, world_size=world))
        for r in range(world)
    ]
    steps = steps_per_epoch(rows, batch, world)
    assert [steps] * world == [len(share) for share in shares]
    taken = torch.cat([index for share in shares for index in share]).tolist()
    assert len(set(taken)) == len(taken) == min(rows, steps * batch * world)


@given(rows=st.integers(0, 300), batch=sizes, world=st.integers(1, 4))
def test_ranks_share_validation_rows_exactly(rows: int, batch: int, world: int) -> None:
    """Every row in order is taken once, by one rank."""
    taken = [i for r in range(world) for index in in_order(rows, batch, r, world) for i in index]
    assert list(range(rows)) == [int(i) for i in taken]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """The order is a function of seed and epoch alone."""

    def order(seed: int, epoch: int) -> list[int]:
        batches = shuffled(50, batch_rows=50, seed=seed, epoch=epoch, rank=0, world_size=1)
        return next(batches).tolist()

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


def _publish(folder, metrics=None):
    made, model = _model()
    with publishing(folder / "bundle", {}) as scratch:
        write_bundle(scratch, made, model.state_dict(), ENCODER, metrics or {}, {"snapshot": "s"})
    return model, folder / "bundle"


def test_bundle_forecasts_what_the_model_does(tmp_path) -> None:
    """A bundle that was published and opened gives the model's quantiles in the label's unit."""
    model, path = _publish(tmp_path)
    rows = Rows(ENCODER.encode(ROWS, KNOWN))
    batch = rows.batch(torch.arange(len(rows)))
    with torch.inference_mode():
        expected = model(batch).numpy() * batch.unit_B.numpy()[:, None, None]
    bundle = load_bundle(path)
    np.testing.assert_allclose(bundle.forecast(ROWS, KNOWN), expected, rtol=1e-5)
    assert ("bundle", QUANTILES, COLUMNS) == (bundle.fingerprint, bundle.quantiles, bundle.columns)


def test_bundle_forecasts_no_rows(tmp_path) -> None:
    """No rows in, no rows out."""
    _, path = _publish(tmp_path)
    assert (0, 3, 4) == load_bundle(path).forecast(ROWS.slice(0, 0), KNOWN).shape


def test_bundle_with_a_flipped_byte_is_refused(tmp_path) -> None:
    """One changed bit in the weights is found before they are used."""
    _, path = _publish(tmp_path)
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged"):
        load_bundle(path)


def test_bundle_holds_no_pickle(tmp_path) -> None:
    """A bundle is safetensors and JSON."""
    _, path = _publish(tmp_path)
    assert {".json", ".safetensors"} == {file.suffix for file in path.iterdir()}
