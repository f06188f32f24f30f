"""Features joined to the spine as of each cut-off, through Feast's own offline API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from feastrain.dataset.labels import TIMESTAMP
from feastrain.errors import DataError
from feastrain.stores.feature_repo import quiet_offline_store, takes_arrow, told_in_one_line

if TYPE_CHECKING:
    from feast import FeatureStore

    from feastrain.dataset.service import Service
    from feastrain.recipe import Recipe


def retrieve_rows(store: FeatureStore, service: Service, spine: pa.Table) -> pa.Table:
    """Append the static, observed, stepped and unused features to the spine, in its row order.

    Raises:
        DataError: the offline store loses, adds or changes an entity row.
    """
    keys = [*service.columns.entities, "event_timestamp"]
    references = (*service.row_features, *service.unused_features)
    features = join_as_of(store, references, spine.select(keys))
    for name in features.column_names:
        if name not in keys:
            spine = spine.append_column(name, features[name])
    return spine


def retrieve_known(
    store: FeatureStore, service: Service, spine: pa.Table, recipe: Recipe
) -> pa.Table:
    """Return the known-ahead features of every target period, as they were known at the cut-off.

    One row for each (known keys, cut-off, step), in that order.
    """
    columns = service.columns
    keys = [*columns.known_keys, "event_timestamp"]
    groups = spine.select(keys).group_by(keys).aggregate([])
    known = steps_ahead(groups, recipe)
    if not service.known_features:
        return known.drop_columns(["period"])
    period_key = str(recipe.features.period_key)
    wanted = known.append_column(period_key, known["period"]).drop_columns(["period", "step"])
    features = join_as_of(store, service.known_features, wanted)
    known = known.drop_columns(["period"])
    for reference in service.known_features:
        name = reference.split(":", 1)[1]
        known = known.append_column(name, features[name])
    return known


def steps_ahead(groups: pa.Table, recipe: Recipe) -> pa.Table:
    """Return each row of `groups` (keys, cut-off) once per step, with `step` and `period`.

    `period` is the value of the recipe's period key. Ordered by the keys, cut-off and step.
    """
    groups = groups.sort_by([(name, "ascending") for name in groups.column_names])
    repeated = groups.take(pa.array(np.repeat(np.arange(len(groups)), recipe.horizon)))
    step = np.tile(np.arange(1, recipe.horizon + 1), len(groups))
    cutoffs = groups["event_timestamp"].to_pylist()
    names = [
        recipe.period_name(cutoff + ahead * recipe.frequency)
        for cutoff in cutoffs
        for ahead in range(1, recipe.horizon + 1)
    ]
    return repeated.append_column("step", pa.array(step)).append_column("period", pa.array(names))


def join_as_of(store: FeatureStore, features: tuple[str, ...], wanted: pa.Table) -> pa.Table:
    """Return some features as of each row's time: the keys, then the features, in the rows' order.

    Args:
        store: the feature store, already applied.
        features: references `view:feature`.
        wanted: join keys and `event_timestamp`.

    Raises:
        DataError: the offline store loses, adds or changes an entity row.
        FeastrainError: it fails, or a transform does.
    """
    views = dict.fromkeys(reference.split(":", 1)[0] for reference in features)
    doing = f"the offline store ({store.config.offline_store.type}) cannot join {', '.join(views)}"
    with quiet_offline_store(), told_in_one_line(doing):
        answer = store.get_historical_features(
            entity_df=wanted if takes_arrow(store) else _as_pandas(wanted),
            features=list(features),
            filter_by_created_timestamp=True,
        ).to_arrow()
    keys = wanted.column_names
    position = answer.schema.get_field_index("event_timestamp")
    stamps = answer["event_timestamp"].cast(TIMESTAMP)
    answer = answer.set_column(position, "event_timestamp", stamps)
    names = [reference.split(":", 1)[1] for reference in features]
    return _in_order(answer.select([*keys, *names]), wanted)


def _as_pandas(wanted: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = wanted.to_pandas()
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame


def _in_order(answer: pa.Table, wanted: pa.Table) -> pa.Table:
    """Return the rows of an answer in the order of the entity rows.

    Raises:
        DataError: they are not the same rows.
    """
    keys = wanted.column_names
    answered = answer.select(keys)
    if answered.equals(wanted.cast(answered.schema)):
        return answer
    order = [(name, "ascending") for name in keys]
    numbered = wanted.append_column("row_number", pa.array(np.arange(len(wanted)))).sort_by(order)
    answer = answer.sort_by(order)
    if not answer.select(keys).equals(numbered.select(keys).cast(answered.schema)):
        message = (
            f"the offline store answered {len(answer):,} rows that are not the {len(wanted):,} "
            "entity rows it was asked for; use feastrain.stores.asof.AsofOfflineStore"
        )
        raise DataError(message)
    back = np.empty(len(wanted), dtype=np.int64)
    back[numbered["row_number"].to_numpy()] = np.arange(len(wanted))
    return answer.take(pa.array(back)).combine_chunks()
