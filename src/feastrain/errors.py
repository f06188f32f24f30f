"""Every error a user can meet, and the exit code each ends in.

    FeastrainError              1  the work failed
    ├── SkewError                  the online store answers otherwise than the offline one
    ├── UsageError              2  what was asked for cannot be understood
    │   ├── RecipeError            the recipe file
    │   └── ProjectError           the project folder, or a stage run out of order
    ├── DataError               3  the data is refused
    │   ├── ExpectationError       a recipe's expectation does not hold
    │   └── ArtifactError          a published artefact is damaged or incomplete
    ├── LeakageError            4  a feature knows the future
    ├── LostRankError          69  another process of the run died; all start again
    ├── SilentRankError        70  another process of the run does not answer
    └── InterruptedRun         75  stopped on request; the same command resumes

A message is one line: what is wrong, where, and what to do.
"""

from __future__ import annotations


class FeastrainError(Exception):
    """The work failed."""

    exit_code = 1


class SkewError(FeastrainError):
    """The online store answers other values than the offline join."""


class UsageError(FeastrainError):
    """What was asked for cannot be understood."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe is missing, malformed, or contradicts itself or the feature repo."""


class ProjectError(UsageError):
    """The project folder is not one, or a stage was asked for before the one it reads."""


class DataError(FeastrainError):
    """The data is refused; nothing was published."""

    exit_code = 3


class ExpectationError(DataError):
    """The data breaks an expectation of the recipe."""


class ArtifactError(DataError):
    """A published artefact is damaged, incomplete, or not what its name says."""


class LeakageError(FeastrainError):
    """A feature holds what could not be known at its time."""

    exit_code = 4


class LostRankError(FeastrainError):
    """Another process of a training run is gone; its launcher starts all of them again."""

    exit_code = 69


class SilentRankError(FeastrainError):
    """Another process of a training run does not answer: it is stuck, or its node is cut off."""

    exit_code = 70


class InterruptedRun(FeastrainError):  # noqa: N818 - being asked to stop is no error
    """Stopped on request with a checkpoint saved; the same command resumes."""

    exit_code = 75


BY_CODE: dict[int, type[FeastrainError]] = {
    error.exit_code: error
    for error in (
        FeastrainError,
        UsageError,
        DataError,
        LeakageError,
        LostRankError,
        SilentRankError,
        InterruptedRun,
    )
}
"""What a process that left with such a code meant."""
