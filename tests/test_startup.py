"""A process of ours that imports Feast, whose types are checked once they are needed."""

import subprocess
import sys

IMPORTED = """
from typeguard import _decorators
from feastrain.startup import check_types_when_called
prepared = []
prepare = _decorators.instrument
_decorators.instrument = lambda function: prepared.append(function) or prepare(function)
check_types_when_called()
from feast import FeatureView, FileSource
try:
    FeatureView(name="sales", source=FileSource(path="rows.parquet"), ttl=5)
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
print(0 < len(prepared) < 50)
"""


def test_feasts_types_are_checked_when_it_is_called() -> None:
    """A wrong type is refused in typeguard's words, and few of 240 functions are prepared."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    refused = 'TypeCheckError argument "ttl" (int) did not match any element in the union:'
    assert [refused, "True"] == run.stdout.splitlines()
