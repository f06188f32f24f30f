"""Planted leaks are caught and named; clean features raise no alarm. Thirty seeds of each.

The thirty seeds run on the parts of the audit themselves, with a plain point-in-time join in
place of Feast's; a few runs go the whole way through Feast.
"""

import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers_project import write_drivers
from feastrain import Project
from feastrain.artifacts import source_digests
from feastrain.cli import main
from feastrain.dataset.audit.alarm import Alarm, out_of_sample_errors, raise_alarms
from feastrain.dataset.audit.copies import Change, Copies, make_copies
from feastrain.dataset.audit.html import as_html
from feastrain.dataset.audit.perturb import facts, mutate
from feastrain.dataset.audit.proof import Bench, Move, Moves, Proof, compare, differs
from feastrain.dataset.audit.reach import Reach, find_reaches
from feastrain.dataset.audit.report import AuditReport, Example, Finding, require_clean
from feastrain.dataset.audit.sample import Plan, draw
from feastrain.dataset.audit.trace import trace
from feastrain.dataset.audit.verdicts import judge
from feastrain.dataset.join import JoinRequest, join
from feastrain.dataset.service import Service, resolve_service
from feastrain.errors import DataError, LeakageError, RecipeError
from feastrain.settings import Settings
from feastrain.stores.feature_repo import open_store, quiet_offline_store
from feastrain.stores.replica import views_behind
from planted_leaks import DICE, LEAKS, PLANTED, append, plant, point_in_time_reader
from tiny_snapshot import COLUMNS

SEEDS = range(30)


def joined_of(root: Path, recipe: str):
    """Return the training set of a project, read through Feast."""
    project = Project(root, Settings())
    store, asked = project.features(recipe), project.recipe(recipe)
    folder = root / "joined"
    folder.mkdir(exist_ok=True)
    request = JoinRequest(project.root, asked, store)
    joined = join(request, resolve_service(store, asked), folder)
    return dataclasses.replace(joined, rows=joined.rows.select(joined.rows.column_names))


def bench_of(joined, *, by_created: bool = True):
    """Return an audit's bench for a training set, which reads its copies without Feast."""
    scratch = joined.root / f"copies-{by_created}"
    scratch.mkdir()
    views = views_behind(joined.store, joined.recipe.features.service)
    copies = make_copies(joined.root, joined.recipe, joined.store, views, scratch)
    return Bench(joined, copies, point_in_time_reader(joined, copies, by_created=by_created))


def moved(bench, seed: int, cutoffs: int = 2, rows: int = 24) -> set[str]:
    """Return the features that move at a seed, as `build` looks for them."""
    plan = Plan(cutoffs, rows, seed, ("mixed",))
    found: dict[str, object] = {}
    for number, (cutoff, sample) in enumerate(draw(bench.joined.rows, bench.copies.tables(), plan)):
        bench.make(Change(cutoff, "mixed", seed + number), sample, found, [])
    return set(found)


@pytest.fixture(scope="module")
def clean_root(tmp_path_factory: pytest.TempPathFactory, small_tables: Path) -> Path:
    """The reference application on the small tables."""
    root = tmp_path_factory.mktemp("clean") / "demand"
    Project.init(root, small_tables)
    return root


@pytest.fixture(scope="module")
def planted_root(tmp_path_factory: pytest.TempPathFactory, clean_root: Path) -> Path:
    """The reference application with every leak planted, beside its clean features."""
    root = tmp_path_factory.mktemp("planted") / "demand"
    shutil.copytree(clean_root, root, symlinks=True, ignore=shutil.ignore_patterns("copies-*"))
    plant(root)
    return root


@pytest.fixture(scope="module")
def clean(clean_root: Path):
    return bench_of(joined_of(clean_root, "smoke"))


@pytest.fixture(scope="module")
def planted(planted_root: Path):
    return bench_of(joined_of(planted_root, "smoke"))


@pytest.fixture(scope="module")
def drivers_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feast's own example as a project: no transform, an on-demand view, a push source."""
    return write_drivers(tmp_path_factory.mktemp("drivers") / "drivers")


@pytest.fixture(scope="module")
def drivers(drivers_root: Path):
    joined = joined_of(drivers_root, "drivers")
    stored = [f for f in joined.service.row_features if not f.startswith("transformed_conv_rate")]
    service = dataclasses.replace(joined.service, row_features=tuple(stored))
    return dataclasses.replace(joined, service=service)


# The proof -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_leaks_are_caught_and_clean_features_are_not(planted, seed: int) -> None:
    """At every seed exactly the planted leaks move, and the feature that never is the same."""
    assert PLANTED | {DICE} == moved(planted, seed)


def test_the_clean_application_is_clean_at_every_seed(clean) -> None:
    """No feature of the reference application moves, the known-ahead ones included."""
    assert {} == {seed: found for seed in SEEDS for found in [moved(clean, seed)] if found}


