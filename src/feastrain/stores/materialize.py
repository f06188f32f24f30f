"""Features up to a cut-off, copied from the offline store to the online store."""

from __future__ import annotations

import contextlib
import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from feastrain.artifacts import fingerprint, write_json
from feastrain.errors import ProjectError, UsageError
from feastrain.stores.feature_repo import (
    online_store_of,
    quiet_offline_store,
    told_in_one_line,
    view_of,
)
from feastrain.stores.registry import patiently

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

    from feastrain.stores.fallback.bulk import Progress

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def materialize(
    store: FeatureStore,
    views: list[str],
    as_of: datetime,
    state: object,
    stamp: Path,
    *,
    progress: Progress | None = None,
) -> bool:
    """Write the latest values at `as_of` of every view, unless that was done already.

    Args:
        store: the feature store, already applied.
        views: names of the feature views.
        as_of: the cut-off; facts later than this are not read.
        state: fingerprints of what is behind the views.
        stamp: file that remembers what was materialised last.
        progress: is told of a view's rows as they are written, where the store can say so.

    Returns:
        Whether the online store was up to date already.

    Raises:
        ProjectError: a view is defined with `online=False`.
        UsageError: the online store holds later values; it cannot go back in time.
        FeastrainError: a server is away for longer than a fail-over takes.
    """
    found = patiently(lambda: [view_of(store, name) for name in views])
    if offline := [view.name for view in found if not view.online]:
        message = (
            f"{', '.join(map(repr, offline))} is kept offline, so nothing can be forecast from it; "
            "define it with online=True, or leave it out of the service"
        )
        raise ProjectError(message)
    done = [view.most_recent_end_time for view in found]
    where = fingerprint(_where(store))
    now = {"as_of": as_of.isoformat(), "where": where, "state": fingerprint(state)}
    before: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # a stamp of another version is none
        before = json.loads(stamp.read_text())
    if all(end == as_of for end in done) and before == now:
        return True
    # A registry that was made anew does not know what its online store holds; the stamp does.
    if before and before["where"] == where:
        done.append(datetime.fromisoformat(before["as_of"]))
    latest = max((end for end in done if end is not None), default=as_of)
    if latest > as_of:
        message = (
            f"the online store is materialised up to {latest.isoformat()} and cannot go back to "
            f"{as_of.isoformat()}; use a fresh online store for the past"
        )
        raise UsageError(message)
    stamp.unlink(missing_ok=True)
    rest = [name for name in views if not _written_by_column(store, name, as_of, progress)]
    said = io.StringIO()
    doing = f"Feast cannot materialise {', '.join(rest)}"
    with quiet_offline_store(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if rest:
            with told_in_one_line(doing):
                store.materialize(start_date=BEGINNING, end_date=as_of, feature_views=rest)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_json(stamp, now)
    return False


def _written_by_column(
    store: FeatureStore, name: str, as_of: datetime, progress: Progress | None
) -> bool:
    """Write a view's rows without Feast's way through pandas, where the store knows how to."""
    online = online_store_of(store)
    if online is None:
        return False
    from feastrain.stores.fallback.bulk import goes_by_column, write_view

    view = patiently(lambda: view_of(store, name))
    if not goes_by_column(view):
        return False
    span = (BEGINNING, as_of)
    with quiet_offline_store():
        write_view(store, view, online.tiers(store.config), span, progress)
    patiently(lambda: store.registry.apply_materialization(view, store.project, *span))
    return True


def _where(store: FeatureStore) -> dict[str, str]:
    """Return what tells one online store from another, without its secrets."""
    config = store.config.online_store
    told = {name: str(getattr(config, name, "")) for name in ("type", "path", "host", "port")}
    for part in ("primary", "fallback"):
        within = getattr(config, part, None)
        names = ("type", "path", "host", "port", "database", "connection_string")
        told |= {f"{part}.{name}": str(getattr(within, name, "")).split(",")[0] for name in names}
    told["database"] = str(getattr(config, "database", ""))
    told["address"] = str(getattr(config, "connection_string", "")).split(",")[0]
    return told
