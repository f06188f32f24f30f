import importlib.util
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feastrain.artifacts import publishing
from feastrain.errors import ArtifactError, UsageError
from feastrain.models.batches import Rows
from feastrain.models.bundle import CALIBRATION, load_bundle, write_bundle
from feastrain.models.calibration import Calibration
from feastrain.models.encoder import fit
from feastrain.models.exported import Exported
from feastrain.models.losses import pinball_loss
from feastrain.models.mixture import Mixture
from feastrain.models.mlp import MLP, architecture, increasing
from feastrain.models.network import Network
from feastrain.models.trees import require_trees
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


def test_recomputed_activations_give_the_same_gradients() -> None:
    """With and without gradient checkpointing, dropout included, gradients are equal.

    They are but for rounding: rows are summed in runs.
    """
    _, model = _model()
    rows = Rows(ENCODER.encode(ROWS, KNOWN))
    gradients = []
    for recompute in (False, True):
        model.train().recompute = recompute
        torch.manual_seed(1)
        model.zero_grad()
        model(rows.batch(torch.arange(50))).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=1e-5, atol=1e-5)


def test_a_model_of_any_weights_never_crosses() -> None:
    """Quantiles of a network with wild weights increase for every row and step."""
    _, model = _model()
    rows = Rows(ENCODER.encode(ROWS, KNOWN))
    quantile_BHQ = model(rows.batch(torch.arange(len(rows))))
    assert (len(ROWS), 3, 4) == tuple(quantile_BHQ.shape)
    assert (quantile_BHQ.diff(dim=-1) >= 0).all()


def _publish(folder, metrics=None):
    made, model = _model()
    with publishing(folder / "bundle", {}) as scratch:
        network = Network.of(made, model.state_dict())
        raw = Calibration(QUANTILES, {})
        lineage = {"snapshot": "s", "recipe": {"label": {"event": None}}}
        write_bundle(scratch, Mixture((network,), (1.0,)), ENCODER, raw, metrics or {}, lineage)
    return model, folder / "bundle"


def test_bundle_forecasts_what_the_model_does(tmp_path) -> None:
    """A bundle that was published and opened gives the model's quantiles in the label's unit."""
    model, path = _publish(tmp_path)
    rows = Rows(ENCODER.encode(ROWS, KNOWN))
    batch = rows.batch(torch.arange(len(rows)))
    with torch.inference_mode():
        expected = model(batch).numpy()
    bundle = load_bundle(path)
    actual = bundle.forecast(ROWS, KNOWN) / batch.unit_B.numpy()[:, None, None]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
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
    """A bundle is safetensors, ONNX and JSON."""
    _, path = _publish(tmp_path)
    assert {".json", ".onnx", ".safetensors"} == {file.suffix for file in path.iterdir()}


def test_bundle_of_an_older_release_is_not_calibrated(tmp_path) -> None:
    """Without a file of offsets it forecasts what its model says."""
    _, path = _publish(tmp_path)
    with publishing(tmp_path / "older", {}) as scratch:
        for file in path.iterdir():
            if file.name not in {CALIBRATION, "manifest.json"}:
                shutil.copy(file, scratch)
    older = load_bundle(tmp_path / "older")
    assert (QUANTILES, {}) == (older.calibration.quantiles, older.calibration.offsets)
    (member,) = older.members
    expected = member.forecast(older.encoder, ROWS, KNOWN, None)
    np.testing.assert_array_equal(expected, older.forecast(ROWS, KNOWN))


def test_network_of_a_bundle_is_written_once_more_as_it_is(tmp_path) -> None:
    """Its graph, its weights and what is said of it, byte for byte."""
    _, path = _publish(tmp_path)
    (member,) = load_bundle(path).members
    copy = tmp_path / "copy"
    copy.mkdir()
    member.write(copy)
    names = {"model.onnx", "model.safetensors", "model.json"}
    assert names == {file.name for file in copy.iterdir()}
    about = load_bundle(path).members[0].architecture
    assert about == Exported.load(copy, about).architecture
    for name in names - {"model.json"}:
        assert (path / name).read_bytes() == (copy / name).read_bytes()


def test_network_without_its_runtime_is_told_in_one_line(tmp_path, monkeypatch) -> None:
    """The line says what to install."""
    _, path = _publish(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"needs ONNX Runtime to forecast: pip install 'feastrain"):
        load_bundle(path)


def test_trees_without_lightgbm_are_told_in_one_line(monkeypatch) -> None:
    """The line says what to install; where it is there, nothing is said."""
    require_trees()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"trees needs LightGBM: pip install 'feastrain\[base"):
        require_trees()
