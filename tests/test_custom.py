"""A network of the project's own: its code runs where it is trained, and nowhere else."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from feastrain import Project
from feastrain.errors import ArtifactError, RecipeError, UsageError
from feastrain.jobs.measured import last_measured
from feastrain.jobs.memory import TrainingRows, need_of_rank
from feastrain.jobs.train import Run
from feastrain.models.architecture import architecture, drawn
from feastrain.models.encoder import fit
from feastrain.models.network import Network, rehearse
from feastrain.recipe import Recipe, load_recipe, with_values
from feastrain.settings import Settings
from feastrain.training.files import recipe_of_run
from feastrain.training.usage import Usage
from pages import DOCS, run_page
from tiny_snapshot import COLUMNS, tiny_recipe, tiny_snapshot, tiny_tables

ENCODER = fit(COLUMNS, *tiny_tables())

HEAD = """
from __future__ import annotations
from dataclasses import astuple, dataclass
import torch
from torch import nn
from feastrain.models.mlp import increasing

@dataclass
class Shape:
    horizon: int
    quantiles: int

class Net(nn.Module):
    def __init__(self, *, row_numbers=0, static_numbers=0, horizon, quantiles, width=3, **sizes):
        super().__init__()
        self.shape = astuple(Shape(horizon, len(quantiles)))
        self.head = nn.Linear(row_numbers + static_numbers, horizon * len(quantiles))
"""
SOUND = """
    def forward(self, batch):
        free = self.head(batch.row_BF).view(-1, *self.shape)
        return increasing(free, 1)
"""
BACK = """
    def forward(self, batch):
        free = self.head(batch.static_BF.nan_to_num()).view(-1, *self.shape)
        mean = (batch.past_BLO.nan_to_num() * batch.valid_BL.unsqueeze(-1)).mean((1, 2))
        return increasing(free + mean[:, None, None], 1)
"""


def write(folder: Path, source: str = HEAD + SOUND, more: str = "") -> Path:
    """Write a network of a project, and return a recipe that names it."""
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "net.py").write_text(source)
    return tiny_recipe(folder, model=f"{{kind: python, network: 'models/net.py:Net'{more}}}")


def read(folder: Path, source: str = HEAD + SOUND, more: str = "") -> Recipe:
    """Return such a recipe with its code."""
    return load_recipe(write(folder, source, more), folder)


def rehearsed(recipe: Recipe, *, export: bool = False) -> None:
    """Try the recipe's network as a run does before it trains."""
    rehearse(architecture(recipe, ENCODER), recipe.members[0], export=export)


def test_the_how_to_ends_in_forecasts_that_need_no_code(
    own_demand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of the project's own is trained, scored and forecast with; then its code is gone."""
    run_page(DOCS / "how-to" / "add-a-model.md", monkeypatch)
    project = Project(own_demand, Settings())
    bundle = project.bundle("gru")
    assert "python" in [score.system for score in project.backtest("gru").scores]
    made = project.predict("gru").path.read_bytes()
    shutil.rmtree(own_demand / "artifacts" / "forecasts")
    shutil.rmtree(own_demand / "artifacts" / "runs")
    shutil.rmtree(own_demand / "models")
    assert made == project.predict("gru").path.read_bytes()
    assert [] == list(bundle.path.rglob("*.py"))
    assert "class Gru" not in (bundle.path / "lineage.json").read_text()
    about = json.loads((bundle.path / "model.json").read_text())
    with pytest.raises(UsageError, match=r"models/gru.py:Gru is code of a project, which is run"):
        Network.load(bundle.path, about)
    with pytest.raises(UsageError, match="of kind python, which selects and attends to nothing"):
        project.explain("gru")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "models/net.py: no such file; the recipe's model.network names it"),
        ("class Other: pass", "models/net.py: Net is not there"),
        ("class Net: pass", "models/net.py: Net is no torch.nn.Module"),
        ("def", "models/net.py: Net cannot be made: SyntaxError"),
        ("import nowhere", "models/net.py: Net cannot be made: ModuleNotFoundError"),
        (HEAD, "models/net.py:Net fails on a batch: NotImplementedError"),
        (
            HEAD + SOUND.replace("increasing(free, 1)", "free[:, 1:]"),
            "models/net.py:Net answers [3, 2, 3], not [3, 3, 3]: rows, horizon, quantiles",
        ),
        (
            HEAD + SOUND.replace("increasing(free, 1)", "[free]"),
            "models/net.py:Net answers list, not [3, 3, 3]",
        ),
        (
            HEAD + SOUND.replace("increasing(free, 1)", "free"),
            "models/net.py:Net answers quantiles that cross",
        ),
        (
            HEAD + SOUND.replace("self.head(batch.row_BF)", "torch.zeros(len(batch.row_BF), 9)"),
            "models/net.py:Net answers what depends on no weight",
        ),
        (
            HEAD + "        self.idle = nn.Linear(1, 1)\n" + SOUND,
            "models/net.py:Net has weights that play no part in its answer (idle.weight)",
        ),
        (
            HEAD
            + SOUND.replace("free, 1", "free + nn.functional.one_hot(batch.category_BC).sum(), 1"),
            "models/net.py:Net fails on a batch: RuntimeError: one_hot is only applicable to index",
        ),
        (
            HEAD + SOUND.replace("free, 1", "free / batch.unit_B[:, None, None], 1"),
            "models/net.py:Net fails on a batch: AttributeError",
        ),
    ],
)
def test_a_network_that_cannot_be_trained_is_one_line(
    tmp_path: Path, source: str | None, told: str
) -> None:
    """Before training begins: what is wrong with it, and where."""
    path = write(tmp_path, source or "")
    if source is None:
        (tmp_path / "models" / "net.py").unlink()
    with pytest.raises(RecipeError) as raised:
        rehearsed(load_recipe(path, tmp_path))
    line = str(raised.value)
    assert told in line
    assert 1 == len(line.splitlines())


