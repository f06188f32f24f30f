import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from drivers_project import write_drivers
from feastrain import Project
from feastrain.cli import app
from feastrain.dataset.diff import Change
from feastrain.settings import Settings


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and link below a folder, with its size and when it was written."""
    return {
        path.relative_to(root).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def own(demand: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with its registry applied where it is; tests put back their edits."""
    root = tmp_path_factory.mktemp("plan") / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    project = Project(root)
    project.features("smoke")
    return project


@pytest.fixture
def recipe(own: Project) -> Any:
    """The text of the smoke recipe, put back afterwards."""
    path = own.root / "recipes" / "smoke.yaml"
    text = path.read_text()
    yield path
    path.write_text(text)


def test_a_plan_tells_what_the_build_made(demand: Project) -> None:
    """Of a recipe that was built: the same rows, borders and features, found in the cache."""
    before = tree(demand.root)
    plan = demand.plan("smoke")
    assert before == tree(demand.root)
    manifest = demand.snapshot("smoke").manifest
    assert manifest["rows"] == {part.name: part.rows for part in plan.parts}
    for part in plan.parts:
        if part.name != "unused":
            made = manifest["split"][part.name]
            for told, name in ((part.first, "first_cutoff"), (part.last, "last_cutoff")):
                assert datetime.fromisoformat(made[name]) == datetime.fromisoformat(told)
    assert (True, (), (), ()) == (plan.cached, plan.pending, plan.missing, plan.changed)
    assert str(demand.snapshot("smoke").path) == plan.snapshot
    assert set(manifest["columns"]["observed"]) == set(plan.features["observed"])
    assert plan.seconds is not None
    assert plan.seconds > 0
    snapshot = demand.snapshot("smoke")
    rows, known = snapshot.rows(), snapshot.known()
    values = len(rows) * len(rows.column_names) + len(known) * len(known.column_names)
    assert 8 * values == plan.memory_bytes
    sources = {source.name: source.rows for source in plan.sources}
    assert len(snapshot.labels()) == sources["(labels)"]


def test_a_fresh_project_says_what_is_missing(tmp_path: Path, small_tables: Path) -> None:
    """Nothing made yet: the plan names what comes first, what is not known, and makes nothing."""
    project = Project.init(tmp_path / "fresh", small_tables)
    before = tree(project.root)
    plan = project.plan("smoke")
    assert before == tree(project.root)
    assert (None, None, (), None, None) == (
        plan.cached,
        plan.snapshot,
        plan.parts,
        plan.memory_bytes,
        plan.seconds,
    )
    assert [
        "first: the transform makes the feature tables anew",
        "first: the feature repo is applied to its registry",
    ] == list(plan.pending)
    (missing,) = plan.missing
    assert "labels.parquet, the label source: split and rows are not known" in missing


def test_a_stale_project_is_planned_from_the_labels_it_has(own: Project) -> None:
    """An edited SQL file is told; split and rows come from the label source as it stands."""
    sql = own.root / "features.sql"
    text = sql.read_text()
    sql.write_text(text + "\n-- edited\n")
    plan = own.plan("smoke")
    sql.write_text(text)
    assert ("first: the transform makes the feature tables anew",) == plan.pending
    assert (None, 4) == (plan.cached, len(plan.parts))
    assert own.plan("smoke").parts == plan.parts


def test_a_changed_recipe_is_no_cache_hit(own: Project, recipe: Path) -> None:
    """The plan names the key that changed since the last snapshot, and the one to come."""
    recipe.write_text(recipe.read_text().replace("validation_cutoffs: 4", "validation_cutoffs: 3"))
    plan = own.plan("smoke")
    assert (Change("recipe.split.validation_cutoffs", 4, 3),) == plan.changed
    assert plan.cached is False
    assert own.snapshot("smoke").fingerprint == plan.last
    assert plan.snapshot not in {None, str(own.snapshot("smoke").path)}


def test_as_of_shortens_the_plan(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan --as-of --json` is the plan of what was known by then."""
    arguments = ["plan", "smoke", "-C", str(own.root), "--as-of", "2011-12-31", "--json"]
    app(arguments, standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert ["as_of"] == [change["key"] for change in told["changed"]]
    assert max(part["last"] for part in told["parts"]) < "2011-12-31"


def test_the_plan_is_shown(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A person reads the split, the sources and whether the snapshot is there."""
    app(["plan", "smoke", "-C", str(own.root)], standalone_mode=False)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())  # long paths are wrapped
    for told in ("embargo 8", "validation", "sales_lag_1", "rows x columns x 8", "made already"):
        assert told in text


def test_a_plan_without_transform_embargo_or_single_files(tmp_path: Path) -> None:
    """No transform is pending, no row is unused one period ahead, and a folder has no row count."""
    root = write_drivers(tmp_path / "drivers")
    recipe = root / "recipes" / "drivers.yaml"
    recipe.write_text(recipe.read_text().replace("horizon: 3", "horizon: 1"))
    source = root / "feature_repo" / "data" / "driver_stats.parquet"
    size = source.stat().st_size
    source.rename(root / "moved")
    source.mkdir()
    (root / "moved").rename(source / "part.parquet")
    project = Project(root, Settings())
    assert ("first: the feature repo is applied to its registry",) == project.plan(recipe).pending
    project.features("drivers")
    plan = project.plan("drivers")
    assert ((), ()) == (plan.pending, plan.missing)
    assert ["train", "validation", "test"] == [part.name for part in plan.parts]
    told = {source.name: (source.bytes, source.rows) for source in plan.sources}
    assert (size, None) == told["driver_hourly_stats"]
    assert 5 * 240 == told["(labels)"][1]
