"""Gradient-boosted trees (LightGBM): a model of their own, and a baseline that others must face.

For all series and steps one booster a quantile, on what the MLP reads: features as of the
cut-off, stepped and known-ahead features of the target period, and the step. It learns labels
in units of their row with the pinball loss weighted back to the label's unit. Shapes as in
`feastrain.models.encoder`; M = N x H labels, C columns.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from feastrain.artifacts import write_json
from feastrain.errors import UsageError
from feastrain.recipe import TreesModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import lightgbm
    import pyarrow as pa
    from numpy.typing import NDArray

    from feastrain.models.encoder import Encoder

    Floats = NDArray[np.float32]


def trees_available() -> bool:
    """Tell whether LightGBM is installed (extra `baselines`)."""
    return importlib.util.find_spec("lightgbm") is not None


def require_trees() -> None:
    """Refuse to go on without LightGBM.

    Raises:
        UsageError: it is not installed.
    """
    if not trees_available():
        message = "a model of kind trees needs LightGBM: pip install 'feastrain[baselines]'"
        raise UsageError(message)


@dataclass(frozen=True)
class Examples:
    """Labels as trees read them: [M, C] columns, [M] labels and weights, 0 where not observed."""

    column_MC: Floats
    label_M: Floats
    weight_M: Floats

    @classmethod
    def of(
        cls, encoder: Encoder, rows: pa.Table, known: pa.Table, labels: tuple[Floats, Floats]
    ) -> Examples:
        """Encode rows and their labels, those alone that were observed."""
        label_NH, weight_NH = labels
        weight_M = (weight_NH * encoder.unit(rows)[:, None]).ravel().astype(np.float32)
        seen_M = weight_M > 0
        column_MC = columns_of(encoder, rows, known)[seen_M]
        return cls(column_MC, label_NH.ravel()[seen_M], weight_M[seen_M])

    def dataset(self, categories: int) -> lightgbm.Dataset:
        """Return LightGBM's form of them; the first columns are categories."""
        import lightgbm

        return lightgbm.Dataset(
            self.column_MC,
            label=self.label_M,
            weight=self.weight_M,
            categorical_feature=list(range(categories)),
            free_raw_data=False,
        )


@dataclass(frozen=True)
class Trees:
    """Boosters by quantile, [Q] of as many seeds each."""

    boosters: tuple[tuple[lightgbm.Booster, ...], ...]
    about: dict[str, Any]

    looks_back = False

    def forecast(
        self, encoder: Encoder, rows: pa.Table, known: pa.Table, past: pa.Table | None = None
    ) -> NDArray[np.float64]:
        """Return [N, H, Q] quantiles in the unit of the label, in order where boosters cross."""
        del past
        shape = (len(rows), encoder.columns.horizon, len(self.boosters))
        if not len(rows):
            return np.zeros(shape)
        column_MC = columns_of(encoder, rows, known)
        answers = [
            np.mean([booster.predict(column_MC) for booster in seeds], axis=0)
            for seeds in self.boosters
        ]
        # Sorting quantiles that cross brings them nearer to the true ones (Chernozhukov et al.
        # 2010).
        in_units_NHQ = np.sort(np.stack(answers, axis=1), axis=1).reshape(shape)
        base_NH = encoder.base(rows, self.about["baseline"])
        forecast_NHQ: NDArray[np.float64] = (
            in_units_NHQ * encoder.unit(rows)[:, None, None] + base_NH[:, :, None]
        )
        return forecast_NHQ

    def write(self, directory: Path) -> None:
        """Write the files that `load` reads."""
        for place, seeds in enumerate(self.boosters):
            for seed, booster in enumerate(seeds):
                booster.save_model(directory / booster_name(place, seed))
        write_json(directory / "model.json", self.about)

    @classmethod
    def load(cls, directory: Path, about: dict[str, Any]) -> Trees:
        """Read what `write` wrote.

        Raises:
            UsageError: LightGBM is not installed.
        """
        require_trees()
        import lightgbm

        boosters = tuple(
            tuple(
                lightgbm.Booster(model_file=directory / booster_name(place, seed))
                for seed in range(about["seeds"])
            )
            for place in range(len(about["quantiles"]))
        )
        return cls(boosters, about)


