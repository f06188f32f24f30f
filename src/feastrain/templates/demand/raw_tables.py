"""The three raw tables: their columns, and when each row was published."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

DATE = pa.date32()
TIMESTAMP = pa.timestamp("us", tz="UTC")

SALES = pa.schema(
    [
        ("store", pa.int64()),
        ("dept", pa.int64()),
        ("date", DATE),
        ("weekly_sales", pa.float64()),
        ("is_holiday", pa.bool_()),
        ("created_timestamp", TIMESTAMP),
    ]
)
STORES = pa.schema([("store", pa.int64()), ("type", pa.string()), ("size", pa.int64())])
EXTERNALS = pa.schema(
    [
        ("store", pa.int64()),
        ("date", DATE),
        ("temperature", pa.float64()),
        ("fuel_price", pa.float64()),
        *((f"markdown_{number}", pa.float64()) for number in range(1, 6)),
        ("cpi", pa.float64()),
        ("unemployment", pa.float64()),
        ("is_holiday", pa.bool_()),
        ("created_timestamp", TIMESTAMP),
    ]
)


class RawTables(NamedTuple):
    """Weekly sales by store and department, the stores, and what else is known each week.

    `date` is the last day of a week; `created_timestamp` is when the row was published.
    """

    sales: pa.Table
    stores: pa.Table
    externals: pa.Table


def close_of_week(dates: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return the last second of each date, UTC: the moment its week's figures are known."""
    seconds = np.asarray(dates.cast(pa.int32())).astype(np.int64) * 86_400 + 86_399
    return pa.array(seconds * 1_000_000).cast(TIMESTAMP)
