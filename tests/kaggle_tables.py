"""Small raw tables, written the way Kaggle's are found in the wild."""

import sys
from pathlib import Path

import pandas as pd

TEMPLATE = Path(__file__).parents[1] / "src" / "feastrain" / "templates" / "demand"


def write_small_tables(folder: Path) -> Path:
    """Write train.csv, stores.csv and features.csv of a small twin into `folder`."""
    sys.path.insert(0, str(TEMPLATE))
    try:
        from twin import synthesize
    finally:
        sys.path.remove(str(TEMPLATE))
    tables = synthesize(seed=1, stores=3, departments=4, series=12, rows=1250, weeks=110)
    sales, stores, externals = (table.to_pandas() for table in tables)
    sales["IsHoliday"] = sales["is_holiday"].map({True: "TRUE", False: "FALSE"})
    sales = sales.rename(
        columns={"store": "Store", "dept": "Dept", "date": "Date", "weekly_sales": "Weekly_Sales"}
    )
    _write(sales[["Store", "Dept", "Date", "Weekly_Sales", "IsHoliday"]], folder / "train.csv")
    stores.columns = ["Store", "Type", "Size"]
    _write(stores, folder / "stores.csv", end="\r")
    externals["IsHoliday"] = externals["is_holiday"].map({True: "TRUE", False: "FALSE"})
    renamed = {f"markdown_{n}": f"MarkDown{n}" for n in range(1, 6)} | {
        "store": "Store",
        "date": "Date",
        "temperature": "Temperature",
        "fuel_price": "Fuel_Price",
        "cpi": "CPI",
        "unemployment": "Unemployment",
    }
    _write(externals.rename(columns=renamed)[[*HEADER]], folder / "features.csv")
    return folder


HEADER = (
    *("Store", "Date", "Temperature", "Fuel_Price"),
    *(f"MarkDown{n}" for n in range(1, 6)),
    *("CPI", "Unemployment", "IsHoliday"),
)


def _write(table: pd.DataFrame, path: Path, end: str = "\n") -> None:
    table.to_csv(path, index=False, na_rep="NA", lineterminator=end)
