"""Every kind of bad input gives one clear line and the right exit code."""

import re
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from feastrain import Project
from feastrain.cli import main

Spoil = Callable[[Path], None]


def replace(file: str, old: str, new: str, count: int = -1) -> Spoil:
    """Return what replaces text in a file of the project."""

    def spoil(root: Path) -> None:
        path = root / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r} to spoil"
        path.write_text(text.replace(old, new, count))

    return spoil


def flip_byte(pattern: str) -> Spoil:
    """Return what changes one bit in the middle of an artefact's file."""

    def spoil(root: Path) -> None:
        (path,) = {found.resolve() for found in (root / "artifacts").glob(pattern)}
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return spoil


def remove(name: str) -> Spoil:
    """Return what removes a file or folder of the project."""

    def spoil(root: Path) -> None:
        path = root / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)

    return spoil


def put(name: str) -> Spoil:
    """Return what puts a file of nonsense in the place of a file or folder."""

    def spoil(root: Path) -> None:
        remove(name)(root)
        (root / name).write_bytes(b"\1\2 nonsense")

    return spoil


def nothing(_: Path) -> None:
    """Spoil nothing: the arguments are what is wrong."""


SMOKE = "recipes/smoke.yaml"

PROJECT_FAULTS: dict[str, tuple[Spoil, list[str], int, str]] = {
    "no such recipe": (nothing, ["build", "missing"], 2, "no such recipe"),
    "recipe is not YAML": (
        replace(SMOKE, "name:", "name: [", 1),
        ["build", "smoke"],
        2,
        "cannot be read as YAML",
    ),
    "the store's configuration is no YAML": (
        replace("feature_repo/feature_store.yaml", "provider:", "provider: [", 1),
        ["build", "smoke"],
        2,
        r"feature_store\.yaml is refused by Feast: while parsing",
    ),
    "a file where a folder has to be": (
        put("artifacts/audits"),
        ["audit", "smoke", "--cutoffs", "1", "--rows", "1"],
        1,
        "/artifacts/audits: File exists",
    ),
    "a key that is there twice": (
        replace(SMOKE, "horizon: 8", "horizon: 8\nhorizon: 4"),
        ["build", "smoke"],
        2,
        "key 'horizon' is there twice",
    ),
    "a network of no layers": (
        replace(SMOKE, "hidden: [16]", "hidden: []"),
        ["train", "smoke"],
        2,
        "hidden: Tuple should have at least 1 item",
    ),
    "unknown recipe key": (
        replace(SMOKE, "horizon:", "horizn:", 1),
        ["build", "smoke"],
        2,
        "'horizn'|'horizon' is missing",
    ),
    "horizon is no number": (
        replace(SMOKE, "horizon: 8", "horizon: eight"),
        ["build", "smoke"],
        2,
        "horizon: ",
    ),
    "horizon longer than the data": (
        replace(SMOKE, "horizon: 8", "horizon: 200"),
        ["build", "smoke"],
        2,
        "sales_last_year_9|stepped",
    ),
    "split longer than the data": (
        replace("recipes/smoke.yaml", "validation_cutoffs: 4", "validation_cutoffs: 400"),
        ["build", "smoke"],
        3,
        "the data has 110 periods, .* needs at least",
    ),
    "label listed among the features": (
        replace(SMOKE, "roles:", "roles:\n    weekly_sales: observed", 1),
        ["build", "smoke"],
        4,
        "label 'weekly_sales' is listed among the features",
    ),
    "label in the feature service": (
        replace("feature_repo/features.py", '"sales_growth"', '"weekly_sales"'),
        ["build", "smoke"],
        4,
        "label 'weekly_sales' is in the feature service",
    ),
    "unknown feature service": (
        replace(SMOKE, "demand_forecasting_service", "no_such_service"),
        ["build", "smoke"],
        2,
        "no feature service 'no_such_service'",
    ),
    "feature without a role": (
        replace(SMOKE, "calendar_features: known_ahead", ""),
        ["build", "smoke"],
        2,
        "of view 'calendar_features' has no role",
    ),
    "role for what is not there": (
        replace(SMOKE, "roles:", "roles:\n    nowhere: observed", 1),
        ["build", "smoke"],
        2,
        "features.roles names 'nowhere'",
    ),
    "known ahead, but of no period": (
        replace(SMOKE, "sales_history_features: observed", "sales_history_features: known_ahead"),
        ["build", "smoke"],
        2,
        "view 'sales_history_features' is known ahead, so it must be keyed by the target period",
    ),
    "of a period, but not known ahead": (
        replace(SMOKE, "calendar_features: known_ahead", "calendar_features: observed"),
        ["build", "smoke"],
        2,
        "view 'calendar_features' has the join keys .*; a observed view may be keyed by",
    ),
    "features of one name": (
        replace("feature_repo/features.py", '"sales_growth"', '"unemployment"'),
        ["build", "smoke"],
        2,
        "two views of the service have a feature 'unemployment'",
    ),
    "frequency of minutes": (
        replace(SMOKE, "frequency: 1w", "frequency: 90m"),
        ["build", "smoke"],
        2,
        "frequency: must be a whole number and a unit: 12h, 1d or 1w",
    ),
    "SQL that is not there": (
        replace(SMOKE, "sql: features.sql", "sql: nowhere.sql"),
        ["build", "smoke"],
        2,
        r"nowhere\.sql: no such file; the recipe's transform\.sql names it",
    ),
    "feature repo that does not run": (
        replace("feature_repo/features.py", "from feast", "import nowhere\nfrom feast", 1),
        ["build", "smoke"],
        2,
        "feature_repo cannot be applied: ModuleNotFoundError: No module named 'nowhere'",
    ),
    "address of another machine": (
        nothing,
        ["serve", "smoke", "--host", "nowhere.invalid"],
        1,
        r"port \d+ on nowhere\.invalid is not an address of this machine .*: mend --host",
    ),
    "nothing to tune": (
        nothing,
        ["tune", "smoke"],
        2,
        "recipe 'smoke' does not say what to try: give it e.g. `tune:",
    ),
    "label of no Feast repo": (
        nothing,
        ["init", "new", "--label", "sales.units"],
        2,
        "--label and --service go with --from FEAST_REPO",
    ),
    "candidate that nobody waits for": (
        nothing,
        ["train", "smoke", "--candidate", "--no-follow"],
        2,
        "--candidate names the bundle once it is made",
    ),
    "broken expectation": (
        replace(SMOKE, "expectations:", "expectations:\n  - {column: store_size, maximum: 1}", 1),
        ["build", "smoke"],
        3,
        "column 'store_size': <= 1 fails in",
    ),
    "expectation on no column": (
        replace(SMOKE, "expectations:", "expectations:\n  - {column: colour, maximum: 1}", 1),
        ["build", "smoke"],
        2,
        "no column 'colour'",
    ),
    "SQL that DuckDB refuses": (
        replace("features.sql", "CREATE", "CREAT", 1),
        ["build", "smoke"],
        3,
        r"features\.sql: .*CREAT",
    ),
    "raw tables gone": (remove("data/raw"), ["build", "smoke"], 2, "make the raw tables first"),
    "feature repo with a fault": (
        replace("feature_repo/features.py", "import", "import nowhere_at_all\nimport", 1),
        ["build", "smoke"],
        2,
        "cannot be applied: .*nowhere_at_all",
    ),
    "no feature repo": (remove("feature_repo"), ["build", "smoke"], 2, "is no Feast repo"),
    "snapshot with a flipped byte": (
        flip_byte("snapshots/*/part-00000.parquet"),
        ["train", "smoke"],
        3,
        r"part-00000\.parquet is damaged",
    ),
    "snapshot with a missing file": (
        remove("artifacts/snapshots"),
        ["predict", "smoke"],
        2,
        "no such snapshot",
    ),
    "bundle with a flipped byte": (
        flip_byte("bundles/*/model.safetensors"),
        ["predict", "smoke"],
        3,
        r"model\.safetensors is damaged",
    ),
    "predict before train": (nothing, ["predict", "mlp"], 2, "has no bundle yet"),
    "as-of is no date": (nothing, ["build", "smoke", "--as-of", "last week"], 2, "is no date"),
    "as-of before all data": (
        nothing,
        ["build", "smoke", "--as-of", "1999-01-01"],
        3,
        "holds no label at or before",
    ),
    "materialise backwards": (
        nothing,
        ["materialize", "smoke", "--as-of", "2011-06-03"],
        2,
        "cannot go back",
    ),
    "unknown verb": (nothing, ["bild"], 2, "bild"),
    "unknown option": (nothing, ["build", "smoke", "--fast"], 2, "--fast"),
}


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["feastrain", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def _told(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a person reads: standard error without the JSON lines of stages."""
    lines = capsys.readouterr().err.splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("{"))


@pytest.mark.parametrize("fault", PROJECT_FAULTS)
def test_a_fault_in_a_project(
    fault: str,
    demand: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each fault of a project ends in its exit code, with one line that names it."""
    spoil, arguments, code, told = PROJECT_FAULTS[fault]
    root = tmp_path / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    spoil(root)
    monkeypatch.chdir(root)
    snapshots = _snapshots(root)
    assert code == _run(arguments, monkeypatch)
    text = _told(capsys)
    assert re.search(told, text), text
    if "unknown" not in fault:
        assert 1 == len(text.splitlines()), text
    assert snapshots == _snapshots(root)


def _snapshots(root: Path) -> list[str]:
    folder = root / "artifacts" / "snapshots"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _edit(file: str, old: str, new: str) -> Spoil:
    return replace(file, old, new, 1)


TABLE_FAULTS: dict[str, tuple[Spoil, int, str]] = {
    "file missing": (remove("train.csv"), 3, r"train\.csv"),
    "wrong column": (_edit("train.csv", "Weekly_Sales", "Sales"), 3, "Weekly_Sales"),
    "unparseable date": (_edit("train.csv", "2010-02-12", "12/02/2010"), 3, "12/02/2010"),
    "sale that is no number": (_edit("train.csv", ",FALSE", "lots,FALSE"), 3, "lots"),
    "off the weekly grid": (_edit("train.csv", "2010-02-12", "2010-02-13"), 3, "2010-02-13"),
    "duplicate key": (_edit("train.csv", "2010-02-12", "2010-02-05"), 3, "2010-02-05"),
    "unknown store": (_edit("stores.csv", "\n3,", "\n4,"), 3, "[Ss]tore"),
    "empty file": (lambda root: (root / "stores.csv").write_text("") and None, 3, r"stores\.csv"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_a_fault_in_the_raw_tables(
    fault: str,
    small_tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each fault of the raw tables is refused in one line, and no project appears."""
    spoil, code, told = TABLE_FAULTS[fault]
    tables = tmp_path / "tables"
    shutil.copytree(small_tables, tables)
    spoil(tables)
    arguments = ["init", str(tmp_path / "demand"), "--data", str(tables)]
    assert code == _run(arguments, monkeypatch)
    text = _told(capsys)
    assert re.search(told, text), text
    assert 1 == len(text.splitlines()), text
    assert ["tables"] == [path.name for path in tmp_path.iterdir()]


def test_missing_folder_of_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of tables that is not there is a usage error."""
    arguments = ["init", str(tmp_path / "demand"), "--data", str(tmp_path / "none")]
    assert 2 == _run(arguments, monkeypatch)
    assert "no such folder of raw tables" in _told(capsys)


def test_folder_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with something in it is not made a project."""
    (tmp_path / "mine.txt").write_text("keep")
    assert 2 == _run(["init", str(tmp_path)], monkeypatch)
    assert "exists and is not empty" in _told(capsys)
    assert ["mine.txt"] == [path.name for path in tmp_path.iterdir()]


def test_setting_that_cannot_be(
    demand: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting that is no value of its kind is named as the environment variable it is."""
    monkeypatch.setenv("FEASTRAIN_PORT", "eighty")
    assert 2 == _run(["serve", "smoke", "-C", str(demand.root)], monkeypatch)
    assert "FEASTRAIN_PORT='eighty'" in _told(capsys)


def test_port_in_use(
    demand: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port that another program listens on is named, with the option that changes it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        arguments = ["serve", "smoke", "-C", str(demand.root), "--port", str(port)]
        assert 1 == _run(arguments, monkeypatch)
    text = _told(capsys)
    assert (True, True) == (f"{port}" in text, "--port" in text)
