import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fakes import FakeGateway
from feastrain.cli import app
from feastrain.dataset.drift import (
    Drift,
    FeatureDrift,
    Sample,
    judge_drift,
    ks_distance,
    measure_drift,
    psi,
)
from feastrain.errors import DataError
from feastrain.expectations import DriftLimits
from feastrain.project import Project
from feastrain.settings import Settings
from tiny_snapshot import COLUMNS, tiny_snapshot, tiny_tables

numbers = arrays(
    np.float64, st.integers(1, 60), elements=st.integers(-5, 5).map(float) | st.floats(-5, 5)
)
PLAIN = COLUMNS.model_copy(update={"categorical": ()})


def sample(**columns: Any) -> Sample:
    return Sample(pa.table(columns), pa.table({"step": pa.array([], pa.int64())}), PLAIN)


def one(before: Any, after: Any) -> FeatureDrift:
    """The drift of one feature that held `before` and holds `after`."""
    (feature,) = measure_drift(sample(x=before), sample(x=after)).features
    return feature


def test_psi_is_the_sum_over_its_bins() -> None:
    """Two bins of a half that become 0.8 and 0.2 give 0.3 ln 1.6 - 0.3 ln 0.4."""
    expected = 0.3 * np.log(1.6) - 0.3 * np.log(0.4)
    assert pytest.approx(expected) == psi(np.array([0.5, 0.5]), np.array([0.8, 0.2]))
    assert pytest.approx(expected) == one(["a", "b"] * 5, ["a"] * 8 + ["b"] * 2).psi


def test_an_empty_bin_has_a_finite_cost() -> None:
    """A category that is gone altogether counts as a share of 0.0001."""
    assert pytest.approx((1 - 1e-4) * np.log(1e4) * 2) == one(["a"], ["b"]).psi


@given(before=numbers, after=numbers)
def test_ks_is_the_largest_gap_between_the_distributions(
    before: np.ndarray, after: np.ndarray
) -> None:
    """It equals the gap found by looking at every value, ties and all."""
    points = np.concatenate([before, after])
    gaps = [abs((before <= point).mean() - (after <= point).mean()) for point in points]
    distance = ks_distance(np.sort(before), np.sort(after))
    assert pytest.approx(max(gaps), abs=1e-9) == distance


@settings(max_examples=30)
@given(before=numbers, after=numbers)
def test_distances_are_those_of_distances(before: np.ndarray, after: np.ndarray) -> None:
    """Nothing is as far from itself as not at all, and no distance is negative."""
    same, apart = one(before, before), one(before, after)
    assert (0.0, 0.0) == (same.psi, same.ks)
    assert apart.psi >= 0
    assert apart.ks is not None
    assert 0 <= apart.ks <= 1


def test_a_shift_is_larger_the_further_it_goes() -> None:
    """A quarter of a deviation is below 0.25, a whole one far beyond it."""
    values = np.random.default_rng(0).normal(size=20_000)
    small, large = one(values, values + 0.25), one(values, values + 1)
    assert small.psi < 0.1
    assert large.psi > 0.25
    assert pytest.approx((0.0987, 0.383), abs=0.01) == (small.ks, large.ks)


def test_a_constant_that_moves_is_seen() -> None:
    """A value that is all deciles is a bin of its own, so that a move to either side shows."""
    for moved in (0.0, 2.0):
        assert one([1.0] * 50, [moved] * 50).psi > 9
    assert 0.0 == one([1.0] * 50, [1.0] * 70).psi


def test_values_that_go_missing_are_a_bin_of_their_own() -> None:
    """The share of missing values is told, and a column that lost all has no KS."""
    full, half, empty = [1.0, 2.0, 3.0, 4.0], [1.0, None, 3.0, None], [None] * 4
    feature = one(full, half)
    assert (0.0, 0.5, 0.5) == (
        feature.missing_before,
        feature.missing_after,
        feature.missing_change,
    )
    assert feature.psi > 0.25
    lost = one(full, pa.array(empty, pa.float64()))
    assert (None, 1.0) == (lost.ks, lost.missing_change)
    assert lost.psi > 9
    assert one(["a", "b"], ["a", None]).missing_after == 0.5


def test_new_categories_are_named() -> None:
    """Categories that the reference lacks are told, the commonest first, with their rows."""
    feature = one(["a", "b"], ["a", "c", "d", "d"])
    assert (("d", "c"), 0.75) == (feature.new_categories, feature.new_share)


