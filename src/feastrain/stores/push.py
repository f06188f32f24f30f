"""Rows that feastrain made, into the online store through a push source of the feature repo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feastrain.errors import FeastrainError, ProjectError
from feastrain.stores.feature_repo import quiet_offline_store
from feastrain.stores.online import STORE_ERRORS

# isort: split
from feast import FeatureStore, PushSource
from feast.data_source import PushMode

if TYPE_CHECKING:
    import pyarrow as pa


def push_rows(store: FeatureStore, source: str, rows: pa.Table) -> list[str]:
    """Write rows to the online store, as every view of a push source wants them.

    Args:
        store: the feature store, already applied.
        source: name of the push source.
        rows: join keys, `event_timestamp` and features; what no view has is passed over.

    Returns:
        The names of the views.

    Raises:
        ProjectError: no view has that source, or one of them wants a column that is not there.
        FeastrainError: the online store does not answer.
    """
    views = _views_of(store, source)
    for view in views:
        rows = _with_times(rows, view.batch_source)
        wanted = {one.name for one in (*view.entity_columns, *view.features)}
        if missing := sorted(wanted - set(rows.column_names)):
            message = (
                f"view {view.name!r} of push source {source!r} wants {', '.join(missing)}; "
                f"there are {', '.join(rows.column_names)}: declare those you want"
            )
            raise ProjectError(message)
    try:
        with quiet_offline_store():
            store.push(source, rows.to_pandas(), to=PushMode.ONLINE)
    except STORE_ERRORS as error:
        told = " ".join(str(error).split())
        message = f"the online store ({store.config.online_store.type}) takes nothing: {told}"
        raise FeastrainError(message) from error
    return [view.name for view in views]


def _views_of(store: FeatureStore, source: str) -> list[Any]:
    sources: dict[str, list[Any]] = {}
    for view in (*store.list_feature_views(), *store.list_stream_feature_views()):
        if isinstance(getattr(view, "stream_source", None), PushSource):
            sources.setdefault(view.stream_source.name, []).append(view)
    if source not in sources:
        message = (
            f"no view of the feature repo has a push source {source!r}; "
            f"it has {', '.join(sorted(sources)) or 'none'}: declare one"
        )
        raise ProjectError(message)
    return sources[source]


def _with_times(rows: pa.Table, source: Any) -> pa.Table:
    """Return the rows with the times that a view's batch source has, by its names of them."""
    for name in (source.timestamp_field, source.created_timestamp_column):
        if name and name not in rows.column_names:
            rows = rows.append_column(name, rows["event_timestamp"])
    return rows
