"""A project on a Feast repo that is there already: read, guessed at with reasons, written down.

`reading.py` says what the repo has, `candidates.py` what could be forecast, `guessing.py` what each
view and column is taken for (`looking.py` looks at the rows), `writing.py` writes it down. The repo
itself, its registry and its online store are only read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from feastrain.adopt.candidates import find_candidates, find_label
from feastrain.adopt.guessing import propose
from feastrain.adopt.reading import read_repo
from feastrain.adopt.writing import write_project
from feastrain.artifacts import new_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from feastrain.adopt.candidates import Candidate
    from feastrain.adopt.guessing import Proposal

__all__ = ["adopt"]


def adopt(
    root: Path,
    repo: Path,
    label: str | None = None,
    service: str | None = None,
    choose: Callable[[Sequence[Candidate]], str] | None = None,
) -> Proposal:
    """Make the folder `root` a project that forecasts from the Feast repo `repo`.

    Nothing appears at `root` unless all of it succeeds.

    Args:
        root: a folder that does not exist yet, or is empty.
        repo: the folder of `feature_store.yaml`, or the one above it.
        label: what to forecast, as `SOURCE.COLUMN`.
        service: the feature service; by default that with most features that can be used.
        choose: asked which candidate is the label, where none is given.

    Raises:
        ProjectError: `root` is in use, or `repo` is no Feast repo that can be used.
        UsageError: nothing, or nothing that can be forecast, was named.
    """
    with new_folder(root) as scratch:
        found = read_repo(repo)
        if label is None and choose is not None and (candidates := find_candidates(found)):
            label = choose(candidates)
        proposal = propose(found, find_label(found, label), service)
        write_project(scratch, found, proposal)
    return proposal
