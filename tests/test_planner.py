"""The routes of the planner's page: what they answer, refuse, and keep when the store is away."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fakes import AppClient, FakeBundle, FakeSource, fake_labels, fake_recipe
from feastrain.artifacts import publishing, write_json
from feastrain.errors import FeastrainError
from feastrain.recipe import recipe_of
from feastrain.serving import what_if
from feastrain.serving.api import create_app
from feastrain.serving.evidence import Evidence, newest_evidence
from feastrain.serving.forecaster import Forecaster
from feastrain.serving.history import History
from feastrain.serving.panel import label_panel
from feastrain.serving.what_if import Change, ImplausibleError
from feastrain.settings import Settings
from planner_facts import LEVELS, evidence, served

B = {"site": 1, "item": "b"}


@pytest.fixture
def parts() -> tuple[AppClient, FakeSource]:
    """A client of an app with a backtest, and the source to meddle with."""
    forecaster, source, history = served(LEVELS)
    shown = evidence(forecaster, history)
    return AppClient(create_app(forecaster, history, Settings(), evidence=shown)), source


@pytest.fixture
def client(parts: tuple[AppClient, FakeSource]) -> AppClient:
    return parts[0]


def test_the_panel_is_the_history_of_every_series(client: AppClient) -> None:
    """A header, then labels and events that are those of /v1/history."""
    content = client.get("/v1/panel").content
    size = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + size])
    shape = (len(header["series"]), len(header["periods"]))
    cells = shape[0] * shape[1]
    label_SP = np.frombuffer(content, "<f4", cells, 4 + size).reshape(shape)
    code_SP = np.frombuffer(content, np.uint8, cells, 4 + size + 4 * cells).reshape(shape)
    one = client.get("/v1/history", params=B).json()
    assert header["series"] == [list(key) for key in LEVELS]
    assert header["periods"] == one["periods"]
    assert label_SP[0] == pytest.approx(one["labels"], rel=1e-6)
    assert [([""] + header["events"])[code] for code in code_SP[0]] == one["events"]
    assert len(content) == 4 + size + 5 * cells


def test_a_client_without_gzip_gets_the_same_panel(client: AppClient) -> None:
    """The plain bytes are those that the other encoding holds."""
    plain = client.get("/v1/panel", headers={"accept-encoding": "identity"})
    packed = client.get("/v1/panel", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content


def test_at_risk_is_the_width_of_the_fan_summed(client: AppClient) -> None:
    """And the forecast is the sum of medians, of the same periods as last year's labels."""
    steps = client.post("/v1/forecasts", json={"series": [B]}).json()["series"][0]["steps"]
    outlook = client.get("/v1/outlook").json()
    row = dict(zip(outlook["columns"], outlook["series"][0], strict=True))
    past = client.get("/v1/history", params=B).json()
    label = dict(zip(past["periods"], past["labels"], strict=True))
    a_year_before = ("2011-11-04", "2011-11-11", "2011-11-18", "2011-11-25")
    wide = sum(step["quantiles"]["0.9"] - step["quantiles"]["0.1"] for step in steps)
    assert row["at_risk"] == pytest.approx(wide, abs=0.01)
    assert row["forecast"] == pytest.approx(101 + 102 + 103 + 1.5 * 104)
    assert row["last_year"] == pytest.approx(sum(label[at] for at in a_year_before), abs=0.01)


def test_a_store_that_went_away_leaves_a_stale_outlook(
    parts: tuple[AppClient, FakeSource],
) -> None:
    """The last forecast goes on being answered, with the reason why it may be old."""
    client, source = parts
    fresh = client.get("/v1/outlook").json()
    source.error = FeastrainError("Redis at h:1 did not answer: start it")
    stale = client.get("/v1/outlook").json()
    one = client.get("/v1/outlook/series", params=B).json()
    assert fresh["stale"] is None
    assert stale == {**fresh, "stale": "Redis at h:1 did not answer: start it"}
    assert one["stale"] == stale["stale"]
    assert len(one["steps"]) == 4