def test_what_is_never_the_same_is_unstable_and_no_leak(planted) -> None:
    """A random feature is told from the leaks, though it moves as they do."""
    proof = compare(planted, Plan(1, 12, 0, ("scrambled", "absent")))
    assert {DICE} == set(proof.unstable)
    assert DICE not in proof.moved


def test_each_mutation_finds_what_the_other_cannot(planted) -> None:
    """A count of later rows moves only when they are gone."""
    found = {
        mutation: set(compare(planted, Plan(2, 24, 0, (mutation,))).moved)
        for mutation in ("scrambled", "absent")
    }
    assert "planted:corrected_sales" in found["scrambled"] - found["absent"]
    assert PLANTED == found["scrambled"] | found["absent"]


def with_sql(copies: Copies, sql: Path) -> Copies:
    """Return copies that are made by other SQL, and the same Python after it."""
    return dataclasses.replace(copies, steps=dataclasses.replace(copies.steps, sql=sql))


def test_facts_that_break_the_transform_are_taken_away(clean, tmp_path: Path) -> None:
    """SQL that refuses changed values is proven without the later rows, and the report says so."""
    sql = tmp_path / "fragile.sql"
    shutil.copy(clean.copies.steps.sql, sql)
    append(
        sql,
        "CREATE TABLE features.f AS SELECT if(cpi < 0, error('no price'), 1) FROM raw.externals;",
    )
    fragile = dataclasses.replace(clean, copies=with_sql(clean.copies, sql))
    proof = compare(fragile, Plan(1, 12, 0, ("scrambled",)))
    assert {} == proof.moved
    (note,) = proof.notes
    assert "the transform fails where later facts are scrambled" in note
    assert "no price" in note


def test_a_transform_that_needs_the_future_is_an_error(clean, tmp_path: Path) -> None:
    """SQL that fails without later rows ends the audit, which says what it was doing."""
    sql = tmp_path / "needy.sql"
    shutil.copy(clean.copies.steps.sql, sql)
    weeks = len(pc.unique(clean.copies.raw[0].table["date"]))
    append(sql, f"SELECT if(count(DISTINCT date) < {weeks}, error('gone'), 1) FROM raw.externals;")
    needy = dataclasses.replace(clean, copies=with_sql(clean.copies, sql))
    with pytest.raises(DataError, match=r"without what came after .*gone"):
        compare(needy, Plan(1, 12, 0, ("absent",)))


def test_a_leak_is_traced_to_its_column(planted) -> None:
    """Each leak names the raw columns that it moves with."""
    proof = compare(planted, Plan(1, 12, 0, ("mixed",)))
    trace(proof.moved, planted.copies, planted.moved_by)
    sources = {name: set(moves.sources) for name, moves in proof.moved.items()}
    assert {"sales.weekly_sales"} == sources["planted:lag_off_by_one"]
    assert {"externals.temperature"} == sources["planted_early:temperature_too_early"]
    assert {"sales.weekly_sales", "externals.markdown_1"} >= sources["planted:markdown_efficiency"]
    assert all(sources.values())


def test_a_repo_without_transform_is_clean_at_every_seed(drivers) -> None:
    """Feast's own example is clean, its late corrections and its push source included."""
    bench = bench_of(drivers)
    assert {} == {s: found for s in SEEDS for found in [moved(bench, s, rows=10)] if found}


def test_a_store_that_ignores_when_rows_were_created_is_caught(drivers) -> None:
    """Reading late corrections at once is a leak, of every feature of the view."""
    bench = bench_of(drivers, by_created=False)
    wanted = {f"driver_hourly_stats:{name}" for name in ("conv_rate", "acc_rate")}
    for seed in SEEDS:
        assert wanted <= moved(bench, seed, rows=10), seed


# The whole way ---------------------------------------------------------------------------------


def test_a_leak_stops_the_build(planted_root: Path, planted) -> None:
    """No snapshot appears; the line and the report name the leak, its view, row and source."""
    project = Project(planted_root, Settings())
    with pytest.raises(LeakageError) as caught:
        project.build("smoke")
    line = str(caught.value)
    (path,) = (project.artifacts / "audits").glob("*/report.html")
    assert 4 == caught.value.exit_code
    assert "\n" not in line
    assert line.endswith(f"the full report is {path}")
    for told in (
        "of view 'planted",
        "(through ",
        " rows moved",
        "e.g. store ",
        "at cut-off",
        " -> ",
    ):
        assert told in line
    assert not list((project.artifacts / "snapshots").glob("*"))
    report = AuditReport.from_json(json.loads(path.with_name("audit.json").read_text()))
    assert PLANTED == {f"{finding.view}:{finding.feature}" for finding in report.of("leak")}
    assert [DICE] == [f"{finding.view}:{finding.feature}" for finding in report.of("unstable")]
    page = path.read_text()
    assert all(name in page for name in LEAKS)