def about_trees(model: TreesModel) -> dict[str, Any]:
    """Return what a bundle says of trees, as plain JSON values."""
    return model.model_dump(mode="json", include={"kind", "quantiles", "baseline", "seeds"})


def booster_name(place: int, seed: int) -> str:
    """Return the file of one booster of the quantile at `place`."""
    return f"trees-{place}-{seed}.txt"


def parameters(model: TreesModel, quantile: float, seed: int) -> dict[str, Any]:
    """Return LightGBM's parameters for one booster.

    The median is fitted as an absolute error, whose leaves LightGBM renews faster than those
    of the same quantile.
    """
    objective = {"objective": "l1"} if quantile == 0.5 else {"objective": "quantile"}
    return objective | {
        "alpha": quantile,
        "learning_rate": model.learning_rate,
        "num_leaves": model.leaves,
        "min_data_in_leaf": model.min_labels,
        "feature_fraction": model.share,
        "bagging_fraction": model.share,
        "bagging_freq": 1,
        "verbosity": -1,
        "deterministic": True,
        "force_col_wise": True,
        "seed": seed,
    }


def boost(
    parameters: dict[str, Any],
    rounds: int,
    fitted: lightgbm.Dataset,
    stopping: tuple[lightgbm.Dataset, int] | None,
    on_round: Callable[[int], None] = lambda done: None,  # noqa: ARG005
) -> lightgbm.Booster:
    """Fit one booster, for at most `rounds`.

    It stops early where the dataset of `stopping` has not gained for as many rounds as that says.
    `on_round` is told how many rounds are done, and may raise to stop.
    """
    import lightgbm

    callbacks: list[Callable[..., None]] = [lambda env: on_round(env.iteration + 1)]
    if stopping is not None:
        callbacks.append(lightgbm.early_stopping(stopping[1], verbose=False))
    return lightgbm.train(
        parameters,
        fitted,
        num_boost_round=rounds,
        valid_sets=None if stopping is None else [stopping[0]],
        callbacks=callbacks,
    )


def columns_of(encoder: Encoder, rows: pa.Table, known: pa.Table) -> Floats:
    """Return [M, C]: categories first, then numbers, then the step."""
    encoded = encoder.encode(rows, known)
    horizon = encoder.columns.horizon
    labels = len(rows) * horizon
    parts: list[NDArray[Any]] = [
        np.repeat(encoded.category_NC, horizon, axis=0),
        encoded.known_category_GHD[encoded.group_N].reshape(labels, len(encoder.known_categories)),
        np.repeat(encoded.row_NF, horizon, axis=0),
        encoded.step_NHS.reshape(labels, encoded.step_NHS.shape[2]),
        encoded.known_GHK[encoded.group_N].reshape(labels, encoded.known_GHK.shape[2]),
        np.tile(np.arange(horizon), len(rows))[:, None],
    ]
    return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


def categories_of(encoder: Encoder) -> int:
    """Return how many of the first columns are categories."""
    return len(encoder.row_categories) + len(encoder.known_categories)


# The baseline --------------------------------------------------------------------------------

MOST_LABELS = 300_000
"""Labels that the baseline is trained on: a sample of the rows, so that it takes seconds."""


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
    most = MOST_LABELS // encoder.columns.horizon
    if len(train) > most:
        chosen = np.random.default_rng(seed).choice(len(train), most, replace=False)
        train = train.take(np.sort(chosen))
    categories = categories_of(encoder)
    fitted, stopping = (
        Examples.of(encoder, rows, known, encoder.labels(rows)).dataset(categories)
        for rows in (train, validation)
    )
    stopping.reference = fitted
    model = TreesModel(kind="trees", quantiles=(0.5,), rounds=300, learning_rate=0.1)
    assert model.patience is not None
    early = stopping, model.patience
    booster = boost(parameters(model, 0.5, seed), model.rounds, fitted, early)
    return Trees(((booster,),), about_trees(model)).forecast(encoder, test, known)[:, :, 0]
