"""Skew: each cause planted in a real online store is found, and nothing else is."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from prometheus_client import generate_latest

from drivers_project import write_drivers
from fakes import FakeGateway
from feast_repos import ASOF
from feastrain import Project
from feastrain.cli import main
from feastrain.dataset.skew.compare import (
    CODES,
    EQUAL,
    Ages,
    Pair,
    causes_of,
    differences,
    distance,
)
from feastrain.errors import SkewError
from feastrain.settings import Settings
from feastrain.stores.feature_repo import online_store_of, open_store
from online_stores import FALLBACK, Redis, postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = timedelta(hours=1)
STATS, TRIPS = "feature_repo/data/driver_stats.parquet", "feature_repo/data/trips.parquet"
VIEW, FRESH, COMPUTED = "driver_hourly_stats", "driver_hourly_stats_fresh", "transformed_conv_rate"
FEATURES = {(VIEW, "conv_rate"), (VIEW, "acc_rate"), (VIEW, "avg_daily_trips")}
FRESH_RATE, OF_ACCEPTED = (FRESH, "fresh_rate"), (COMPUTED, "conv_rate_of_accepted")
EVERY = {*FEATURES, FRESH_RATE, OF_ACCEPTED}


FLEET = """
fleet = FeatureView(
    name="fleet",
    entities=[],
    ttl=timedelta(days=1),
    schema=[Field(name="cars", dtype=Float64)],
    source=FileSource(
        name="fleet_source",
        path=str(DATA / "fleet.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    ),
)
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Our online store on Redis and PostgreSQL, as its configuration."""
    redis = Redis(tmp_path_factory.mktemp("redis"))
    primary = {"type": "redis", "connection_string": redis.address}
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield {"type": FALLBACK, "primary": primary, "fallback": server}
    redis.kill()


FORMS = pytest.mark.parametrize(
    "form", ["sqlite", pytest.param("fallback", marks=pytest.mark.integration)]
)


class Drivers:
    """The drivers' project on one online store; every row was known when it happened."""

    def __init__(self, root: Path, online_store: dict[str, Any]) -> None:
        self.root = write_drivers(root / "drivers")
        path = self.root / "feature_repo" / "feature_store.yaml"
        own = {"offline_store": {"type": ASOF}, "online_store": online_store}
        name = f"skew_{root.name[-24:]}"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | own | {"project": name}))
        self.stats = pd.read_parquet(self.root / STATS)
        self.stats["created"] = self.stats["event_timestamp"]
        self.stats["fresh_rate"] = self.stats["conv_rate"]
        # Feast does not apply the field mapping behind a push source when it materialises.
        self.redefine('            field_mapping={"conv_rate": "fresh_rate"},\n', "")
        # Feast computes in single precision offline and in double online.
        self.redefine('": inputs["conv_rate"] *', '": inputs["conv_rate"].astype(float) *')
        self.last = self.stats["event_timestamp"].max()
        self.write(self.stats)
        self.project = Project(self.root, Settings())

    def write(self, stats: pd.DataFrame) -> None:
        """Replace the source of both views."""
        stats.to_parquet(self.root / STATS)

    def redefine(self, before: str, after: str) -> None:
        """Change the feature repo."""
        path = self.root / "feature_repo" / "definitions.py"
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))

    def materialize(self) -> None:
        """Fill the online store from what the source holds now."""
        self.project.materialize("drivers")

    def found(self) -> set[tuple[str, str, str, str]]:
        """Return what differs: view, feature, cause, driver; of a few drivers."""
        report = self.project.skew("drivers").report
        found = {
            (finding.view, finding.feature, finding.cause, example.keys["driver_id"])
            for finding in report.findings
            for example in finding.examples
        }
        assert sum(min(finding.count, 3) for finding in report.findings) == len(found)
        return found

    def of(self, driver: int, hours: int = 1) -> Any:
        """Return which rows are a driver's of the last hours."""
        late = self.stats["event_timestamp"] > self.last - hours * HOUR
        return (self.stats["driver_id"] == driver) & late


