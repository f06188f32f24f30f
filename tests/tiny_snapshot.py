"""A small snapshot made by hand, in the files that `feastrain.dataset` writes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from feastrain.artifacts import publishing
from feastrain.dataset.snapshot import Snapshot, part_name, write_table
from feastrain.recipe import FeatureColumns

START = datetime(2024, 1, 5, 23, 59, 59, tzinfo=UTC)
HORIZON = 3
TEST_WEEK = 50
TIMESTAMP = pa.timestamp("us", tz="UTC")
COLUMNS = FeatureColumns(
    entities=("shop",),
    static=("kind",),
    observed=("sold", "mean", "weather"),
    stepped=("last_year",),
    known_ahead=("season", "holiday"),
    known_keys=(),
    categorical=("shop", "kind", "holiday"),
    label_units=("sold", "mean", "last_year"),
    unit=("mean",),
    horizon=HORIZON,
)

MLP = "{hidden: [16, 8], embedding: 2, dropout: 0.1}"
TFT = "{kind: tft, context: 6, hidden: 8, heads: 2, dropout: 0.1}"
RECIPE = """
name: tiny
entities: [shop]
frequency: 1w
horizon: 3
label: {source: labels.parquet, column: sold_next}
features:
  repo: feature_repo
  service: tiny
  roles: {shops: observed, calendar: known_ahead}
  stepped: [last_year]
  label_units: [last_year]
model: MODEL
training: {epochs: EPOCHS, patience: 99, learning_rate: 0.01, seed: 3, TRAINING}
"""


def tiny_tables(shops: int = 8, weeks: int = 60, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Return rows and known-ahead rows: shops of very different size with a common season."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(5, 1.5, shops))
    season = 1 + 0.4 * np.sin(np.arange(weeks + HORIZON) / 5)
    sales = size[:, None] * season * rng.lognormal(0, 0.1, (shops, weeks + HORIZON))
    shop, week = (index.ravel() for index in np.indices((shops, weeks)))
    weather = rng.normal(20, 5, len(shop))
    weather[::7] = np.nan
    columns = {
        "shop": pa.array(shop + 1),
        "event_timestamp": pa.array([START + timedelta(weeks=int(w)) for w in week], TIMESTAMP),
        "split": pa.array(
            np.where(week < 40, "train", np.where(week < TEST_WEEK, "validation", "test"))
        ),
        "kind": pa.array(np.array(["small", "large"])[(size[shop] > 150).astype(int)]),
        "sold": pa.array(sales[shop, week]),
        "mean": pa.array(np.repeat(size, weeks)),
        "weather": pa.array(weather, from_pandas=True),
    }
    for step in range(1, HORIZON + 1):
        label = sales[shop, week + step]
        label[step::11] = np.nan
        columns[f"last_year_{step}"] = pa.array(size[shop] * season[week + step])
        columns[f"label_{step}"] = pa.array(label, from_pandas=True)
        weight = np.where(np.isfinite(label), 1.0 + 4 * (step == 2), np.nan)
        columns[f"weight_{step}"] = pa.array(weight, from_pandas=True)
    cutoff, step = (index.ravel() for index in np.indices((weeks, HORIZON)))
    known = {
        "event_timestamp": pa.array([START + timedelta(weeks=int(c)) for c in cutoff], TIMESTAMP),
        "step": pa.array(step + 1),
        "season": pa.array(season[cutoff + step + 1]),
        "holiday": pa.array(np.where((cutoff + step) % 9 == 0, "feast", "")),
    }
    return pa.table(columns), pa.table(known)


def tiny_snapshot(
    folder: Path,
    name: str = "0123456789abcdef",
    seed: int = 0,
    parts: int = 1,
    rows: pa.Table | None = None,
    first_week: int = 0,
) -> Snapshot:
    """Publish a tiny snapshot, its rows (by default those of `tiny_tables`) in equal parts."""
    tables, known = tiny_tables(seed=seed)
    rows = tables if rows is None else rows
    labels = rows.select(["shop", "event_timestamp"]).append_column("label", rows["label_1"])
    manifest = {
        "columns": COLUMNS.model_dump(mode="json"),
        "row_features": ["shops:sold"],
        "known_features": ["calendar:season"],
        "service": "tiny",
        "periods": {"first": START.isoformat()},
        "split": {
            part: {"first_cutoff": (START + timedelta(weeks=week)).isoformat()}
            for part, week in {"train": first_week, "test": TEST_WEEK}.items()
        },
    }
    with publishing(folder / name, manifest) as scratch:
        for file, table in {"known": known, "labels": labels}.items():
            write_table(scratch, file, table)
        for part in range(parts):
            each = len(rows) // parts
            write_table(scratch, part_name(part), rows.slice(part * each, each))
    return Snapshot.open(folder / name)


def tiny_recipe(
    folder: Path,
    epochs: int = 3,
    model: str = MLP,
    training: str = "processes: 2",
    batch_rows: int = 32,
) -> Path:
    """Write the recipe that fits the tiny snapshot."""
    training = f"{training}, batch_rows: {batch_rows}"
    path = folder / f"tiny-{epochs}.yaml"
    filled = {"EPOCHS": str(epochs), "MODEL": model, "TRAINING": training}
    text = RECIPE
    for name, value in filled.items():
        text = text.replace(name, value)
    path.write_text(text)
    return path