def test_entities_and_what_the_recipe_says_are_categories() -> None:
    """A numeric key is a category: a new shop is named, not measured."""
    before = sample(shop=[1, 2], sold=[1.0, 2.0])
    after = sample(shop=[1, 3], sold=[1.0, 2.0])
    kinds = {f.feature: (f.kind, f.new_categories) for f in measure_drift(before, after).features}
    assert {"shop": ("categorical", ("3",)), "sold": ("numeric", ())} == kinds


def test_the_worst_come_first_and_the_uncommon_are_named() -> None:
    """Features are in order of PSI; those of one side alone are listed by name."""
    before = sample(a=[1.0, 2.0], b=[1.0, 2.0], gone=[1, 2])
    after = sample(a=[1.0, 2.0], b=[9.0, 9.0], come=[1, 2])
    drift = measure_drift(before, after)
    assert ["b", "a"] == [feature.feature for feature in drift.features]
    assert (("come",), ("gone",)) == (drift.added, drift.removed)


def test_each_limit_has_a_verdict() -> None:
    """A limit counts the features beyond it and names the worst; severity decides."""
    drift = measure_drift(sample(a=[1.0, 2.0], b=[1.0, 2.0]), sample(a=[1.0, 2.0], b=[9.0, None]))
    verdicts = judge_drift(drift, DriftLimits(max_psi=0.25, max_ks=1, severity="warn"), "abcd")
    told = [(v.expectation, v.failures, v.rows, v.severity) for v in verdicts]
    assert [
        ("PSI of every feature <= 0.25", 1, 2, "warn"),
        ("KS of every feature <= 1", 0, 2, "warn"),
    ] == told
    assert {"feature": "b"} == verdicts[0].examples[0]["key"]
    assert "of b, against abcd" in verdicts[0].found


def test_a_part_is_compared_with_its_known_rows() -> None:
    """The sample of a part has its rows, and the known-ahead rows of its cut-offs alone."""
    rows, known = tiny_tables()
    part = Sample.of_part(rows, known, COLUMNS, "test")
    assert (80, 30) == (len(part.rows), len(part.known))
    names = {"shop", "kind", "sold", "mean", "weather", "season", "holiday", "label_1"}
    names |= {f"last_year_{step}" for step in (1, 2, 3)}
    assert names == set(part.features())
    with pytest.raises(DataError, match="no unused rows to compare"):
        Sample.of_part(rows, known, COLUMNS, "unused")


def test_the_verb_compares_two_snapshots(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """`drift A B --json` is the whole comparison, by folder or by name."""
    folder = tmp_path / "artifacts" / "snapshots"
    tiny_snapshot(folder, "aaaaaaaaaaaaaaaa", seed=0)
    second = tiny_snapshot(folder, "bbbbbbbbbbbbbbbb", seed=1)
    drift = Project(tmp_path).drift("aaaaaaaaaaaaaaaa", second.path)
    assert isinstance(drift, Drift)
    assert (320, 320) == (drift.rows_before, drift.rows_after)
    same = Project(tmp_path).drift(second.path, "bbbbbbbbbbbbbbbb", "all")
    assert {0.0} == {feature.psi for feature in same.features}
    arguments = ["drift", "aaaaaaaaaaaaaaaa", str(second.path), "-C", str(tmp_path), "--json"]
    app(arguments, standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(drift.to_json()))


def test_the_distances_are_pushed_where_there_is_a_gateway(tmp_path: Path) -> None:
    """As a group of the feature service's own."""
    folder = tmp_path / "artifacts" / "snapshots"
    tiny_snapshot(folder, "aaaaaaaaaaaaaaaa", seed=0)
    second = tiny_snapshot(folder, "bbbbbbbbbbbbbbbb", seed=1)
    service = second.manifest["service"]
    with FakeGateway() as gateway:
        project = Project(tmp_path, Settings(pushgateway=gateway.url))
        drift = project.drift("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb")
    ((_, path, body),) = gateway.requests
    assert f"/metrics/job/feastrain/drift/{service}" == path
    worst = drift.features[0]
    sample = f'feastrain_drift_psi{{feature="{worst.feature}",service="{service}"}} {worst.psi}'
    assert sample in body


def test_drift_of_hundreds_of_thousands_of_rows() -> None:
    """Ten features of 421,570 rows are compared in one go, each in full."""
    rng = np.random.default_rng(0)
    rows = 421_570
    base = rng.normal(size=rows)
    before = sample(**{f"x{number}": np.roll(base, number) for number in range(10)})
    drift = measure_drift(before, before)
    assert (10, rows, {0.0}) == (
        len(drift.features),
        drift.rows_before,
        {feature.psi for feature in drift.features},
    )
