import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feastrain import Project
from feastrain.cli import app
from feastrain.dataset.diff import OUTCOMES, Change, changed_inputs, compare_snapshots
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import ExpectationError, ProjectError

scalars = st.none() | st.integers(0, 3) | st.sampled_from("ab")
documents = st.dictionaries(
    st.sampled_from("xyz"),
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from("pqr"), inner, min_size=1, max_size=3)
        ),
        max_leaves=6,
    ),
)


@given(before=documents, after=documents)
def test_equal_inputs_have_no_change_and_others_have_one(before: dict, after: dict) -> None:
    """A difference is told exactly where there is one; an absent key is as good as null."""
    assert [] == changed_inputs(before, before)
    changes = changed_inputs(before, after)
    assert (_without_null(before) == _without_null(after)) == (changes == [])
    back = [Change(change.key, change.after, change.before) for change in changes]
    assert sorted(back, key=repr) == sorted(changed_inputs(after, before), key=repr)


def _without_null(document: object) -> object:
    if isinstance(document, dict):
        return {key: _without_null(value) for key, value in document.items() if value is not None}
    return document


def test_of_a_list_what_came_and_went_is_told() -> None:
    """Entries that are on both sides are left out, unless only their order changed."""
    before, after = {"list": [{"a": 1}, {"b": 2}]}, {"list": [{"c": 3}, {"a": 1}]}
    assert [Change("list", [{"b": 2}], [{"c": 3}])] == changed_inputs(before, after)
    assert [Change("list", [1], [])] == changed_inputs({"list": [1, 1]}, {"list": [1]})
    turned = changed_inputs({"list": [1, 2]}, {"list": [2, 1]})
    assert [Change("list", [1, 2], [2, 1])] == turned


def test_the_view_that_changed_is_told_rather_than_its_fingerprint() -> None:
    """Where a view's definition changed, the service's fingerprint says nothing more."""
    before = {"service": "aa", "views": {"sales": {"ttl_s": 1.0}}}
    after = {"service": "bb", "views": {"sales": {"ttl_s": 2.0}}}
    assert [Change("views.sales.ttl_s", 1.0, 2.0)] == changed_inputs(before, after)
    turned = after | {"views": before["views"]}
    assert [Change("service", "aa", "bb")] == changed_inputs(before, turned)


def test_an_expectation_that_no_longer_holds_is_an_outcome() -> None:
    """Its severity and how many rows fail are told where it was said to hold."""
    manifest = dict.fromkeys(OUTCOMES, 0) | {"inputs": {}}
    verdict = {"column": "price", "expectation": ">= 0", "severity": "warn", "rows": 4321}
    before, after = (
        Snapshot(Path(name), manifest | {"verdicts": [verdict | told]})
        for name, told in {
            "before": {"holds": True, "failures": 0},
            "after": {"holds": False, "failures": 1234},
        }.items()
    )
    (change,) = compare_snapshots(before, after).outcome
    assert Change("verdicts.price: >= 0", "holds", "warn: 1,234 of 4,321 fail") == change


@pytest.fixture(scope="module")
def rebuilt(demand: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project, built again with another split and another time to live."""
    root = tmp_path_factory.mktemp("diff") / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    recipe, views = root / "recipes" / "smoke.yaml", root / "feature_repo" / "features.py"
    recipe.write_text(
        recipe.read_text().replace("validation_cutoffs: 4", "validation_cutoffs: 6")
        + "\n# a comment changes nothing\n"
    )
    views.write_text(views.read_text().replace("timedelta(weeks=2)", "timedelta(weeks=3)"))
    project = Project(root)
    project.build("smoke")
    return project


def test_why_two_snapshots_differ(rebuilt: Project) -> None:
    """Each input that changed is named with its values, and so is what came of it."""
    difference = rebuilt.diff("smoke.previous", "smoke")
    week = 7 * 86_400.0
    assert {
        "recipe.split.validation_cutoffs": (4, 6),
        "views.sales_history_features.ttl_s": (2 * week, 3 * week),
        "views.seasonal_baseline_features.ttl_s": (2 * week, 3 * week),
        "views.store_external_features.ttl_s": (2 * week, 3 * week),
        "views.computed_features.ttl_s": (2 * week, 3 * week),
    } == {change.key: (change.before, change.after) for change in difference.inputs}
    outcome = {change.key: (change.before, change.after) for change in difference.outcome}
    assert (48, 72) == outcome["rows.validation"]
    assert outcome["split.train.last_cutoff"][0] > outcome["split.train.last_cutoff"][1]
    drift = "verdicts.(drift): PSI of every feature <= 0.25"
    assert (None, "holds") == outcome[drift]


def test_a_snapshot_does_not_differ_from_itself(rebuilt: Project) -> None:
    """By name and by fingerprint it is the same one."""
    snapshot = rebuilt.snapshot("smoke")
    difference = rebuilt.diff("smoke", snapshot.fingerprint)
    assert ((), ()) == (difference.inputs, difference.outcome)
    assert snapshot.path == rebuilt.snapshot(snapshot.path).path


def test_the_verb_tells_a_table_or_json(
    rebuilt: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """`diff A B` is a table to read, `--json` all of it."""
    arguments = ["diff", "smoke.previous", "smoke", "-C", str(rebuilt.root)]
    app(arguments, standalone_mode=False)
    assert "recipe.split.validation_cutoffs" in capsys.readouterr().out
    app([*arguments, "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert json.loads(json.dumps(rebuilt.diff("smoke.previous", "smoke").to_json())) == told


def test_an_unknown_snapshot_names_those_there_are(rebuilt: Project) -> None:
    """A name that is no snapshot is a usage error that lists what would be."""
    with pytest.raises(ProjectError, match=r"nowhere: no such snapshot; .*, smoke, smoke.previous"):
        rebuilt.snapshot("nowhere")


def test_drift_beyond_an_error_limit_stops_the_build(rebuilt: Project) -> None:
    """No snapshot appears, and the recipe's last one stays the last one."""
    recipe = rebuilt.root / "recipes" / "smoke.yaml"
    text = recipe.read_text()
    limits = "drift: {max_psi: 0.25, max_missing_change: 0.1, severity: warn}"
    assert limits in text
    recipe.write_text(text.replace(limits, "drift: {max_ks: 0.000001}"))
    folder = rebuilt.artifacts / "snapshots"
    before = sorted((path.name, path.resolve()) for path in folder.iterdir())
    try:
        with pytest.raises(ExpectationError, match="KS of every feature <= 1e-06 fails in") as told:
            rebuilt.build("smoke", as_of=datetime(2011, 12, 31, tzinfo=UTC))
    finally:
        recipe.write_text(text)
    assert 3 == told.value.exit_code
    assert before == sorted((path.name, path.resolve()) for path in folder.iterdir())
