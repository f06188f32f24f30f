"""Peak memory of a rank: what `feastrain plan` asks for against what real runs needed.

A grid of short runs under torchrun, on some of the stores of the synthetic twin: models, widths,
batches, rows, one and two ranks. `over` is what was asked for beyond the peak of the rank that
needed most, as a share of it: below 0 a queue would have killed the run. The bench fails where
one is below 0, and says which are above 0.25.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml

from feastrain import Project
from feastrain.artifacts import publishing
from feastrain.dataset.snapshot import Snapshot, part_name, write_table
from feastrain.jobs.backends import MALLOC
from feastrain.jobs.memory import TrainingRows, need_of_rank
from feastrain.recipe import load_recipe
from figures import Figure, options, tell

NAME = "sizing"
WORKER = Path(__file__).with_name("sizing_worker.py")
MOST_OVER = 0.25


@dataclass(frozen=True)
class Case:
    """A recipe of the reference application with other values, and how many stores it sees."""

    recipe: str
    stores: int
    processes: int = 1
    epochs: int = 1
    batch_rows: int = 512
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What differs from one case to the next."""
        given = {**self.model, **self.training}
        said = " ".join(f"{key}={value}" for key, value in given.items() if key != "members")
        about = f"{self.recipe} stores={self.stores} ranks={self.processes}"
        return f"{about} batch={self.batch_rows} {said}".rstrip()


TREES = [{"kind": "trees", "baseline": "baseline", "rounds": 3, "leaves": 31}]
GRID = (
    Case("mlp", 4, epochs=4, batch_rows=1024, model={"hidden": [256, 256]}),
    Case("mlp", 4, epochs=4, batch_rows=4096, model={"hidden": [256, 256]}),
    Case("mlp", 4, processes=2, epochs=4, batch_rows=4096, model={"hidden": [256, 256]}),
    Case("mlp", 12, batch_rows=16384, model={"hidden": [8]}),
    Case("mlp", 45, batch_rows=16384, model={"hidden": [8]}),
    Case("mlp", 4, batch_rows=4096, model={"hidden": [256] * 6}, training={"recompute": True}),
    Case("tft", 2, batch_rows=512),
    Case("tft", 2, batch_rows=2048),
    Case("tft", 2, processes=2, batch_rows=1024),
    Case("tft", 12, batch_rows=16384, model={"hidden": 2, "heads": 1, "context": 2}),
    Case("best", 4, model={"members": TREES, "weights": None}),
    Case("best", 12, model={"members": TREES, "weights": None}),
    Case("best", 4),
)
QUICK = (GRID[0], GRID[6], GRID[10])


def main() -> None:
    """Run every case, and compare."""
    asked = options(__doc__)
    figures, short = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = Project.init(folder / "demand").root
        for case in QUICK if asked.quick else GRID:
            snapshot, recipe = _snapshot(folder, root, case), _recipe(folder, root, case)
            rows = TrainingRows.of(snapshot.manifest)
            expected = need_of_rank(rows, load_recipe(recipe)).asked
            peak = measure(folder, case.processes, recipe, snapshot.path)
            over = expected / peak - 1
            values = {"asked_mb": expected / 1e6, "peak_mb": peak / 1e6, "over": over}
            figures += [Figure(NAME, case.name, "feastrain", *item) for item in values.items()]
            if over < 0:
                short.append(case.name)
            print(f"{case.name}: {over:+.0%}", file=sys.stderr)
    tell(figures, asked.json)
    far = [f.case for f in figures if f.metric == "over" and f.value > MOST_OVER]
    print(f"more than {MOST_OVER:.0%} over: {', '.join(far) or 'none'}")
    if short:
        sys.exit(f"asked for less than was needed: {', '.join(short)}")


def measure(folder: Path, processes: int, recipe: Path, snapshot: Path) -> int:
    """Run the ranks of a training, and return the bytes of the one that needed most."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run = Path(name)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
        command += [str(processes), str(WORKER), name, "--recipe", str(recipe)]
        command += ["--snapshot", str(snapshot), "--folder", str(run / "run")]
        command += ["--bundle", str(run / "bundle")]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | MALLOC
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        return max(int(path.read_text()) for path in run.glob("peak-*"))


def _snapshot(folder: Path, root: Path, case: Case) -> Snapshot:
    """Return the recipe's snapshot with the rows of its first stores alone."""
    final = folder / f"{case.recipe}-{case.stores}"
    if not final.is_dir():
        whole = Project(root).build(case.recipe)
        store = whole.columns.entities[0]
        rows = whole.rows()
        rows = rows.filter(pc.less_equal(rows[store], case.stores))
        series = rows.group_by(list(whole.columns.entities)).aggregate([])
        manifest = {key: value for key, value in whole.manifest.items() if key != "files"}
        manifest |= {"rows": Counter(rows["split"].to_pylist()), "series": len(series)}
        with publishing(final, manifest) as scratch:
            write_table(scratch, part_name(0), rows)
            write_table(scratch, "known", whole.known())
            write_table(scratch, "labels", whole.labels())
    return Snapshot.open(final)


def _recipe(folder: Path, root: Path, case: Case) -> Path:
    content = yaml.safe_load((root / "recipes" / f"{case.recipe}.yaml").read_text())
    content["model"] |= case.model
    given = {"processes": case.processes, "epochs": case.epochs, "batch_rows": case.batch_rows}
    content["training"] |= {**given, "patience": 99, **case.training}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(content))
    return path


if __name__ == "__main__":
    main()
