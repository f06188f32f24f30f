"""A new bundle takes the place of the one that is served only where it is better."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from feastrain import Project
from feastrain.cli import app
from feastrain.errors import DataError, ProjectError
from feastrain.evaluation.promotion import compare
from feastrain.jobs.train import train
from feastrain.models.bundle import load_bundle
from tiny_snapshot import tiny_recipe, tiny_snapshot, tiny_tables


@pytest.fixture
def shop(demand: Project, tmp_path: Path) -> Project:
    """A copy of the trained project."""
    root = tmp_path / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    return Project(root)


def retrained(shop: Project, **training: float) -> str:
    """Train the recipe as a candidate with other values; return the fingerprint of its bundle."""
    path = shop.recipe_path("smoke")
    lines = path.read_text().splitlines()
    for key, value in training.items():
        (place,) = [at for at, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
        lines[place] = f"  {key}: {value}"
    path.write_text("\n".join(lines) + "\n")
    return shop.train("smoke", candidate=True).fingerprint


def served(shop: Project) -> str:
    """Return the fingerprint of the bundle that is served."""
    return shop.bundle("smoke").fingerprint


def test_a_candidate_is_not_served_until_it_has_won(shop: Project) -> None:
    """Training and scoring it leaves the link alone; a worse one stays out, with exit code 1."""
    before = served(shop)
    worse = retrained(shop, learning_rate=1e-9)
    assert before != worse
    assert before == served(shop)
    result = CliRunner().invoke(app, ["promote", "smoke", "-C", str(shop.root)])
    assert result.exit_code == 1
    assert "stays out" in str(result.exception)
    assert before == served(shop)
    assert not shop.promote("smoke").promotes


def test_a_better_candidate_is_served(shop: Project) -> None:
    """It beats one that learned nothing; how much better it has to be can be said."""
    good = served(shop)
    worse = retrained(shop, learning_rate=1e-9)
    links = shop.artifacts / "bundles"
    link, candidate = links / "smoke", links / "smoke.candidate"
    for path, name in ((link, worse), (candidate, good)):
        path.unlink()
        path.symlink_to(name)
    compared = shop.promote("smoke", better_by=0.99)
    assert (worse, False) == (served(shop), compared.promotes)
    compared = shop.promote("smoke")
    assert (good, True) == (served(shop), compared.promotes)
    assert compared.served_wmae is not None
    assert compared.candidate_wmae < compared.served_wmae


def test_the_first_candidate_has_nobody_to_beat(shop: Project) -> None:
    """Where nothing is served yet."""
    name = retrained(shop)
    (shop.artifacts / "bundles" / "smoke").unlink()
    assert shop.promote("smoke").promotes
    assert name == served(shop)


def test_rows_without_a_label_compare_nothing(tmp_path: Path) -> None:
    """A candidate whose test rows have no label is neither better nor worse."""
    snapshot = tiny_snapshot(tmp_path / "labelled")
    model = "{kind: baseline, baseline: last_year}"
    bundle = load_bundle(train(tiny_recipe(tmp_path, 1, model), snapshot, tmp_path).path)
    assert compare(bundle, None, snapshot).rows > 0
    rows, _ = tiny_tables()
    none = pa.nulls(len(rows), pa.float64())
    for name in [name for name in rows.column_names if name.startswith(("label_", "weight_"))]:
        rows = rows.set_column(rows.schema.get_field_index(name), name, none)
    unlabelled = tiny_snapshot(tmp_path / "unlabelled", rows=rows)
    told = f"snapshot {unlabelled.fingerprint} has no test row with a label to compare on"
    with pytest.raises(DataError, match=told):
        compare(bundle, None, unlabelled)


def test_there_is_nothing_to_promote(shop: Project) -> None:
    """One line says how a candidate is made."""
    with pytest.raises(ProjectError, match="feastrain train smoke --candidate"):
        shop.promote("smoke")