def test_a_snapshot_says_how_it_was_audited(demand: Project) -> None:
    """The manifest of the clean application holds the verdict and what it rests on."""
    snapshot = demand.build("smoke")
    audit = snapshot.manifest["audit"]
    assert ("clean", 2, 84, 0) == (
        audit["verdict"],
        len(audit["cutoffs"]),
        audit["features"],
        audit["seed"],
    )
    assert (demand.artifacts / "audits" / audit["fingerprint"] / "report.html").is_file()


@pytest.fixture
def drivers_copy(drivers_root: Path, tmp_path: Path) -> Path:
    """A project of drivers to spoil."""
    root = tmp_path / "drivers"
    return Path(
        shutil.copytree(drivers_root, root, ignore=shutil.ignore_patterns("artifacts", "copies-*"))
    )


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["feastrain", *arguments])
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_the_verb_on_a_clean_repo(
    drivers_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`audit` ends in 0, prints JSON, copies its page, and leaves the registry alone."""
    Project(drivers_copy, Settings()).features("drivers")
    data = drivers_copy / "feature_repo" / "data"
    before = source_digests(data)
    page = tmp_path / "audit.html"
    options = ["-C", str(drivers_copy), "--cutoffs", "3", "--rows", "15", "--seed", "7"]
    arguments = ["audit", "drivers", *options, "--json", "--html", str(page)]
    assert 0 == run(arguments, monkeypatch)
    printed = json.loads(capsys.readouterr().out)
    assert ("clean", 3, 15, 7) == (
        printed["verdict"],
        len(printed["cutoffs"]),
        printed["rows"],
        printed["seed"],
    )
    assert page.read_bytes() == (Path(printed["path"]) / "report.html").read_bytes()
    assert before == source_digests(data)
    assert 0 == run(arguments, monkeypatch)
    assert '"stage": "audit"' in (told := capsys.readouterr().err)
    assert '"cached": true' in told.splitlines()[-1]


def test_the_verb_on_a_label_within_reach(
    drivers_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`audit` ends in 4 and one line when a view reads the label source; so does `build`."""
    repo = drivers_copy / "feature_repo" / "definitions.py"
    repo.write_text(repo.read_text().replace("driver_stats.parquet", "trips.parquet", 1))
    for verb in ("audit", "build"):
        assert 4 == run([verb, "drivers", "-C", str(drivers_copy)], monkeypatch)
        told = [line for line in capsys.readouterr().err.splitlines() if line[0] != "{"]
        assert 1 == len(told)
        assert "view 'driver_hourly_stats' of the service reads the label source" in told[0]


def test_a_label_within_reach_is_reported_once(drivers_copy: Path) -> None:
    """An audit that finds it again leaves the report as it is."""
    repo = drivers_copy / "feature_repo" / "definitions.py"
    repo.write_text(repo.read_text().replace("driver_stats.parquet", "trips.parquet", 1))
    project = Project(drivers_copy, Settings())
    first = project.audit("drivers")
    before = first.html.stat().st_mtime_ns
    again = project.audit("drivers")
    assert ("leak", first.path, first.report) == (again.report.verdict, again.path, again.report)
    assert before == again.html.stat().st_mtime_ns


def test_what_a_killed_writer_left_is_swept_away(drivers_copy: Path) -> None:
    """Half a part beside the parts is no part of a training set."""
    (drivers_copy / "joined").mkdir(exist_ok=True)
    (drivers_copy / "joined" / ".part-00000.4242").write_text("half")
    joined = joined_of(drivers_copy, "drivers")
    assert len(joined.rows) == sum(joined.counts.values()) > 0
    names = [path.name for path in (drivers_copy / "joined").iterdir()]
    assert ["part-00000.parquet"] == names


def test_an_audit_switched_off_is_on_record(drivers_copy: Path) -> None:
    """A recipe may do without the audit; its snapshot says that it was not audited."""
    recipe = drivers_copy / "recipes" / "drivers.yaml"
    append(recipe, "audit: {enabled: false}\n")
    snapshot = Project(drivers_copy, Settings()).build("drivers")
    assert {"verdict": "not audited"} == snapshot.manifest["audit"]
    assert not (drivers_copy / "artifacts" / "audits").exists()


# Reach -----------------------------------------------------------------------------------------

REACHES = """
import pandas as pd
from feast import RequestSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)


def view(name, source, *fields):
    return FeatureView(
        name=name, entities=[driver], source=source,
        schema=[Field(name=field, dtype=Float64) for field in fields],
    )


def files(name, **options):
    return FileSource(name=name, timestamp_field="event_timestamp", **options)


def table(**options):
    return PostgreSQLSource(timestamp_field="event_timestamp", **options)


STATS = str(DATA / "driver_stats.parquet")
as_feature = view("as_feature", files("s1", path=STATS), "trips")
renames = files("s2", path=STATS, field_mapping={"trips": "rides"})
renamed = view("renamed", renames, "rides", "acc_rate")
linked = view("linked", files("s3", path=str(DATA / "link.parquet")), "x")
folder = view("folder", files("s4", path=str(DATA)), "x")
pattern = view("pattern", files("s5", path=str(DATA / "t*.parquet")), "x")
by_url = view("by_url", files("s6", path="file://" + str(DATA / "trips.parquet")), "x")
in_table = view("in_table", table(name="s7", table="public.trips"), "x")
in_query = view("in_query", table(name="s8", query='SELECT * FROM "trips" WHERE true'), "x")
harmless = view("harmless", table(name="s9", query="SELECT trips FROM trips_before"), "x")


@on_demand_feature_view(sources=[as_feature], schema=[Field(name="y", dtype=Float64)])
def through_a_view(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"y": inputs["trips"]})


@on_demand_feature_view(
    sources=[RequestSource(name="asked", schema=[Field(name="trips", dtype=Float64)])],
    schema=[Field(name="z", dtype=Float64)],
)
def through_a_request(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"z": inputs["trips"]})


@on_demand_feature_view(sources=[linked], schema=[Field(name="w", dtype=Float64)])
def through_a_source(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"w": inputs["x"]})


@on_demand_feature_view(sources=[renamed], schema=[Field(name="v", dtype=Float64)])
def through_a_name(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"v": inputs["rides"]})


@on_demand_feature_view(
    sources=[renamed[["acc_rate"]]], schema=[Field(name="u", dtype=Float64)]
)
def beside_a_name(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"u": inputs["acc_rate"]})


services = [
    FeatureService(name=v.name, features=[v])
    for v in (as_feature, renamed, linked, folder, pattern, by_url, in_table, in_query, harmless,
              through_a_view, through_a_request, through_a_source, through_a_name)
] + [FeatureService(name="beside_a_name", features=[renamed, beside_a_name])]
s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13 = services
"""

BY_SOURCE = (
    "view {!r} of the service reads the label source {}; keep labels out of the feature service"
)
AS_INPUT = "the on-demand view {!r} reads the label 'trips' from {}; take it out of its sources"
RENAMED = (
    "feature 'rides' of view 'renamed' is the label 'trips' under another name (field_mapping); "
    "remove it there"
)
WAYS = {
    "as_feature": (
        "as_feature",
        "trips",
        "the label 'trips' is in the feature service 'as_feature' (view 'as_feature'); "
        "remove it there",
    ),
    "renamed": ("renamed", "rides", RENAMED),
    "linked": ("linked", "", BY_SOURCE.format("linked", "DATA/link.parquet")),
    "folder": ("folder", "", BY_SOURCE.format("folder", "DATA")),
    "pattern": ("pattern", "", BY_SOURCE.format("pattern", "DATA/t*.parquet")),
    "by_url": ("by_url", "", BY_SOURCE.format("by_url", "DATA/trips.parquet")),
    "in_table": ("in_table", "", BY_SOURCE.format("in_table", "'public.trips'")),
    "in_query": ("in_query", "", BY_SOURCE.format("in_query", "'trips' in its query")),
    "through_a_view": (
        "through_a_view",
        "trips",
        AS_INPUT.format("through_a_view", "the view 'as_feature'"),
    ),
    "through_a_request": (
        "through_a_request",
        "trips",
        AS_INPUT.format("through_a_request", "the request source 'asked'"),
    ),
    "through_a_name": ("renamed", "rides", RENAMED),
    "beside_a_name": ("renamed", "rides", RENAMED),
    "through_a_source": ("linked", "", BY_SOURCE.format("linked", "DATA/link.parquet")),
    "harmless": None,
}


@pytest.fixture(scope="module")
def reaches_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Reach]]:
    """Finds the ways to the label from one service of a repo with all of them."""
    root = write_drivers(tmp_path_factory.mktemp("reach") / "drivers")
    definitions = root / "feature_repo" / "definitions.py"
    append(definitions, REACHES)
    data = definitions.parent / "data"
    (data / "link.parquet").symlink_to("trips.parquet")
    store = open_store(root / "feature_repo")
    spec = importlib.util.spec_from_file_location("ways_to_the_label", definitions)
    module = importlib.util.module_from_spec(spec)
    with quiet_offline_store():  # `feast apply` would ask the databases, which do not exist
        spec.loader.exec_module(module)
        for service in module.services:
            store.registry.apply_feature_service(service, store.project)
        for view in (module.as_feature, *(getattr(module, name) for name in WAYS)):
            store.registry.apply_feature_view(view, store.project)
    recipe = Project(root, Settings()).recipe("drivers")

    def of(service: str) -> list[Reach]:
        features = recipe.features.model_copy(update={"service": service})
        found = find_reaches(root, recipe.model_copy(update={"features": features}), store)
        return [
            dataclasses.replace(reach, fact=reach.fact.replace(str(data), "DATA"))
            for reach in found
        ]

    return of


