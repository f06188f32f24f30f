"""The list of metrics: what registries hold, how it is named, and where it is written down."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fakes import FakeGateway
from feastrain import cli
from feastrain.catalogue import as_table, catalogue, update_tables
from feastrain.dataset.drift import Drift, FeatureDrift
from feastrain.dataset.drift_metrics import DriftMetrics
from feastrain.stage_metrics import StageMetrics
from feastrain.stores.fallback.counters import Counters
from feastrain.telemetry import BOUND, Ended

REPOSITORY = Path(__file__).parents[1]
STAGES = {"drift", "online", "serving", "skew", "stage", "training"}


def test_the_documented_tables_are_those_of_the_registries(tmp_path: Path) -> None:
    """`feastrain metrics --update docs/metrics.md` has nothing to write; no stage is left out."""
    page = tmp_path / "metrics.md"
    page.write_text((REPOSITORY / "docs" / "metrics.md").read_text())
    assert not update_tables(page)
    assert all(as_table(stage) in page.read_text() for stage in STAGES)


def test_a_page_with_a_table_of_long_ago_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands around the table stays; stages that the page does not show are left out."""
    page = tmp_path / "drift.md"
    page.write_text("before\n<!-- metrics: drift -->\nold\n<!-- end -->\nafter\n")
    cli.app(["metrics", "--update", str(page)], standalone_mode=False)
    assert "changed: True" in capsys.readouterr().out
    table = as_table("drift")
    expected = f"before\n<!-- metrics: drift -->\n{table}\n<!-- end -->\nafter\n"
    assert expected == page.read_text()


def test_names_follow_one_scheme() -> None:
    """feastrain_STAGE_WHAT, in base units, each with a meaning; counters alone end in _total."""
    scale = re.compile(r"milli|_ms|minutes|hours|percent|kilo|mega")
    for entry in catalogue():
        assert re.fullmatch(r"feastrain(_[a-z]+)+", entry.name)
        assert entry.stage in STAGES
        assert (entry.kind == "counter") == entry.name.endswith("_total")
        assert not scale.search(entry.name)
        assert len(entry.meaning) > 10
    assert STAGES == {entry.stage for entry in catalogue()}


def test_units_are_read_from_names() -> None:
    """Seconds, times, shares, and what a counter counts."""
    units = {entry.name: entry.unit for entry in catalogue()}
    assert "s" == units["feastrain_serving_request_seconds"]
    assert "s since 1970" == units["feastrain_serving_cutoff_timestamp_seconds"]
    assert "share" == units["feastrain_training_progress_ratio"]
    assert "rows" == units["feastrain_training_rows_total"]
    assert "" == units["feastrain_online_breaker_state"]


def test_drift_is_told_feature_by_feature() -> None:
    """A category has no KS distance; everything else is told of every feature."""
    price = FeatureDrift("price", "numeric", 0.3, 0.2, 0.0, 0.1)
    kind = FeatureDrift("kind", "categorical", 0.1, None, 0.0, 0.0, ("new",), 0.25)
    told = _samples(DriftMetrics(Drift((price, kind), (), (), 9, 9), "demand").registry)
    assert 0.3 == told["feastrain_drift_psi", "price"]
    assert 0.1 == told["feastrain_drift_missing_change_ratio", "price"]
    assert 0.25 == told["feastrain_drift_new_category_ratio", "kind"]
    assert ("feastrain_drift_ks_distance", "kind") not in told


def test_the_last_run_of_a_stage_is_told() -> None:
    """Of two runs of one stage in a verb, the later one."""
    ended = [
        Ended("build", 3.0, failed=True, cached=False),
        Ended("build", 1.0, failed=False, cached=True),
    ]
    told = _samples(StageMetrics(ended).registry)
    assert 1.0 == told["feastrain_stage_seconds", "build"]
    assert 0.0 == told["feastrain_stage_failed", "build"]
    assert 1.0 == told["feastrain_stage_cached", "build"]


def test_a_verb_that_fails_tells_which_stage_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is pushed when the verb ends, and the exit code is the error's."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.delitem(BOUND, "recipe", raising=False)
    with FakeGateway() as gateway:
        monkeypatch.setenv("FEASTRAIN_PUSHGATEWAY", gateway.url)
        monkeypatch.setattr("sys.argv", ["feastrain", "init", str(tmp_path / "full")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert 2 == ended.value.code
    ((_, path, body),) = gateway.requests
    assert "/metrics/job/feastrain/recipe/none/verb/init" == path
    assert 'feastrain_stage_failed{stage="init"} 1.0' in body


def test_waits_for_a_connection_that_end_without_one_are_counted_from_zero() -> None:
    """A store that never lacked a connection is told with 0, so that a rate can be taken."""
    Counters("redis", "postgres")
    text = generate_latest().decode()
    assert 'feastrain_online_pool_timeouts_total{store="postgres"}' in text


def test_the_list_is_printed_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`feastrain metrics --json` has every metric with its labels and its unit."""
    monkeypatch.setattr("sys.argv", ["feastrain", "metrics", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    told = json.loads(capsys.readouterr().out)
    assert len(catalogue()) == len(told)
    assert {"name", "kind", "labels", "meaning", "stage", "unit"} == set(told[0])


def _samples(registry: object) -> dict[tuple[str, str], float]:
    text = generate_latest(registry).decode()  # type: ignore[arg-type]
    return {
        (sample.name, sample.labels.get("feature") or sample.labels["stage"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if np.isfinite(sample.value)
    }
