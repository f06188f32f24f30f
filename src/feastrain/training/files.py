"""Files that ranks leave in a run's folder, which a launcher looks for without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINTS = "epoch-*.safetensors"
BOOSTERS = "*trees-*.txt"
FAILURE = "failure.txt"
"""The one line that a failing rank had to say."""
USAGE = "usage.json"
"""What a run that finished needed."""


def fitted(folder: Path) -> set[Path]:
    """Return checkpoints and boosters of all models of a run, as paths in its folder.

    Those of an ensemble, and of models that are fitted again, lie in folders of their own.
    """
    kinds = CHECKPOINTS, BOOSTERS
    return {path.relative_to(folder) for kind in kinds for path in folder.rglob(kind)}