@pytest.mark.parametrize("service", WAYS)
def test_ways_to_the_label(reaches_of: Callable[[str], list[Reach]], service: str) -> None:
    """The label is found as a feature, renamed, as an input, in a file, a table or a query."""
    expected = WAYS[service]
    assert ([] if expected is None else [Reach(*expected)]) == reaches_of(service)


# The alarm -------------------------------------------------------------------------------------


def with_feature(joined, values: pa.ChunkedArray):
    """Return the training set with the values in the place of one of its features."""
    position = joined.rows.schema.get_field_index("sales_growth")
    return dataclasses.replace(
        joined, rows=joined.rows.set_column(position, "sales_growth", values)
    )


def test_the_alarm_is_silent_on_the_clean_application(clean, drivers) -> None:
    """Features that are honest, or noise, are not suspected at any seed."""
    assert {} == {s: found for s in SEEDS for found in [raise_alarms(clean.joined, s)] if found}
    assert {} == {s: found for s in SEEDS for found in [raise_alarms(drivers, s)] if found}


@pytest.mark.parametrize(("disguise", "step"), [("noise", 1), ("size", 1), ("logarithm", 5)])
def test_the_alarm_knows_the_label_in_disguise(clean, disguise: str, step: int) -> None:
    """The label with a little noise, over the store's size, or its logarithm raises the alarm."""
    joined = clean.joined
    label = joined.rows[f"label_{step}"]
    known = label.to_numpy()
    noise = np.random.default_rng(0).normal(0, 1e-4 * np.nanstd(known), len(known))
    values = {
        "noise": pa.array(known + noise, from_pandas=True),
        "size": pc.divide(label, joined.rows["store_size"].cast(pa.float64())),
        "logarithm": pa.array(np.log(np.where(known > 0, known, np.nan)), from_pandas=True),
    }[disguise]
    leaky = with_feature(joined, values)
    for seed in SEEDS:
        alarms = raise_alarms(leaky, seed)
        assert ["sales_history_features:sales_growth"] == list(alarms), seed
        assert step == alarms["sales_history_features:sales_growth"].step


