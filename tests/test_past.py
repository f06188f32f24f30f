"""The past that a looking-back model is served with: kept when the online store is filled."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fakes import AppClient
from feastrain import Project
from feastrain.dataset.past import Past
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import ArtifactError, ProjectError
from feastrain.serving.api import create_app
from feastrain.serving.forecaster import Forecaster
from feastrain.serving.history import History
from feastrain.settings import Settings

KEYS = ["store", "dept"]
WEEK = timedelta(weeks=1)


def cutoff_of(snapshot: Snapshot) -> datetime:
    """The one cut-off that the snapshot tests on."""
    return datetime.fromisoformat(snapshot.manifest["split"]["test"]["last_cutoff"])


def at(table: pa.Table, moment: datetime) -> pa.Table:
    """The rows of one cut-off, by series."""
    stamp = pa.scalar(moment, table.schema.field("event_timestamp").type)
    return table.filter(pc.equal(table["event_timestamp"], stamp)).sort_by(
        [(name, "ascending") for name in KEYS]
    )


def test_an_online_forecast_is_the_offline_forecast_of_its_cutoff(looking_back: Project) -> None:
    """What is served as of a cut-off is what the bundle says of that cut-off's snapshot rows."""
    bundle, snapshot = looking_back.bundle("tft"), looking_back.snapshot("tft")
    rows = at(snapshot.rows("test"), cutoff_of(snapshot))
    offline_NHQ = bundle.forecast(rows, snapshot.known(), snapshot.rows())
    online = looking_back.forecaster(bundle).forecast(rows.select(KEYS))
    assert [True] * len(rows) == online.found.tolist()
    np.testing.assert_allclose(offline_NHQ, online.quantiles_MHQ, rtol=1e-5)
    blind_NHQ = bundle.forecast(rows, snapshot.known())
    assert not np.allclose(offline_NHQ, blind_NHQ, rtol=1e-3)


def test_the_past_is_the_rows_of_the_snapshot(looking_back: Project) -> None:
    """At each of the cut-offs before, every feature that is read and all that was known ahead."""
    snapshot, recipe = looking_back.snapshot("tft"), looking_back.recipe("tft")
    as_of = cutoff_of(snapshot)
    every = snapshot.rows()
    series = at(every, as_of).select(KEYS)
    rows, known = Past(looking_back.artifacts / "past", "tft").of(series, as_of)
    assert recipe.model.look_back == len(pc.unique(rows["event_timestamp"]))
    for back in range(1, recipe.model.look_back + 1):
        cutoff = as_of - back * WEEK
        expected = at(every, cutoff).join(series, KEYS, join_type="left semi")
        expected = at(expected, cutoff).select(rows.column_names)
        assert expected.equals(at(rows, cutoff).cast(expected.schema))
        steps = known.filter(pc.equal(known["event_timestamp"], pa.scalar(cutoff)))
        there = snapshot.known()
        there = there.filter(pc.equal(there["event_timestamp"], pa.scalar(cutoff)))
        assert there.equals(steps.select(there.column_names).cast(there.schema))
    assert set(KEYS) | {"event_timestamp"} | set(snapshot.columns.observed) == set(
        rows.column_names
    )


def test_the_past_of_another_cutoff_is_refused(looking_back: Project) -> None:
    """A past that is not that of the online store's cut-off would be taken for it."""
    as_of = cutoff_of(looking_back.snapshot("tft"))
    series = pa.table({"store": [1], "dept": [1]})
    with pytest.raises(ProjectError, match=r"nothing is kept to look back on from .*; run"):
        Past(looking_back.artifacts / "past", "tft").of(series, as_of + WEEK)


def test_a_server_that_has_no_past_says_so(looking_back: Project, tmp_path: Path) -> None:
    """Nothing kept is one line that names the command which keeps it."""
    as_of = cutoff_of(looking_back.snapshot("tft"))
    with pytest.raises(ProjectError, match="run `feastrain materialize tft`") as told:
        Past(tmp_path, "tft").of(pa.table({"store": [1], "dept": [1]}), as_of)
    assert 1 == len(str(told.value).splitlines())


def test_a_series_without_a_past_is_forecast(looking_back: Project) -> None:
    """One that appeared at the cut-off has no rows before it, and a forecast all the same."""
    as_of = cutoff_of(looking_back.snapshot("tft"))
    past = Past(looking_back.artifacts / "past", "tft")
    rows, _ = past.of(pa.table({"store": [77], "dept": [1]}), as_of)
    assert 0 == len(rows)
    today = at(looking_back.snapshot("tft").rows("test"), as_of).slice(0, 1)
    known = looking_back.snapshot("tft").known()
    assert np.isfinite(looking_back.bundle("tft").forecast(today, known, rows)).all()


