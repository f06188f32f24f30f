"""What the model would say of other values: forecasts from online rows that were changed.

A changed forecast is the model's answer, not an experiment: it tells what the model learned of a
feature, which need not be what the feature causes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from feastrain.serving.forecaster import Forecaster
    from feastrain.stores.online_rows import OnlineRows

MOST_OPTIONS = 50
SAMPLED_SERIES = 256
SHUFFLE_SECONDS = 20.0


class ImplausibleError(Exception):
    """A change that cannot be made; the text says why, in one line."""


@dataclass(frozen=True)
class Change:
    """Another value of a known-ahead feature in one target period."""

    step: int
    feature: str
    value: bool | int | float | str | None


def hold(forecaster: Forecaster, series: pa.Table) -> OnlineRows:
    """Read `series` once, keeping those that the store knows."""
    read = forecaster.source.read(series)
    rows = read.rows.filter(pa.array(read.found))
    happened = None if read.happened is None else read.happened[read.found]
    return replace(read, rows=rows, found=np.ones(len(rows), dtype=bool), happened=happened)


def forecast_held(forecaster: Forecaster, held: OnlineRows) -> NDArray[np.float64]:
    """Return [N, H, Q] the forecast of what is held."""
    return forecaster.forecast_from(held).quantiles_MHQ


def changeable(
    forecaster: Forecaster, held: OnlineRows, events: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return each known-ahead feature of the bundle: its kind, its value at each step, options."""
    order = np.argsort(held.known["step"].to_numpy(), kind="stable")
    told = []
    for name in forecaster.bundle.columns.known_ahead:
        column = held.known[name]
        values = column.take(pa.array(order)).to_pylist()
        options: list[str] = []
        if _kind(column.type) == "text":
            named = events if name == forecaster.recipe.label.event else ()
            options = sorted({"", *named, *(value for value in values if value)})[:MOST_OPTIONS]
        told.append(
            {"feature": name, "kind": _kind(column.type), "values": values, "options": options}
        )
    return told


def change(forecaster: Forecaster, held: OnlineRows, changes: list[Change]) -> OnlineRows:
    """Return what is held with other values ahead.

    Raises:
        ImplausibleError: a feature that the bundle does not read ahead, or a value of another kind.
    """
    known = held.known
    step_K = known["step"].to_numpy()
    for asked in changes:
        if asked.feature not in forecaster.bundle.columns.known_ahead:
            named = ", ".join(forecaster.bundle.columns.known_ahead) or "none"
            message = f"{asked.feature!r} is not known ahead to this bundle; it reads {named}"
            raise ImplausibleError(message)
        column = known[asked.feature]
        value = _fitting(asked, column.type)
        values = [
            value if step == asked.step else old
            for step, old in zip(step_K.tolist(), column.to_pylist(), strict=True)
        ]
        place = known.column_names.index(asked.feature)
        known = known.set_column(place, asked.feature, pa.array(values, type=column.type))
    return replace(held, known=known)


def importances(forecaster: Forecaster, series: pa.Table) -> dict[str, Any]:
    """Return how far the forecast moves when a feature's values are shuffled, most first.

    `moved` is the mean absolute change of the median over its mean absolute size, over up to 256
    series; the shuffle is between series, and for what is known ahead between target periods too.
    What a model that looks back reads of earlier cut-offs stays as it is.
    """
    step = max(1, -(-len(series) // SAMPLED_SERIES))
    held = hold(forecaster, series.take(pa.array(np.arange(0, len(series), step))))
    middle = forecaster.bundle.quantiles.index(0.5)
    base_NH = forecast_held(forecaster, held)[:, :, middle]
    size = float(np.abs(base_NH).mean()) if base_NH.size else 0.0
    generator, started, told, left_out = np.random.default_rng(0), time.monotonic(), [], []
    for name, shuffled in _shuffles(forecaster, held, generator):
        if time.monotonic() - started > SHUFFLE_SECONDS:
            left_out.append(name)
            continue
        moved = float(np.abs(forecast_held(forecaster, shuffled)[:, :, middle] - base_NH).mean())
        told.append({"feature": name, "moved": moved / size if size else 0.0})
    told.sort(key=lambda one: -cast("float", one["moved"]))
    return {"features": told, "series": len(held.rows), "left_out": left_out}


def _shuffles(forecaster: Forecaster, held: OnlineRows, generator: np.random.Generator) -> Any:
    """Yield each feature's name and what is held with its values shuffled."""
    columns, recipe = forecaster.bundle.columns, forecaster.recipe
    single = {name: [name] for name in (*columns.static, *columns.observed)}
    stepped = {stem: recipe.stepped_columns(stem) for stem in columns.stepped}
    for name, members in (single | stepped).items():
        yield name, replace(held, rows=_shuffled(held.rows, members, generator))
    for name in columns.known_ahead:
        yield name, replace(held, known=_shuffled(held.known, [name], generator))


def _shuffled(table: pa.Table, names: list[str], generator: np.random.Generator) -> pa.Table:
    order = pa.array(generator.permutation(len(table)))
    for name in names:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].take(order))
    return table


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "flag"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "text"


def _fitting(asked: Change, kind: pa.DataType) -> Any:
    """Return the value as the column holds it."""
    value, wanted = asked.value, _kind(kind)
    fits = {
        "flag": isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "text": isinstance(value, str),
    }[wanted]
    if fits and pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        fits = (
            value == int(cast("float", value)) and limits.min <= cast("float", value) <= limits.max
        )
    elif fits and pa.types.is_floating(kind):
        fits = abs(cast("float", value)) <= float(np.finfo(kind.to_pandas_dtype()).max)
    if not fits:
        message = f"{asked.feature} at step {asked.step} is a {wanted}; {value!r} is none"
        raise ImplausibleError(message)
    if wanted == "number":
        return (int if pa.types.is_integer(kind) else float)(cast("float", value))
    return value