def test_what_is_no_number_and_no_text_raises_no_alarm(clean) -> None:
    """A list that holds the label itself has no order to tell it by."""
    label = clean.joined.rows["label_1"].to_pylist()
    lists = pa.chunked_array([[[value] for value in label]], pa.list_(pa.float64()))
    assert {} == raise_alarms(with_feature(clean.joined, lists), 0)


def test_nothing_is_fitted_to_values_that_nobody_knows() -> None:
    """No row that is fitted to has both a value and a label: there are no errors to tell."""
    known, unknown = np.arange(4.0), np.full(4, np.nan)
    series, fit = np.zeros(4, dtype=np.int64), np.array([True, True, False, False])
    assert [] == out_of_sample_errors(unknown, known, series, fit)
    assert [] == out_of_sample_errors(known, unknown, series, fit)
    assert [] == out_of_sample_errors(np.where(fit, np.nan, known), known, series, fit)
    assert 2 == len(out_of_sample_errors(known, known, series, fit))


def test_a_feature_with_an_alarm_is_suspicious() -> None:
    """It says how much better than history it tells the label; the others are clean."""
    service = Service(COLUMNS, ("shops:price", "shops:stock"), (), (), {}, {}, {})
    proof = Proof((), 40, 0, {}, {}, {}, ())
    alarm = Alarm("shops:price", 2, 0.5, 20.0, 1234)
    suspicious, clean = judge(service, proof, {"shops:price": alarm})
    assert ("shops", "price", "suspicious", 40) == (
        suspicious.view,
        suspicious.feature,
        suspicious.verdict,
        suspicious.checked,
    )
    told = "alone it tells the label 2 ahead up to 0.5, where the label's known history leaves 20"
    assert suspicious.evidence.startswith(told)
    assert "(1,234 rows held out)" in suspicious.evidence
    assert Finding("stock", "shops", "clean", "none of 40 rows moved", 40) == clean


