"""Gradient-boosted trees on the same snapshot: the baseline that neural models must face.

One LightGBM model for all series and steps, on what the MLP reads: features as of the cut-off,
stepped and known-ahead features of the target period, and the step. It learns labels in units
of their row with an absolute error weighted back to the label's unit.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder

    Floats = NDArray[np.float32]

MOST_LABELS = 300_000
"""Labels trained on: a sample of the rows, so that a baseline takes seconds."""
ROUNDS = 300
PARAMETERS = {
    "objective": "l1",
    "learning_rate": 0.1,
    "num_leaves": 63,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_col_wise": True,
}


def trees_available() -> bool:
    """Tell whether LightGBM is installed (extra `baselines`)."""
    return importlib.util.find_spec("lightgbm") is not None


def forecast_with_trees(
    encoder: Encoder,
    train: pa.Table,
    validation: pa.Table,
    test: pa.Table,
    known: pa.Table,
    *,
    seed: int,
) -> NDArray[np.float64]:
    """Fit trees on training rows, stop early on validation rows, and forecast the test rows.

    Returns:
        [N, H] point forecasts in the label's unit.
    """
    import lightgbm

    horizon = encoder.columns.horizon
    most = MOST_LABELS // horizon
    if len(train) > most:
        chosen = np.random.default_rng(seed).choice(len(train), most, replace=False)
        train = train.take(np.sort(chosen))
    categories = list(range(len(encoder.row_categories) + len(encoder.known_categories)))
    fitted, stopping = (
        lightgbm.Dataset(
            _matrix(encoder, rows, known),
            label=label_NH.ravel(),
            weight=(weight_NH * encoder.unit(rows)[:, None]).ravel(),
            categorical_feature=categories,
        )
        for rows in (train, validation)
        for label_NH, weight_NH in [encoder.labels(rows)]
    )
    stopping.reference = fitted
    model = lightgbm.train(
        PARAMETERS | {"seed": seed},
        fitted,
        num_boost_round=ROUNDS,
        valid_sets=[stopping],
        callbacks=[lightgbm.early_stopping(30, verbose=False)],
    )
    forecast_M = np.asarray(model.predict(_matrix(encoder, test, known)))
    return forecast_M.reshape(len(test), horizon) * encoder.unit(test)[:, None]


def _matrix(encoder: Encoder, rows: pa.Table, known: pa.Table) -> Floats:
    """Return [N x H, columns]: categories first, then numbers, then the step."""
    encoded = encoder.encode(rows, known)
    horizon = encoder.columns.horizon
    parts: list[NDArray[Any]] = [
        np.repeat(encoded.category_NC, horizon, axis=0),
        encoded.known_category_GHD[encoded.group_N].reshape(-1, len(encoder.known_categories)),
        np.repeat(encoded.row_NF, horizon, axis=0),
        encoded.step_NHS.reshape(len(rows) * horizon, -1),
        encoded.known_GHK[encoded.group_N].reshape(len(rows) * horizon, -1),
        np.tile(np.arange(horizon), len(rows))[:, None],
    ]
    return np.concatenate([part.astype(np.float32) for part in parts], axis=1)
