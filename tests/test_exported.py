"""Networks as ONNX Runtime runs them, against PyTorch."""

from datetime import timedelta

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feastrain.models import encoder as encoders
from feastrain.models import mlp, tft
from feastrain.models.architecture import make_module, make_rows
from feastrain.models.batches import Batch
from feastrain.models.inputs import give
from feastrain.models.onnx_graph import MLP_INPUTS, TFT_INPUTS, as_onnx
from feastrain.models.windows import WindowBatch
from feastrain.recipe import MLPModel, TFTModel
from tiny_snapshot import COLUMNS, tiny_tables

ROWS, KNOWN = tiny_tables()
ENCODER = encoders.fit(COLUMNS, ROWS, KNOWN)

sizes = st.lists(st.integers(2, 6), max_size=2)
levels = st.sampled_from([[0.5], [0.5, 0.9], [0.1, 0.5], [0.05, 0.1, 0.5, 0.9]])
MLPS = st.fixed_dictionaries(
    {
        "kind": st.just("mlp"),
        "row_numbers": st.integers(1, 4),
        "step_numbers": st.integers(1, 3),
        "known_numbers": st.integers(0, 3),
        "row_vocabularies": sizes,
        "known_vocabularies": sizes,
        "horizon": st.just(3),
        "hidden": st.sampled_from([[8], [8, 6], [6, 8, 4]]),
        "embedding": st.just(2),
        "dropout": st.just(0.3),
        "quantiles": levels,
    }
)
TFTS = st.fixed_dictionaries(
    {
        "kind": st.just("tft"),
        "static_numbers": st.integers(1, 3),
        "static_vocabularies": sizes,
        "observed_numbers": st.integers(0, 3),
        "known_numbers": st.integers(0, 3),
        "step_numbers": st.integers(0, 3),
        "known_vocabularies": sizes,
        "context": st.just(4),
        "horizon": st.just(3),
        "width": st.just(6),
        "heads": st.sampled_from([1, 2, 3]),
        "dropout": st.just(0.1),
        "quantiles": levels,
    }
).filter(lambda made: made["known_numbers"] or made["known_vocabularies"])


CATEGORIES_ALONE = {
    "kind": "tft",
    "static_numbers": 1,
    "static_vocabularies": [],
    "observed_numbers": 0,
    "known_numbers": 0,
    "step_numbers": 0,
    "known_vocabularies": [3, 4],
    "context": 4,
    "horizon": 3,
    "width": 6,
    "heads": 2,
    "dropout": 0.1,
    "quantiles": [0.1, 0.5],
}
"""Of no period is a number read."""


def _answers(architecture: dict, batch: Batch | WindowBatch, seed: int) -> tuple[np.ndarray, ...]:
    """What the module, with weights drawn by `seed`, and its graph say of a batch."""
    torch.manual_seed(seed)
    module = make_module(architecture).eval()
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5)
    with torch.inference_mode():
        expected = module(batch).numpy()
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(as_onnx(architecture, weights), options)
    names = TFT_INPUTS if architecture["kind"] == "tft" else MLP_INPUTS
    (actual,) = session.run(None, {name: getattr(batch, name).numpy() for name in names})
    return expected, actual


def _numbers(*shape: int, missing: float = 0.0) -> torch.Tensor:
    drawn = torch.randn(shape) * 3
    return drawn.masked_fill(torch.rand(shape) < missing, torch.nan)


def _codes(vocabularies: list[int], *shape: int) -> torch.Tensor:
    columns = [torch.randint(0, size, shape) for size in vocabularies]
    return torch.stack(columns, -1) if columns else torch.zeros((*shape, 0), dtype=torch.int64)


@settings(max_examples=15, deadline=None)
@given(MLPS, st.integers(1, 9), st.integers(0, 99))
def test_a_graph_says_what_its_mlp_says(architecture: dict, rows: int, seed: int) -> None:
    """Of any architecture, weights and number of rows."""
    torch.manual_seed(seed)
    batch = Batch(
        row_BF=_numbers(rows, architecture["row_numbers"]),
        category_BC=_codes(architecture["row_vocabularies"], rows),
        step_BHS=_numbers(rows, 3, architecture["step_numbers"]),
        known_BHK=_numbers(rows, 3, architecture["known_numbers"]),
        known_category_BHD=_codes(architecture["known_vocabularies"], rows, 3),
        unit_B=torch.ones(rows),
    )
    expected, actual = _answers(architecture, batch, seed)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(TFTS, st.integers(1, 9), st.integers(0, 99))
@example(CATEGORIES_ALONE, 5, 0)
def test_a_graph_says_what_its_tft_says(architecture: dict, rows: int, seed: int) -> None:
    """Of any architecture, weights and number of rows; numbers and whole periods are missing."""
    torch.manual_seed(seed)
    valid_BL = (torch.rand(rows, 4) > 0.3).float()
    valid_BL[:, -1] = 1.0
    known, words = architecture["known_numbers"], architecture["known_vocabularies"]
    batch = WindowBatch(
        static_BF=_numbers(rows, architecture["static_numbers"], missing=0.2),
        category_BC=_codes(architecture["static_vocabularies"], rows),
        past_BLO=_numbers(rows, 4, architecture["observed_numbers"], missing=0.2),
        past_known_BLK=_numbers(rows, 4, known, missing=0.2),
        past_category_BLD=_codes(words, rows, 4),
        valid_BL=valid_BL,
        step_BHS=_numbers(rows, 3, architecture["step_numbers"], missing=0.2),
        known_BHK=_numbers(rows, 3, known, missing=0.2),
        known_category_BHD=_codes(words, rows, 3),
        unit_B=torch.ones(rows),
    )
    expected, actual = _answers(architecture, batch, seed)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_equal_weights_give_equal_bytes() -> None:
    """A graph has nothing in it but the network."""
    architecture = mlp.architecture(MLPModel(), ENCODER)
    weights = {n: t.numpy() for n, t in make_module(architecture).state_dict().items()}
    assert as_onnx(architecture, weights) == as_onnx(architecture, dict(weights))


@pytest.mark.parametrize(
    "architecture",
    [
        mlp.architecture(MLPModel(), ENCODER),
        tft.architecture(TFTModel(kind="tft", context=7), ENCODER)
        | {"frequency_s": timedelta(weeks=1).total_seconds()},
    ],
    ids=["mlp", "tft"],
)
def test_serving_reads_what_training_reads(architecture: dict) -> None:
    """The arrays of a run of rows are the tensors of the same rows, bit for bit."""
    given = give(architecture, ENCODER, ROWS, KNOWN, ROWS).batch(slice(100, 170))
    rows = make_rows(architecture, ENCODER, ROWS, KNOWN, ROWS)
    batch = rows.batch(torch.arange(100, 170))
    names = TFT_INPUTS if architecture["kind"] == "tft" else MLP_INPUTS
    assert set(names) == set(given)
    for name in names:
        expected = getattr(batch, name).numpy()
        np.testing.assert_array_equal(expected.astype(given[name].dtype), given[name], name)