def test_what_moved_is_told_with_an_example() -> None:
    """How many of its rows, with which columns, and one of them before and after."""
    service = Service(COLUMNS, ("shops:price", "shops:stock"), (), (), {}, {}, {})
    leak = Moves([Move({"shop": 3}, CUTOFF, 1.25, None)], sources=("sales.price", "sales.units"))
    dice = Moves([Move({"shop": 4}, CUTOFF, "a", "b")])
    proof = Proof((), 40, 0, {"shops:price": leak}, {"shops:stock": dice}, {}, ())
    moved, unstable = judge(service, proof, {})
    assert moved.evidence == (
        "1 of 40 rows move with facts later than their cut-off, with sales.price, sales.units; "
        "shop 3 at cut-off 2026-01-15T00:00:00+00:00: 1.25 -> null"
    )
    assert unstable.evidence == (
        "1 of 40 rows differ when they are made again from the same: nothing can be proven; "
        "shop 4 at cut-off 2026-01-15T00:00:00+00:00: a -> b"
    )
    assert (leak.sources, ()) == (moved.sources, unstable.sources)


def test_known_ahead_rows_of_a_cutoff_are_those_of_its_groups() -> None:
    """In the order of key and step; other groups and other cut-offs are left out."""
    times = [CUTOFF, CUTOFF.replace(day=22)]
    known = pa.Table.from_pylist(
        [
            {"shop": shop, "event_timestamp": time, "step": step, "price": shop + step / 10}
            for step in (2, 1)
            for time in times
            for shop in (3, 1, 2)
        ],
        pa.schema(
            [
                ("shop", pa.int64()),
                ("event_timestamp", pa.timestamp("us", "UTC")),
                ("step", pa.int64()),
                ("price", pa.float64()),
            ]
        ),
    )
    columns = COLUMNS.model_copy(update={"known_keys": ("shop",)})
    service = Service(columns, (), ("plan:price",), (), {}, {}, {})
    bench: Any = SimpleNamespace(joined=SimpleNamespace(service=service, known=known))
    rows = pa.table({"shop": [3, 1, 3], "item": [1, 2, 3]})
    assert [(1, 1), (1, 2), (3, 1), (3, 2)] == [
        (row["shop"], row["step"]) for row in Bench.known_at(bench, CUTOFF, rows).to_pylist()
    ]


def test_a_trend_is_no_alarm(clean) -> None:
    """A feature that tells a steady trend is measured against history fitted in the same way."""
    joined = clean.joined
    labels = np.arange(len(joined.panel.periods), dtype=float)
    panel = dataclasses.replace(
        joined.panel, label_SP=np.tile(labels, (len(joined.panel.series), 1))
    )
    _, period = joined.panel.positions_of(joined.rows)
    rows = joined.rows
    for step in range(1, joined.recipe.horizon + 1):
        position = rows.schema.get_field_index(f"label_{step}")
        rows = rows.set_column(position, f"label_{step}", pa.array(labels[period] + step))
    trend = with_feature(
        dataclasses.replace(joined, rows=rows, panel=panel), pa.chunked_array([labels[period]])
    )
    assert {} == raise_alarms(trend, 0)


# The mutations ---------------------------------------------------------------------------------

VALUES = {
    "number": st.floats(-1e6, 1e6),
    "whole": st.integers(-1000, 1000),
    "flag": st.booleans(),
    "text": st.sampled_from(["a", "b", "c"]),
    "list": st.lists(st.integers(0, 9), max_size=2),
}
CUTOFF = datetime(2026, 1, 15, tzinfo=UTC)
DAYS = st.integers(1, 28).map(lambda day: datetime(2026, 1, day, tzinfo=UTC))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"key": st.integers(0, 3), "day": DAYS, "created": DAYS}
        | {name: st.none() | values for name, values in VALUES.items()}
    ),
    min_size=1,
    max_size=30,
)
SCHEMA = pa.schema(
    [
        ("key", pa.int64()),
        ("day", pa.timestamp("us", tz="UTC")),
        ("created", pa.timestamp("us", tz="UTC")),
        ("number", pa.float64()),
        ("whole", pa.int16()),
        ("flag", pa.bool_()),
        ("text", pa.string()),
        ("list", pa.list_(pa.int64())),
    ]
)


@given(
    rows=ROWS, seed=st.integers(0, 9), mutation=st.sampled_from(["scrambled", "absent", "mixed"])
)
@settings(max_examples=60, deadline=None)
def test_what_was_known_at_the_cutoff_stays(rows: list[dict], seed: int, mutation: str) -> None:
    """Known rows stay as they are and in order, keys and times stay, and types stay."""
    table = pa.Table.from_pylist(rows, SCHEMA)
    source = facts("t", table, ("day", "created"), ("day",), frozenset({"key"}), None)
    changed = mutate(source, CUTOFF, mutation, seed)
    assert SCHEMA == changed.schema
    known = [row for row in rows if max(row["day"], row["created"]) <= CUTOFF]
    kept = changed.to_pylist()
    assert known == [row for row in kept if max(row["day"], row["created"]) <= CUTOFF]
    late = [row for row in rows if row["day"] <= CUTOFF]
    keys = ("key", "day", "created")
    assert [[row[k] for k in keys] for row in late] == [
        [row[k] for k in keys] for row in kept if row["day"] <= CUTOFF
    ]
    if mutation == "scrambled":
        assert [[row[k] for k in keys] for row in rows] == [[row[k] for k in keys] for row in kept]
    if mutation == "absent":
        assert late == kept
    assert changed.equals(mutate(source, CUTOFF, mutation, seed))


