"""A process of ours that imports Feast, whose types are checked once they are needed."""

import functools
import subprocess
import sys

from feastrain.startup import _when_called

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


def test_what_typeguard_must_see_at_once_it_is_asked_at_once() -> None:
    """What is no function, wraps another, or stands in a frame; the rest at its first call."""
    asked: list[object] = []
    deferred = _when_called(lambda function: asked.append(function) or function)

    def inside() -> None:
        """Stand in this frame."""

    at_once = [len, functools.wraps(inside)(lambda: None), inside]
    assert [deferred(one) for one in at_once] == at_once == asked
    later = deferred(outside)
    assert at_once == asked
    assert [5, 5] == [later(), later()]
    assert [*at_once, outside] == asked


def outside() -> int:
    """Stand in no frame."""
    return 5
