"""The demonstration: every stage in turn, from raw tables to forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feastrain.errors import ProjectError
from feastrain.project import Project
from feastrain.report import show_facts, show_leaderboard
from feastrain.telemetry import say

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.evaluation.backtest import Backtest


@dataclass(frozen=True)
class Demo:
    """What the demonstration made, and where it lies."""

    project: Project
    source: str
    backtest: Backtest
    artifacts: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "project": str(self.project.root),
            "source": self.source,
            "backtest": self.backtest.to_json(),
            "artifacts": self.artifacts,
        }


def run_demo(directory: Path, data: Path | None, recipe: str) -> Demo:
    """Run every stage on the project in `directory`, making it first where there is none.

    Raises:
        ProjectError: the project there was made from other raw tables than `data`.
    """
    if (directory / "recipes").is_dir():
        project = Project(directory)
        if data is not None and str(data.resolve()) not in str(project.raw_facts()["source"]):
            message = (
                f"{directory} was made from {project.raw_facts()['source']}, not from {data}; "
                "name another folder, or remove this one"
            )
            raise ProjectError(message)
    else:
        project = Project.init(directory, data)
    source = str(project.raw_facts()["source"])
    say(f"Running on {source}.")
    result = project.backtest(recipe)
    project.train(recipe)  # What a backtest trained is not served; this is there already.
    project.materialize(recipe)
    forecast = project.predict(recipe)
    bundle = project.bundle(recipe)
    artifacts = {
        "feature tables": project.root / "data" / "features",
        "snapshot": project.artifacts / "snapshots" / bundle.lineage["snapshot"],
        "bundle": bundle.path,
        "backtest": result.path,
        "forecasts": forecast.path,
    }
    return Demo(project, source, result, {name: str(path) for name, path in artifacts.items()})


def show_demo(result: Demo) -> None:
    """Print the leaderboard, and where each artefact lies."""
    show_leaderboard(result.backtest)
    show_facts(f"Made from {result.source}", result.artifacts)