def test_scrambled_values_are_other_values() -> None:
    """Of a column's later values none stays, whatever its type; one column may change alone."""
    days = [datetime(2026, 1, 16, tzinfo=UTC)] * 200
    table = pa.table(
        {
            "day": pa.array(days, pa.timestamp("us", tz="UTC")),
            "number": np.linspace(1, 2, 200),
            "small": pa.array(np.arange(200) % 100, pa.int8()),
            "unsigned": pa.array(np.arange(200), pa.uint32()),
            "flag": np.arange(200) % 2 == 0,
            "text": np.array(["a", "b"])[np.arange(200) % 2],
        }
    )
    source = facts("t", table, ("day",), ("day",), frozenset(), None)
    changed = mutate(source, CUTOFF, "scrambled", 0)
    for name in source.columns():
        same = pc.fill_null(pc.equal(table[name], changed[name]), fill_value=False)
        share = pc.mean(same.cast(pa.float64())).as_py()
        assert share < 0.05, name
        assert 0 < changed[name].null_count < 100
    alone = mutate(source, CUTOFF, "scrambled", 0, frozenset({"text"}))
    assert alone["text"].equals(changed["text"])
    assert alone.drop_columns("text").equals(table.drop_columns("text"))


def test_texts_that_are_numbered_are_scrambled_as_texts() -> None:
    """A dictionary of values is no hiding place: later ones become others, earlier ones stay."""
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (10, *[20] * 50)]
    kinds = pa.array(["a", *["b"] * 50]).dictionary_encode()
    table = pa.table({"day": pa.array(days, pa.timestamp("us", tz="UTC")), "kind": kinds})
    source = facts("t", table, ("day",), ("day",), frozenset(), None)
    first, *later = mutate(source, CUTOFF, "scrambled", 0)["kind"].to_pylist()
    assert ("a", False) == (first, "b" in later)


@pytest.mark.parametrize(
    ("before", "after", "apart"),
    [
        (None, float("nan"), False),
        (float("nan"), 1.0, True),
        (1.0, float("nan"), True),
        (None, 1.0, True),
        (1.0, 1.0 + 1e-12, False),
        (1.0, 1.1, True),
        ("a", "b", True),
        (True, True, False),
    ],
)
def test_a_value_that_comes_or_goes_differs(before: object, after: object, *, apart: bool) -> None:
    """Null and NaN are both none, and the noise of a sum is no difference."""
    assert apart == differs(before, after, 1.0)


