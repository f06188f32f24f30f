"""The retrieval benchmark judges answers: right ones pass, wrong ones do not."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import duckdb
import pyarrow as pa
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small case with its tables, its oracle and the hand-written statement's answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        data = importlib.import_module("retrieval_data")
        oracle = importlib.import_module("retrieval_oracle")
        limit = importlib.import_module("retrieval_limit")
        case = data.Case("small", 20_000, 158)
        folder = data.case_folder(case, oracle.draw_oracle)
    frame = f"read_parquet('{data.entities_path(folder)}')"
    query = limit.statement(case, folder, frame, keep_order=True)
    return SimpleNamespace(case=case, folder=folder, oracle=oracle, query=query)


def _answer(query: str) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(query).to_arrow_table()


def _verdict(bench: SimpleNamespace, answer: pa.Table) -> tuple[bool, bool]:
    oracle: ModuleType = bench.oracle
    verdict = oracle.compare(bench.case, bench.folder, answer.to_batches(), bench.case.rows)
    assert verdict.sampled == oracle.SAMPLE
    return verdict.wrong == 0, verdict.in_order


def test_the_right_answer_is_right_and_in_order(bench: SimpleNamespace) -> None:
    """The plain search and the hand-written ASOF statement agree, value for value."""
    assert (True, True) == _verdict(bench, _answer(bench.query))


def test_values_read_before_they_were_created_are_wrong(bench: SimpleNamespace) -> None:
    """A join that does not look at created timestamps is told from the right one."""
    leaking = bench.query.replace("greatest(event_timestamp, created_timestamp)", "event_timestamp")
    assert (False, True) == _verdict(bench, _answer(leaking))


def test_values_past_their_ttl_are_wrong(bench: SimpleNamespace) -> None:
    """A join that does not look at the TTL is told from the right one."""
    stale = bench.query.replace("INTERVAL 365 DAY", "INTERVAL 3650 DAY")
    assert (False, True) == _verdict(bench, _answer(stale))


@pytest.mark.parametrize("change", ["lost", "doubled"])
def test_lost_and_doubled_rows_are_wrong(bench: SimpleNamespace, change: str) -> None:
    """An answer without its last rows, or with some of them twice, is wrong."""
    answer = _answer(bench.query)
    half = answer.slice(0, len(answer) // 2)
    assert not _verdict(bench, half if change == "lost" else pa.concat_tables([answer, half]))[0]


def test_another_order_is_right_but_not_in_order(bench: SimpleNamespace) -> None:
    """The order of the rows is judged apart from their values."""
    answer = _answer(bench.query)
    assert (True, False) == _verdict(bench, answer.sort_by("event_timestamp"))


def test_figures_are_written(tmp_path: Path) -> None:
    """The command runs a system in a process of its own and writes its figures."""
    command = [sys.executable, str(BENCHMARKS / "retrieval.py"), "--rows", "3000", "--quick"]
    command += ["--system", "limit", "--json", str(tmp_path / "figures.json")]
    place = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run(command, check=True, capture_output=True, env=place)
    lines = (tmp_path / "figures.json").read_text().splitlines()
    figures = {line["metric"]: line["value"] for line in map(json.loads, lines)}
    assert {"agrees": 1.0, "rows_out": 3000} == {n: figures[n] for n in ("agrees", "rows_out")}