def test_an_option_takes_no_place_of_a_size(tmp_path: Path) -> None:
    """The horizon is the recipe's."""
    told = "Net cannot be made: TypeError: .* multiple values for keyword argument 'horizon'"
    with pytest.raises(RecipeError, match=told):
        rehearsed(read(tmp_path, more=", options: {horizon: 9}"))


@pytest.mark.parametrize("network", ["net.py", "../net.py:Net", "/net.py:Net", "net.txt:Net"])
def test_a_network_is_a_file_of_the_project_and_a_class(tmp_path: Path, network: str) -> None:
    """Anything else is refused as the recipe is read."""
    path = tiny_recipe(tmp_path, model=f"{{kind: python, network: '{network}'}}")
    with pytest.raises(RecipeError, match=r"is no FILE.py:CLASS with the file's path within"):
        load_recipe(path)


def test_a_graph_is_held_to_its_network(tmp_path: Path) -> None:
    """One that looks back is written as it is; one of chance, or of values, is one line."""
    rehearsed(read(tmp_path, HEAD + BACK, ", context: 4"), export=True)
    chance = SOUND.replace("free, 1", "free + torch.rand_like(free[:, :1]), 1")
    with pytest.raises(RecipeError, match="Net answers otherwise as an ONNX graph than in"):
        rehearsed(read(tmp_path, HEAD + chance), export=True)
    values = SOUND.replace("free, 1", "free if free.sum() > 0 else -free, 1")
    with pytest.raises(RecipeError, match=r"Net cannot be written as an ONNX graph: \w+: "):
        rehearsed(read(tmp_path, HEAD + values), export=True)


def test_a_graph_is_held_to_nothing_where_none_is_written(tmp_path: Path) -> None:
    """A network that cannot be one is trained all the same, where nobody asks for it."""
    values = SOUND.replace("free, 1", "free if free.sum() > 0 else -free, 1")
    recipe = read(tmp_path, HEAD + values)
    rehearsed(recipe, export=False)
    with pytest.raises(RecipeError, match="cannot be written as an ONNX graph"):
        rehearsed(recipe, export=True)


def test_what_the_file_says_is_what_the_run_is(tmp_path: Path) -> None:
    """Another line is another run; a run keeps its own copy, and runs no other."""
    snapshot, path = tiny_snapshot(tmp_path), write(tmp_path)
    recipe = load_recipe(path, tmp_path)
    run = Run.of(recipe, snapshot, tmp_path)
    run.prepare(path, recipe)
    other = read(tmp_path, HEAD + SOUND + "# another line\n")
    assert run.fingerprint != Run.of(other, snapshot, tmp_path).fingerprint
    assert recipe == recipe_of_run(run.folder / "recipe.yaml")
    (run.folder / "code" / "models" / "net.py").write_text("raise SystemExit('not what was kept')")
    with pytest.raises(ArtifactError, match=r"net.py is damaged"):
        recipe_of_run(run.folder / "recipe.yaml")


def test_a_run_is_measured_by_runs_of_the_same_code(demand: Project, tmp_path: Path) -> None:
    """Other code is not run for it; a run without a recipe, or with a refused one, says nothing."""
    (tmp_path / "snapshots").symlink_to(demand.artifacts / "snapshots")
    snapshot, path = demand.snapshot("smoke"), write(tmp_path)
    recipe = load_recipe(path, tmp_path)
    run = Run.of(recipe, snapshot, tmp_path)
    run.prepare(path, recipe)
    trial = tmp_path / "runs" / "trial"
    trial.mkdir()
    older = tmp_path / "runs" / "older"
    older.mkdir()
    (older / "recipe.yaml").write_text("horizons: 8\n")
    for folder, peak in {run.folder: 1, trial: 2, older: 3}.items():
        Usage(snapshot.fingerprint, 1, peak, 0, None).save(folder)
    measured = last_measured(tmp_path, recipe)
    assert measured is not None
    assert 1 == measured.peak_bytes
    other = read(tmp_path, HEAD + SOUND + "# another line\n")
    assert last_measured(tmp_path, other) is None


def test_a_network_is_sized_and_tuned_by_its_options(tmp_path: Path) -> None:
    """A wider one needs more memory, with the code that is read once."""
    wide = HEAD.replace("self.head", "self.wide = nn.Linear(9, width)\n        self.head")
    recipe = read(tmp_path, wide + SOUND, ", options: {width: 1}")
    wider = with_values(recipe, {"model.options.width": 100_001})
    rows = TrainingRows(COLUMNS, {"train": 100, "validation": 10}, 160.0, series=8, periods=60)
    narrow_step, wide_step = (need_of_rank(rows, one).network for one in (recipe, wider))
    assert narrow_step is not None
    assert wide_step is not None
    assert 100_000 * 10 == wide_step.parameters - narrow_step.parameters


def test_an_example_is_the_same_every_time(tmp_path: Path) -> None:
    """So that a network is refused every time, or never."""
    made = architecture(read(tmp_path, HEAD + BACK, ", context: 4"), ENCODER)
    one, other = (vars(drawn(made, 3, missing=0.1)) for _ in range(2))
    assert all(torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one)