def test_each_feature_is_traced_by_the_change_that_comes_first(tmp_path: Path) -> None:
    """By a column where its values do, by a table whose later rows alone do; and once."""
    day = pa.array([datetime(2026, 1, 20, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    table = pa.table({"day": day, "amount": [1.0], "price": [2.0]})
    sales = facts("sales", table, ("day",), ("day",), frozenset(), None)
    copies = Copies(tmp_path, (), None, (sales,), {})
    asked: list[Change] = []

    def moved_by(change: Change, sample: pa.Table) -> set[str]:
        asked.append(change)
        if change.mutation == "absent":
            return {"shops:mean", "shops:count"}
        return {"shops:mean"} if change.only[1] in {None, frozenset({"amount"})} else set()

    first, second = (Change(CUTOFF, "mixed", seed) for seed in (1, 2))
    moved = {
        "shops:mean": Moves(change=first, sample=table),
        "shops:count": Moves(change=second, sample=table),
    }
    trace(moved, copies, moved_by)
    assert {
        "shops:mean": ("sales.amount",),
        "shops:count": ("sales (whether it has later rows)",),
    } == {name: moves.sources for name, moves in moved.items()}
    assert {1} == {change.seed for change in asked}


def test_a_date_is_known_at_its_last_second() -> None:
    """A row dated like the cut-off, which closes that day, is known by then; the next is not."""
    dates = pa.array([datetime(2026, 1, 14).date(), datetime(2026, 1, 15).date()])  # noqa: DTZ001
    source = facts("t", pa.table({"date": dates}), ("date",), ("date",), frozenset(), None)
    assert [False, True] == list(source.later(datetime(2026, 1, 14, 23, 59, 59, tzinfo=UTC)))
    assert [True, True] == list(source.later(datetime(2026, 1, 14, 12, tzinfo=UTC)))


def test_late_facts_are_looked_at_first() -> None:
    """The cut-off that missed a fact is drawn, and that fact's row; in any type of key."""
    cutoffs = [CUTOFF.replace(day=day) for day in (10, 11, 12, 13)]
    shops = range(40)
    stamp = pa.timestamp("us", "UTC")
    rows = pa.table(
        {
            "shop": pa.array([shop for _ in cutoffs for shop in shops]),
            "event_timestamp": pa.array([time for time in cutoffs for _ in shops], stamp),
        }
    )
    table = pa.table(
        {
            "shop": pa.array([17], pa.int32()),
            "day": pa.array([cutoffs[2]], stamp),
            "created": pa.array([cutoffs[3]], stamp),
        }
    )
    late = facts("t", table, ("day", "created"), ("day",), frozenset({"shop"}), None)
    for seed in range(20):
        ((cutoff, drawn),) = draw(rows, (late,), Plan(1, 6, seed, ("mixed",)))
        assert (cutoffs[2], 6, True) == (cutoff, len(drawn), 17 in drawn["shop"].to_pylist())


def test_the_label_is_later_than_it_says() -> None:
    """A label of a later period is changed even where its row claims to be known already."""
    day, early = datetime(2026, 1, 20, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    table = pa.table({"day": [day], "created": [early], "y": [1.0], "x": [1.0]})
    source = facts("t", table, ("created",), ("day",), frozenset(), "y")
    changed = mutate(source, CUTOFF, "scrambled", 0).to_pylist()[0]
    assert (True, 1.0) == (changed["y"] != 1.0, changed["x"])


# The recipe and the report ---------------------------------------------------------------------


def known_at(root: Path, text: str) -> None:
    path = root / "recipes" / "smoke.yaml"
    path.write_text(
        path.read_text().replace(
            "  outputs: data/features\n", f"  outputs: data/features\n  known_at: {text}\n"
        )
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{sails: date}", "known_at names 'sails', but .* has externals, sales, stores"),
        ("{sales: store}", "says sales: store, but that table's dates and times are date, created"),
    ],
)
def test_known_at_names_what_there_is(clean, tmp_path: Path, text: str, told: str) -> None:
    """An unknown raw table, or a column that is no time, is refused."""
    joined = clean.joined
    (tmp_path / "recipes").mkdir()
    shutil.copy(joined.root / "recipes" / "smoke.yaml", tmp_path / "recipes")
    known_at(tmp_path, text)
    recipe = Project(tmp_path, Settings()).recipe("smoke")
    with pytest.raises(RecipeError, match=told):
        make_copies(joined.root, recipe, joined.store, {}, tmp_path)


def test_known_at_decides_what_is_later(clean, tmp_path: Path) -> None:
    """A table may be known at another column, or as a whole from the start."""
    joined = clean.joined
    (tmp_path / "recipes").mkdir()
    shutil.copy(joined.root / "recipes" / "smoke.yaml", tmp_path / "recipes")
    known_at(tmp_path, "{sales: date, externals: null}")
    recipe = Project(tmp_path, Settings()).recipe("smoke")
    raw = make_copies(joined.root, recipe, joined.store, {}, tmp_path).raw
    expected = {"externals": "always known", "sales": "known at date", "stores": "always known"}
    assert expected == {table.name: table.when for table in raw}
    assert not raw[0].later(CUTOFF.replace(year=1990)).any()


FINDING = Finding(
    "<price>",
    "view & co",
    "leak",
    "1 of 2 rows",
    2,
    1,
    (Example({"store": "1"}, "2026-01-15T00:00:00+00:00", "1", "null"),),
    ("sales.price",),
)
REPORT = AuditReport("mlp", "service", (FINDING,), 3, ("mixed",), ("2026-01-15T00:00:00",), 2, 8)


def test_a_report_is_the_same_after_json() -> None:
    """Reading a report's JSON gives the report."""
    assert AuditReport.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT


def test_the_page_is_self_contained_and_escaped() -> None:
    """The page fetches nothing, runs nothing, and shows names as they are."""
    page = as_html(REPORT)
    for absent in ("http", "<script", "src=", "@import", "<price>"):
        assert absent not in page
    for present in ("&lt;price&gt;", "view &amp; co", "sales.price", "A feature knows the future"):
        assert present in page


def test_the_line_of_a_leak() -> None:
    """The error names the feature, view, source, rows, an example, and the full report."""
    with pytest.raises(LeakageError) as caught:
        require_clean(REPORT, Path("report.html"))
    expected = (
        "feature '<price>' of view 'view & co' knows the future (through sales.price): 1 of 2 rows "
        "moved with facts later than their cut-off, e.g. store 1 at cut-off "
        "2026-01-15T00:00:00+00:00: 1 -> null; the full report is report.html"
    )
    assert expected == str(caught.value)