def test_what_is_kept_anew_is_read_without_a_new_start(
    looking_back: Project, tmp_path: Path
) -> None:
    """A server that had opened the past of a cut-off reads what took its place."""
    as_of = cutoff_of(looking_back.snapshot("tft"))
    series = at(looking_back.snapshot("tft").rows("test"), as_of).select(KEYS)
    (pointer,) = (looking_back.artifacts / "past").glob("tft.*")
    link = tmp_path / pointer.name
    link.symlink_to(pointer.resolve())
    past = Past(tmp_path, "tft")
    assert past.of(series, as_of)[0].num_rows > 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"files": {}}')
    for name in ("rows", "known"):
        table = pq.read_table(pointer / f"{name}.parquet")
        pq.write_table(table.slice(0, 0), other / f"{name}.parquet")
    link.unlink()
    link.symlink_to(other)
    assert 0 == past.of(series, as_of)[0].num_rows


def test_a_past_that_was_opened_is_not_read_again(looking_back: Project, tmp_path: Path) -> None:
    """A second question is answered by what is in memory, files or no files."""
    as_of = cutoff_of(looking_back.snapshot("tft"))
    series = at(looking_back.snapshot("tft").rows("test"), as_of).select(KEYS)
    (pointer,) = (looking_back.artifacts / "past").glob("tft.*")
    shutil.copytree(pointer.resolve(), tmp_path / pointer.name)
    past = Past(tmp_path, "tft")
    rows, known = past.of(series, as_of)
    for name in ("rows", "known"):
        (tmp_path / pointer.name / f"{name}.parquet").unlink()
    rows_again, known_again = past.of(series, as_of)
    order = [(name, "ascending") for name in rows.column_names]
    assert rows.sort_by(order).equals(rows_again.sort_by(order))
    assert known.equals(known_again)


def test_a_past_that_is_kept_is_not_made_again(looking_back: Project, tmp_path: Path) -> None:
    """Filling the online store as of the same cut-off leaves the files as they are."""
    root = tmp_path / "demand"
    shutil.copytree(looking_back.root, root, symlinks=True)
    project = Project(root, Settings())
    kept = project.artifacts / "past"

    def written() -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in kept.rglob("*.parquet")}

    as_of = cutoff_of(project.snapshot("tft"))
    project.materialize("tft", as_of)
    before = written()
    assert before
    project.materialize("tft", as_of)
    assert before == written()


def test_a_damaged_past_is_refused(looking_back: Project, tmp_path: Path) -> None:
    """A flipped byte is found when the past is opened."""
    as_of = cutoff_of(looking_back.snapshot("tft"))
    (pointer,) = (looking_back.artifacts / "past").glob("tft.*")
    spoilt = tmp_path / pointer.name
    spoilt.mkdir()
    for file in pointer.iterdir():
        content = bytearray(file.read_bytes())
        if file.name == "rows.parquet":
            content[len(content) // 2] ^= 1
        (spoilt / file.name).write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        Past(tmp_path, "tft").of(pa.table({"store": [1], "dept": [1]}), as_of)


def served(forecaster: Forecaster, project: Project) -> AppClient:
    """A client of the API over a real bundle and a real online store."""
    history = History(project.snapshot("tft").labels(), ("store", "dept"))
    return AppClient(create_app(forecaster, history, Settings()))


def test_a_looking_back_model_is_served_as_it_predicts(looking_back: Project) -> None:
    """Over HTTP a series has the quantiles that the file of all forecasts has."""
    made = pq.read_table(looking_back.predict("tft").path)
    client = served(looking_back.forecaster(looking_back.bundle("tft")), looking_back)
    first = made.slice(0, 8).to_pylist()
    key = {name: first[0][name] for name in KEYS}
    answer = client.post("/v1/forecasts", json={"series": [key]}).json()
    (series,) = answer["series"]
    assert cutoff_of(looking_back.snapshot("tft")) == datetime.fromisoformat(answer["cutoff"])
    expected = [[row[f"q{quantile}"] for quantile in answer["quantiles"]] for row in first]
    told = [list(step["quantiles"].values()) for step in series["steps"]]
    np.testing.assert_allclose(expected, told, rtol=1e-4)


def test_a_server_without_a_past_is_not_ready(looking_back: Project, tmp_path: Path) -> None:
    """It starts, says in one line what is missing, and is ready once that is there."""
    bundle = looking_back.bundle("tft")
    source = looking_back.forecaster(bundle).source
    kept = tmp_path / "past"
    client = served(Forecaster(bundle, source, Past(kept, "tft")), looking_back)
    answer = client.get("/healthz/ready")
    assert 503 == answer.status_code
    assert "run `feastrain materialize tft`" in answer.json()["error"]
    kept.symlink_to(looking_back.artifacts / "past")
    assert 200 == client.get("/healthz/ready").status_code