@pytest.fixture
def drivers(tmp_path: Path, request: pytest.FixtureRequest, form: str) -> Iterator[Drivers]:
    """The project on Feast's own SQLite store, or on ours."""
    own = {"type": "sqlite", "path": "data/online_store.db"}
    made = Drivers(tmp_path, own if form == "sqlite" else request.getfixturevalue("servers"))
    yield made
    store = open_store(made.root / "feature_repo")
    store.teardown()
    if (online := online_store_of(store)) is not None:
        online.close()


@FORMS
def test_each_entity_with_a_planted_cause_is_found_with_it(drivers: Drivers, form: str) -> None:
    """Stale, expired, ahead, missing and corrected rows, and the transform of each."""
    stats = drivers.stats
    gone = drivers.of(1005, hours=40)  # the view's ttl is a day
    drivers.write(stats[~drivers.of(1002, hours=2) & ~gone])
    drivers.materialize()
    after = stats[~gone].copy()
    after.loc[drivers.of(1003), "avg_daily_trips"] += 1
    new = stats[stats["driver_id"] == 1001].assign(driver_id=1006)
    drivers.write(pd.concat([after, new]))
    trips = pd.read_parquet(drivers.root / TRIPS)
    added = trips[trips["driver_id"] == 1001].assign(driver_id=1006)
    pd.concat([trips, added]).to_parquet(drivers.root / TRIPS)
    pushed = stats[drivers.of(1004)].assign(conv_rate=9.0)
    pushed["event_timestamp"] += 3 * HOUR
    open_store(drivers.root / "feature_repo").write_to_online_store(VIEW, pushed)
    expected = {(*feature, "stale", "1002") for feature in EVERY}
    expected |= {(*feature, "missing", "1006") for feature in EVERY}
    expected |= {(VIEW, name, "ahead", "1004") for name in ("conv_rate",)}
    expected |= {(*OF_ACCEPTED, "ahead", "1004"), (VIEW, "avg_daily_trips", "corrected", "1003")}
    if form == "sqlite":  # Feast's own stores answer what is past its ttl
        expected |= {(*feature, "expired", "1005") for feature in EVERY}
    assert expected == drivers.found()


@FORMS
def test_a_store_that_was_just_filled_has_none(drivers: Drivers) -> None:
    """Every value of every series is compared, and the report says so."""
    drivers.materialize()
    report = drivers.project.skew("drivers").report
    assert ((), {VIEW: 15, FRESH: 5, COMPUTED: 5}) == (report.findings, report.compared)
    assert 2 == drivers.project.skew("drivers", sample=2).report.series


@FORMS
def test_values_of_another_type_than_declared(drivers: Drivers) -> None:
    """A feature whose type was changed is held as it was declared before."""
    drivers.materialize()
    drivers.redefine('"avg_daily_trips", dtype=Int64', '"avg_daily_trips", dtype=Float64')
    kinds = {(view, feature, cause) for view, feature, cause, _ in drivers.found()}
    assert {(VIEW, "avg_daily_trips", "type")} == kinds


@FORMS
def test_numbers_that_lose_digits(drivers: Drivers) -> None:
    """A double in a feature that is declared a float, and what is computed from it."""
    precise = drivers.stats.astype({"conv_rate": np.float64})
    precise["conv_rate"] += 1e-9
    drivers.write(precise)
    drivers.materialize()
    kinds = {(view, feature, cause) for view, feature, cause, _ in drivers.found()}
    assert {
        (VIEW, "conv_rate", "rounding"),
        (*OF_ACCEPTED, "rounding"),
    } == kinds