def test_a_store_that_was_never_there_is_unavailable(parts: tuple[AppClient, FakeSource]) -> None:
    """There is nothing to be stale; the history is answered all the same."""
    client, source = parts
    source.error = FeastrainError("Redis is down")
    assert client.get("/v1/outlook").status_code == 503
    assert client.get("/v1/panel").status_code == 200


def test_a_series_the_store_does_not_know_has_no_forecast() -> None:
    """Its row has its past alone."""
    forecaster, source, history = served(LEVELS)
    client = AppClient(create_app(forecaster, history, Settings()))
    del source.levels[1, "b"]
    row = client.get("/v1/outlook").json()["series"][0]
    assert row[:4] == [1, "b", None, None]
    assert client.get("/v1/outlook/series", params=B).json()["steps"] == []
    assert client.get("/v1/what-if", params=B).status_code == 422


def test_past_forecasts_are_those_of_the_backtest(client: AppClient) -> None:
    """Of the series asked for, by cut-off, oldest first."""
    origins = client.get("/v1/outlook/series", params=B).json()["origins"]
    past = client.get("/v1/history", params=B).json()
    label = dict(zip(past["periods"], past["labels"], strict=True))
    assert [one["cutoff"] for one in origins] == ["2012-08-17", "2012-09-14"]
    first = origins[0]["steps"][0]
    assert first["period"] == "2012-08-24"
    assert first["quantiles"]["0.5"] == pytest.approx(label["2012-08-24"] + 10)


def test_error_by_step_is_that_of_the_table(client: AppClient) -> None:
    """The naive forecast errs twice as much, as it was made to."""
    scores = client.get("/v1/scores").json()
    assert [one["step"] for one in scores["by_step"]] == [1, 2, 3, 4]
    assert scores["figures"]["cutoffs"] == 2
    for one in scores["by_step"]:
        assert one["naive"] == pytest.approx(2 * one["wape"])


def test_without_a_backtest_there_are_no_figures() -> None:
    """The recipe is named, so that the page can say what to run."""
    forecaster, _, history = served(LEVELS)
    scores = AppClient(create_app(forecaster, history, Settings())).get("/v1/scores").json()
    assert scores == {"recipe": "fake", "figures": None, "by_step": []}


def publish(
    made: Evidence, artifacts: Path, name: str, recipe: str, system: str = "mlp", origins: int = 1
) -> None:
    """Publish a backtest of a recipe, with the origin and the bundle that it is of."""
    lineage = {"snapshot": "5a5a5a5a5a5a5a5a", "recipe": {**fake_recipe(), "name": recipe}}
    with publishing(artifacts / "bundles" / name, {}) as scratch:
        write_json(scratch / "lineage.json", lineage)
    with publishing(artifacts / "origins" / name, {"bundle": name}):
        pass
    manifest = {
        "forecasts": [name] * origins,
        "scores": [{**made.entry, "system": system}],
        "systems": {system: list(made.levels), "seasonal-naive": []},
    }
    with publishing(artifacts / "backtests" / name, manifest) as scratch:
        pq.write_table(made.table, scratch / "forecasts.parquet")


def test_the_newest_backtest_of_the_recipe_is_found(tmp_path: Path) -> None:
    """One of another recipe is passed over, though it is newer."""
    forecaster, _, history = served(LEVELS)
    made = evidence(forecaster, history)
    assert newest_evidence(tmp_path, made.recipe) is None
    publish(made, tmp_path, "mine", "fake")
    publish(made, tmp_path, "other", "another")
    found = newest_evidence(tmp_path, made.recipe)
    assert found is not None
    assert found.name == "mine"
    assert found.figures() == {**made.figures(), "backtest": "mine"}
    assert found.of((1, "b")) == made.of((1, "b"))


@pytest.mark.parametrize("gone", ["origins/mine", "bundles/mine"])
def test_a_backtest_whose_bundle_is_gone_is_nobodys(tmp_path: Path, gone: str) -> None:
    """Nothing else says which recipe it is of, so it is shown for none."""
    forecaster, _, history = served(LEVELS)
    made = evidence(forecaster, history)
    publish(made, tmp_path, "mine", "fake")
    assert newest_evidence(tmp_path, made.recipe) is not None
    shutil.rmtree(tmp_path / gone)
    assert newest_evidence(tmp_path, made.recipe) is None


