"""Starting a process of ours sooner: what Feast does at import, when it is needed instead.

Feast has typeguard check the arguments of 240 of its functions. Typeguard reads, parses and
compiles a function's whole module for that, which is half of what `import feast` costs.
Here each of them is prepared at its first call; the checks are the same.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Instrument = Callable[[Any], Any]
    """Makes a function that checks types from one that does not, or says why it cannot."""


@functools.cache
def check_types_when_called() -> None:
    """Have typeguard prepare functions of modules yet to be imported at their first call.

    For processes that are ours alone: it holds for whatever is imported in this one from now on.
    Another typeguard than those of version 4, whose module this is, is left as it is.
    """
    if "feast" in sys.modules or importlib.util.find_spec("typeguard") is None:
        return
    with contextlib.suppress(ImportError, AttributeError):
        typeguard: Any = importlib.import_module("typeguard._decorators")
        typeguard.instrument = _when_called(typeguard.instrument)


def _when_called(instrument: Instrument) -> Instrument:
    def deferred(function: Any) -> Any:
        # What typeguard refuses, and what needs the frame it stands in, it is asked at once.
        if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
            return instrument(function)
        if "<locals>" in function.__qualname__:
            return instrument(function)
        prepared: list[Any] = []

        @functools.wraps(function)
        def first_call(*args: Any, **kwargs: Any) -> Any:
            if not prepared:
                told = instrument(function)
                prepared.append(function if isinstance(told, str) else told)
            return prepared[0](*args, **kwargs)

        return first_call

    return deferred