@FORMS
def test_a_transform_that_reads_the_clock(drivers: Drivers) -> None:
    """The inputs are equal, so it is the transform."""
    drivers.redefine(
        'return pd.DataFrame({"conv_rate_of_accepted": inputs["conv_rate"].astype(float) *',
        'import time; return pd.DataFrame({"conv_rate_of_accepted": time.time_ns() % 1_000_003 +',
    )
    drivers.materialize()
    kinds = {(view, feature, cause) for view, feature, cause, _ in drivers.found()}
    assert {(*OF_ACCEPTED, "transform")} == kinds


@pytest.mark.parametrize("form", ["sqlite"])
def test_a_row_that_was_created_after_the_cutoff(drivers: Drivers) -> None:
    """The offline join passes it over; Feast's materialisation does not."""
    late = drivers.stats.copy()
    late.loc[drivers.of(1001), "created"] += HOUR
    drivers.write(late)
    drivers.materialize()
    assert {(*feature, "ahead", "1001") for feature in EVERY} == drivers.found()


@pytest.mark.parametrize("form", ["sqlite"])
def test_the_command_fails_beyond_its_tolerance(
    drivers: Drivers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says how much differs, why, and what to do; what it says mends it."""
    drivers.materialize()
    changed = drivers.stats.copy()
    changed.loc[drivers.of(1003), "avg_daily_trips"] += 1
    drivers.write(changed)
    skew = ["feastrain", "skew", "drivers", "-C", str(drivers.root), "--all", "--json"]
    monkeypatch.setattr(sys, "argv", [*skew, "--tolerance", "0.04"])
    main_exit(0)
    told = json.loads(capsys.readouterr().out)
    assert (25, 1, 1) == (told["values"], told["differing"], told["by_cause"]["corrected"])
    monkeypatch.setattr(sys, "argv", [*skew, "--tolerance", "0.039"])
    main_exit(1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("feastrain: the online store answers 1 of 25 values otherwise")
    assert last.endswith("run `feastrain materialize drivers --fresh`")
    drivers.project.materialize("drivers", fresh=True)
    assert set() == drivers.found()


def main_exit(code: int) -> None:
    """Run the command line and expect it to end with a code."""
    with pytest.raises(SystemExit) as left:
        main()
    assert code == (left.value.code or 0)


@pytest.mark.parametrize("form", ["sqlite"])
def test_the_report_and_the_metric_count_by_cause(drivers: Drivers) -> None:
    """Every cause has a gauge, those without a difference too; the page names the worst."""
    drivers.materialize()
    changed = drivers.stats.copy()
    changed.loc[drivers.of(1003), "avg_daily_trips"] = 12_345
    drivers.write(changed)
    skew = drivers.project.skew("drivers")
    lines = generate_latest(skew.metrics).decode().splitlines()
    assert 'feastrain_skew_values{cause="corrected",recipe="drivers"} 1.0' in lines
    assert 'feastrain_skew_values{cause="stale",recipe="drivers"} 0.0' in lines
    assert 'feastrain_skew_compared_values{recipe="drivers"} 25.0' in lines
    assert (skew.path / "skew.prom").read_bytes() == generate_latest(skew.metrics)
    assert "12345" in skew.page.read_text()
    assert (drivers.root / "artifacts/skews/drivers").resolve() == skew.path


@pytest.mark.parametrize("form", ["sqlite"])
def test_the_gauges_are_pushed_where_there_is_a_gateway(drivers: Drivers) -> None:
    """As a group of the recipe's own."""
    drivers.materialize()
    with FakeGateway() as gateway:
        Project(drivers.root, Settings(pushgateway=gateway.url)).skew("drivers")
    ((_, path, body),) = gateway.requests
    assert "/metrics/job/feastrain/skew/drivers" == path
    assert 'feastrain_skew_values{cause="missing",recipe="drivers"} 0.0' in body


def test_nulls_nans_and_widths_are_no_difference() -> None:
    """A null is a NaN, an int a double of the same value, a text a text."""
    pairs = [
        (pa.array([None, 1.0]), pa.array([float("nan"), 1.0])),
        (pa.array([5, None]), pa.array([5.0, None])),
        (pa.array(["a"]), pa.array(["a"], pa.large_string())),
        (pa.array(["a"]), pa.array(["a"]).dictionary_encode()),
        (pa.array([[1, 2]]), pa.array([[1, 2]], pa.list_(pa.int32()))),
    ]
    for online, offline in pairs:
        assert [False] * len(online) == differences(online, offline)[0].tolist()


def test_times_are_compared_to_the_second() -> None:
    """A store that keeps no more gives a time that is close, and another second is another."""
    exact = pa.array([1_000_000, 1_000_001, 3_000_000, None], pa.timestamp("us", "UTC"))
    whole = pa.array([1, 1, 2, None], pa.timestamp("s", "UTC"))
    apart, close = differences(exact, whole)
    assert [False, True, True, False] == apart.tolist()
    assert [False, True, False, False] == close.tolist()


def test_only_numbers_have_a_distance() -> None:
    """Relative to the larger of two; whatever else differs is infinitely far apart."""
    none = np.zeros(2, dtype=bool)
    numbers = Pair(pa.array([1.0, None]), pa.array([4, 5]), none)
    assert [0.75, np.inf] == distance(numbers).tolist()
    texts = Pair(pa.array(["a", "b"]), pa.array(["a", "c"]), none)
    assert [np.inf, np.inf] == distance(texts).tolist()


def test_large_whole_numbers_are_compared_as_they_are() -> None:
    """Doubles would hold both as one."""
    apart, close = differences(pa.array([1 << 60]), pa.array([(1 << 60) + 1]))
    assert ([True], [False]) == (apart.tolist(), close.tolist())


def test_a_number_is_no_text() -> None:
    """Values that cannot be compared are of another type."""
    one = np.ones(1, dtype=bool)
    ages = Ages(one, np.zeros(1, np.int64), np.zeros(1, np.int64), ~one)
    codes = causes_of(Pair(pa.array([5]), pa.array(["5"]), ~one), ages)
    assert [CODES["type"]] == codes.tolist()
    assert [EQUAL] == causes_of(Pair(pa.array([5]), pa.array([5]), ~one), ages).tolist()


def test_an_unwritten_online_store_is_said_to_be_so(tmp_path: Path) -> None:
    """Skew without a materialisation is no skew."""
    project = Drivers(tmp_path, {"type": "sqlite", "path": "data/online.db"}).project
    with pytest.raises(Exception, match="run `feastrain materialize`") as told:
        project.skew("drivers")
    assert not isinstance(told.value, SkewError)


@pytest.mark.integration
@pytest.mark.parametrize("form", ["fallback"])
def test_a_view_of_nobody_is_compared_once(drivers: Drivers) -> None:
    """What is the same for every series, as it has no entity, is one value a feature."""
    service = "driver_activity = FeatureService("
    drivers.redefine(service, FLEET + service)
    drivers.redefine("features=[driver_stats_fv,", "features=[fleet, driver_stats_fv,")
    recipe = drivers.root / "recipes" / "drivers.yaml"
    recipe.write_text(recipe.read_text() + "    fleet: observed\n")
    first = drivers.stats["driver_id"] == 1001
    fleet = drivers.stats[first][["event_timestamp", "created"]].assign(cars=1.0)
    fleet.to_parquet(drivers.root / "feature_repo/data/fleet.parquet")
    drivers.materialize()
    assert 1 == drivers.project.skew("drivers").report.compared["fleet"]
    assert set() == drivers.found()
    fleet.assign(cars=2.0).to_parquet(drivers.root / "feature_repo/data/fleet.parquet")
    (finding,) = drivers.project.skew("drivers").report.findings
    (example,) = finding.examples
    assert ("fleet", "cars", "corrected", 1) == (
        finding.view,
        finding.feature,
        finding.cause,
        finding.count,
    )
    assert ("1.0", "2.0") == (example.online, example.offline)