@pytest.mark.parametrize("other", [{"system": "trees"}, {"origins": 0}])
def test_a_backtest_of_another_model_or_of_no_origin_is_not_shown(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """The recipe's figures are those of the model that it has now."""
    forecaster, _, history = served(LEVELS)
    made = evidence(forecaster, history)
    publish(made, tmp_path, "mine", "fake", **other)
    assert newest_evidence(tmp_path, made.recipe) is None


def test_a_history_without_labels_is_an_empty_panel() -> None:
    """It has no periods and no events, and its arrays have no cells."""
    history = History(fake_labels(LEVELS).slice(0, 0), ("site", "item"))
    panel = label_panel(history, recipe_of(FakeBundle().lineage))
    assert ((), ()) == (panel.periods, panel.events)
    assert (0, 0) == panel.label_SP.shape == panel.event_SP.shape


def test_a_young_history_has_no_last_year() -> None:
    """What lies before its first period is said to be unknown."""
    forecaster, _, _ = served(LEVELS)
    history = History(fake_labels(LEVELS, periods=20), ("site", "item"))
    client = AppClient(create_app(forecaster, history, Settings()))
    steps = client.get("/v1/outlook/series", params=B).json()["steps"]
    assert [None] * 4 == [step["last_year"] for step in steps]


@dataclass
class EventlessBundle(FakeBundle):
    """Its recipe names no event."""

    @property
    def lineage(self) -> dict[str, Any]:
        return {"snapshot": "5a5a5a5a5a5a5a5a", "recipe": fake_recipe(event=None)}


def test_without_a_named_event_no_period_is_special() -> None:
    """The forecast is there all the same."""
    bundle = EventlessBundle()
    forecaster = Forecaster(bundle, FakeSource(dict(LEVELS), bundle))
    history = History(fake_labels(LEVELS), ("site", "item"))
    client = AppClient(create_app(forecaster, history, Settings()))
    steps = client.get("/v1/outlook/series", params=B).json()["steps"]
    assert [(101.0, ""), (102.0, ""), (103.0, ""), (104.0, "")] == [
        (step["quantiles"]["0.5"], step["event"]) for step in steps
    ]


@pytest.mark.parametrize("page", ["outlook/series", "what-if"])
def test_a_series_that_is_not_there_is_named(client: AppClient, page: str) -> None:
    """One line says which, and where all are listed."""
    answer = client.get(f"/v1/{page}", params={"site": 9, "item": "b"})
    told = "no series site=9, item=b; GET /v1/series lists every series"
    assert (404, told) == (answer.status_code, answer.json()["error"])


def test_a_what_if_changes_the_period_asked_about(client: AppClient) -> None:
    """A holiday in the second week lifts its forecast by half, and no other."""
    asked = {"series": B, "changes": [{"step": 2, "feature": "holiday", "value": "Easter"}]}
    answer = client.post("/v1/what-if", json=asked).json()
    before, after = (
        [step["quantiles"]["0.5"] for step in answer[name]] for name in ("before", "after")
    )
    assert before == [101.0, 102.0, 103.0, 156.0]
    assert after == [101.0, 153.0, 103.0, 156.0]


def test_what_can_be_changed_is_what_the_model_reads_ahead(client: AppClient) -> None:
    """With its values now, and the names that the history knows."""
    answer = client.get("/v1/what-if", params=B).json()
    assert answer["periods"] == ["2012-11-02", "2012-11-09", "2012-11-16", "2012-11-23"]
    assert [one["feature"] for one in answer["features"]] == ["holiday"]
    assert answer["features"][0]["values"] == ["", "", "", "Thanksgiving"]
    assert "Labor Day" in answer["features"][0]["options"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"step": 5, "feature": "holiday", "value": "x"}, "step 5 is beyond the horizon of 4"),
        ({"step": 0, "feature": "holiday", "value": "x"}, "greater than or equal to 1"),
        ({"step": 1, "feature": "level", "value": 1.0}, "'level' is not known ahead"),
        ({"step": 1, "feature": "holiday", "value": 1}, "holiday at step 1 is a text; 1 is none"),
        ({"step": 1, "feature": "holiday"}, "is missing"),
    ],
)
def test_a_what_if_that_makes_no_sense_is_refused(
    client: AppClient, change: dict[str, Any], error: str
) -> None:
    """With 422 and one line."""
    answer = client.post("/v1/what-if", json={"series": B, "changes": [change]})
    assert answer.status_code == 422
    assert error in answer.json()["error"]


