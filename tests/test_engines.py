"""Training sets in parts: one machine and a Ray cluster write the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feastrain import Project
from feastrain.dataset.engine import RayEngine
from feastrain.dataset.labels import Panel
from feastrain.dataset.parts import Part, PartedRows, divide
from feastrain.dataset.snapshot import part_name, write_table
from feastrain.dataset.spine import rows_per_series
from feastrain.dataset.split import Split
from feastrain.errors import DataError
from feastrain.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feastrain.dataset.snapshot import Snapshot

TEMPLATE = Path(__file__).parents[1] / "src/feastrain/templates/demand"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of our own, on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def project_of(demand: Project, root: Path, engine: str) -> Project:
    """A copy of a project whose training set has several parts, without its snapshots."""
    skipped = shutil.ignore_patterns("snapshots", "bundles", "runs")
    shutil.copytree(demand.root, root, symlinks=True, ignore=skipped)
    path = root / "recipes" / "smoke.yaml"
    retrieval = f"retrieval: {{engine: {engine}, part_rows: 300}}\n"
    path.write_text(path.read_text() + retrieval)
    return Project(root)


@pytest.fixture(scope="module")
def local(demand: Project, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The snapshot that one machine makes."""
    return project_of(demand, tmp_path_factory.mktemp("local") / "demand", "local").build("smoke")


def parts_of(snapshot: Snapshot) -> list[str]:
    return sorted(name for name in snapshot.manifest["files"] if name.startswith("part-"))


def test_parts_hold_whole_series_in_order(local: Snapshot, demand: Project) -> None:
    """Their rows one after the other are those of a training set in one part."""
    assert len(parts_of(local)) > 2
    whole = demand.build("smoke")
    assert ["part-00000.parquet"] == parts_of(whole)
    assert whole.rows().equals(local.rows().cast(whole.rows().schema))
    assert whole.manifest["rows"] == local.manifest["rows"]


def test_chosen_rows_of_parts_are_those_of_the_whole_table(tmp_path: Path) -> None:
    """A choice among chosen rows, and rows taken from it, come out as if all were in memory."""
    whole = pa.table({"row": np.arange(10), "even": np.arange(10) % 2 == 0})
    for number, start in enumerate((0, 4)):
        write_table(tmp_path, part_name(number), whole.slice(start, 4 if start == 0 else 6))
    rows = PartedRows(tmp_path)
    chosen = rows.filter(rows["even"])
    assert [0, 2, 4, 6, 8] == chosen["row"].to_pylist()
    assert [8, 0] == chosen.take(pa.array([4, 0]))["row"].to_pylist()
    fewer = chosen.filter(pa.chunked_array([[False, True, True, False, False]]))
    assert (2, [2, 4]) == (len(fewer), fewer["row"].to_pylist())
    assert [4] == fewer.take(pa.array([1]))["row"].to_pylist()


@pytest.mark.integration
def test_what_a_task_does_not_foresee_is_told_as_it_is(tmp_path: Path) -> None:
    """On a cluster that is started for it, and nothing is called a refusal that is none."""
    (tmp_path / "repo").mkdir()
    broken = Part(0, tmp_path, None, None, None, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'features'"):
        list(RayEngine(None).make([broken]))


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
def test_a_cluster_makes_the_same_snapshot(
    demand: Project, local: Snapshot, tmp_path: Path
) -> None:
    """The same fingerprint, the same files, byte for byte."""
    snapshot = project_of(demand, tmp_path / "demand", "ray").build("smoke")
    assert local.fingerprint == snapshot.fingerprint
    assert local.manifest["files"] == snapshot.manifest["files"]


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
def test_a_killed_task_is_made_again(demand: Project, local: Snapshot, tmp_path: Path) -> None:
    """A worker that dies half way changes nothing, and leaves nothing behind."""
    project = project_of(demand, tmp_path / "demand", "ray")
    killed: list[int] = []
    stop = threading.Event()

    def kill_one() -> None:
        while not killed and not stop.is_set():
            for process in psutil.process_iter(["name", "cmdline"]):
                if "ray::make_part" in " ".join(process.info["cmdline"] or []):
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        snapshot = project.build("smoke")
    finally:
        stop.set()
        killer.join()
    assert 1 == len(killed)
    assert local.manifest["files"] == snapshot.manifest["files"]
    assert [] == [path.name for path in snapshot.path.iterdir() if path.name.startswith(".")]


@pytest.mark.integration
@pytest.mark.usefixtures("cluster")
def test_what_a_task_refuses_is_told_as_if_it_were_here(demand: Project, tmp_path: Path) -> None:
    """One line of the same kind; no snapshot appears."""
    project = project_of(demand, tmp_path / "demand", "ray")
    path = project.root / "feature_repo" / "features.py"
    path.write_text(
        path.read_text().replace('timestamp_field="event_timestamp"', 'timestamp_field="moment"')
    )
    with pytest.raises(DataError, match="has no column 'moment'") as caught:
        project.build("smoke")
    assert "\n" not in str(caught.value)
    assert [] == list((project.artifacts / "snapshots").iterdir())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 30))
def test_parts_cover_every_series_once(counts: list[int], part_rows: int) -> None:
    """In order, and none is larger than asked for by more than one series."""
    recipe = load_recipe(TEMPLATE / "recipes/smoke.yaml")
    retrieval = recipe.retrieval.model_copy(update={"part_rows": part_rows})
    recipe = recipe.model_copy(update={"retrieval": retrieval, "horizon": 1})
    labels = np.full((len(counts), 11), np.nan)
    for series, count in enumerate(counts):
        labels[series, 1 : count + 1] = 1.0
    panel = Panel(
        pa.table({"series": list(range(len(counts)))}),
        np.arange(11).astype("datetime64[us]"),
        labels,
        labels,
        pa.table({}),
    )
    parts = divide(Path(), recipe, panel, Split(range(3), range(4, 5), range(6, 7)), Path())
    found = [number for part in parts for number in part.panel.series["series"].to_pylist()]
    assert list(range(len(counts))) == found
    assert list(range(len(parts))) == [part.number for part in parts]
    for part in parts:
        rows = rows_per_series(part.panel, 1)
        assert rows.sum() - rows[-1] <= part_rows
