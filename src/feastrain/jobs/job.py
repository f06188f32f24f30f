"""What a training job is, wherever it runs: how many ranks, and how it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from feastrain.recipe import Training

On = Literal["here", "process", "container", "kubernetes"]
"""Where a job runs."""
ENDED = frozenset({"Complete", "Failed"})
LAST_LINES = 20
"""Of a job that failed, that are told to whoever waits for it."""


@dataclass(frozen=True)
class Gang:
    """The ranks of a run: nodes with one torchrun agent each, and the ranks of an agent."""

    nodes: int
    processes: int

    @classmethod
    def of(cls, training: Training, nodes: int = 1, processes: int | None = None) -> Self:
        """Return nodes that share out the recipe's processes, unless each has as many as said."""
        return cls(nodes, processes or max(1, training.processes // nodes))


@dataclass(frozen=True)
class Job:
    """A training job as the place where it runs has it."""

    name: str
    state: str
    """Created, Running, Suspended, Complete or Failed."""
    why: str
    """What is said of that state; may be empty."""
    nodes: int
    recipe: str
    run: str
    """Fingerprint of the run."""
    queue: str | None = None
    percent: int | None = None
    """How far rank 0 says that it is."""
    remaining_seconds: int | None = None
    metrics: dict[str, str] = field(default_factory=dict)