def test_what_is_shuffled_moves_the_forecast(client: AppClient) -> None:
    """The level makes most of it, the holiday some; a second answer is the first."""
    first = client.get("/v1/drivers")
    told = {one["feature"]: one["moved"] for one in first.json()["features"]}
    assert list(told) == ["level", "holiday"]
    assert told["level"] > told["holiday"] > 0
    assert client.get("/v1/drivers").content == first.content


def test_what_is_not_shuffled_in_time_is_left_out(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, so that nobody takes it for a feature that moves nothing."""
    monkeypatch.setattr(what_if, "SHUFFLE_SECONDS", -1.0)
    told = client.get("/v1/drivers").json()
    assert ([], ["level", "holiday"]) == (told["features"], told["left_out"])


class PlanSource(FakeSource):
    """Knows ahead what a shop plans: whether it opens, its staff, prices and weights."""

    def _known(self, series: pa.Table) -> pa.Table:
        known = super()._known(series)
        planned = {
            "opens": pa.array([True] * len(known)),
            "staff": pa.array([3] * len(known), pa.int8()),
            "price": pa.array([2.5] * len(known)),
            "weight": pa.array([0.5] * len(known), pa.float32()),
        }
        for name, column in planned.items():
            known = known.append_column(name, column)
        return known


@pytest.fixture
def planned() -> tuple[Forecaster, Any]:
    """A forecaster that reads numbers and a flag ahead, and what it holds of one series."""
    bundle = FakeBundle(known_ahead=("holiday", "opens", "staff", "price", "weight"))
    forecaster = Forecaster(bundle, PlanSource(dict(LEVELS), bundle))
    return forecaster, what_if.hold(forecaster, pa.table({"site": [1], "item": ["b"]}))


def test_each_thing_known_ahead_tells_its_kind(planned: tuple[Forecaster, Any]) -> None:
    """Text alone has options to choose from."""
    told = what_if.changeable(*planned, ("Labor Day",))
    kinds = {one["feature"]: (one["kind"], one["values"][0], one["options"]) for one in told}
    expected = {
        "holiday": ("text", "", ["", "Labor Day", "Thanksgiving"]),
        "opens": ("flag", True, []),
        "staff": ("number", 3, []),
        "price": ("number", 2.5, []),
        "weight": ("number", 0.5, []),
    }
    assert expected == kinds


@pytest.mark.parametrize(
    ("feature", "value", "expected"),
    [
        ("opens", False, False),
        ("staff", 4.0, 4),
        ("staff", 127, 127),
        ("price", 2**53 + 1, 2.0**53),
    ],
)
def test_a_changed_value_is_held_as_its_column_is(
    planned: tuple[Forecaster, Any], feature: str, value: Any, expected: Any
) -> None:
    """A whole number that came as a fraction is one."""
    changed = what_if.change(*planned, [Change(2, feature, value)])
    steps, values = (changed.known[name].to_pylist() for name in ("step", feature))
    held = dict(zip(steps, values, strict=True))
    assert (planned[1].known[feature][0].as_py(), expected) == (held[1], held[2])
    assert planned[1].known.schema == changed.known.schema


@pytest.mark.parametrize(
    ("feature", "value", "kind"),
    [
        ("opens", 1, "flag"),
        ("staff", True, "number"),
        ("staff", 2.5, "number"),
        ("staff", 128, "number"),
        ("staff", -129, "number"),
        ("price", 10**400, "number"),
        ("weight", 1e39, "number"),
        ("price", "free", "number"),
        ("price", None, "number"),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_refused(
    planned: tuple[Forecaster, Any], feature: str, value: Any, kind: str
) -> None:
    """One line names the feature, the step and what was given."""
    with pytest.raises(ImplausibleError, match=f"^{feature} at step 2 is a {kind}; .* is none$"):
        what_if.change(*planned, [Change(2, feature, value)])
