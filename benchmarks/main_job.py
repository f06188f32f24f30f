"""The main job end to end: seconds for each stage, and the model against its baselines.

On the synthetic twin, and on Kaggle's tables where FEASTRAIN_WALMART_DIR or
../shared/data/walmart has them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import WALMART, Figure, options, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "main_job"
STAGES = (
    *("init", "engineer", "apply", "build", "train", "forecast", "backtest", "materialize"),
    "predict",
)


def main() -> None:
    """Run the demonstration on every data set there is, twice each."""
    asked = options(__doc__)
    recipe = "smoke" if asked.quick else "mlp"
    walmart = Path(os.environ.get("FEASTRAIN_WALMART_DIR") or WALMART)
    figures = [*_case("twin", recipe, None)]
    if walmart.is_dir():
        figures += _case("walmart", recipe, walmart)
    tell(figures, asked.json)


def _case(case: str, recipe: str, data: Path | None) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "feastrain", "demo", f"{folder}/demand", "--no-serve"]
        command += ["--json", "--recipe", recipe, *(["--data", str(data)] if data else [])]
        first, seconds = _run(command)
        _, again = _run(command)
    yield Figure(NAME, case, "feastrain", "wall_s", seconds)
    yield Figure(NAME, case, "feastrain", "again_s", again)
    for stage in STAGES:
        yield Figure(NAME, case, "feastrain", f"{stage}_s", first["stages"][stage])
    for entry in first["backtest"]["scores"]:
        for metric in ("wmae", "wape", "bias", "coverage"):
            if entry["scores"][metric] is not None:
                yield Figure(NAME, case, entry["system"], metric, entry["scores"][metric])


def _run(command: list[str]) -> tuple[dict[str, object], float]:
    started = time.perf_counter()
    # The data set is the case's alone: the twin is not to become Kaggle's tables.
    place = {k: v for k, v in os.environ.items() if k != "FEASTRAIN_WALMART_DIR"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=place)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    stages: dict[str, float] = {}
    for event in events:
        if event["event"] == "stage":
            stages.setdefault(event["stage"], event["seconds"])
    return {**json.loads(done.stdout), "stages": stages}, seconds


if __name__ == "__main__":
    main()
