"""Nothing that a project publishes runs code when it is read: no pickle, in name or in content."""

import json
import pickletools
import sqlite3
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from feastrain import Project

PICKLES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz", ".dill"}
SOURCE = Path(__file__).parents[1] / "src" / "feastrain"
LOADERS = ("pickle", "dill", "joblib", "torch.load", "torch.save", "yaml.load(", "allow_pickle")


def is_pickle(path: Path) -> bool:
    """Tell whether a file's bytes are a pickle from the first to the last, or a zip with one."""
    if zipfile.is_zipfile(path):
        return any(Path(name).suffix in PICKLES for name in zipfile.ZipFile(path).namelist())
    content = path.read_bytes()
    if not content.startswith(b"\x80"):  # of protocol 2 and later
        return False
    try:
        return any(operation.name == "STOP" for operation, _, _ in pickletools.genops(content))
    except (ValueError, IndexError):
        return False


def opened(path: Path) -> str:
    """Open a file by what it says it is, with a reader that runs nothing; return which."""
    kind = path.suffix
    if kind == ".jsonl":
        [json.loads(line) for line in path.read_text().splitlines()]
    elif kind == ".json":
        json.loads(path.read_text())
    elif kind == ".parquet":
        pq.read_schema(path)
    elif kind == ".safetensors":
        with safe_open(path, "numpy") as file:
            list(file.keys())
    elif kind == ".onnx":
        onnx = pytest.importorskip("onnx")
        onnx.checker.check_model(str(path))
    return kind


def test_every_artefact_is_data(demand: Project, looking_back: Project) -> None:
    """All files of two projects, checkpoints included, are of a few kinds, and open as such."""
    plain = {
        ".json",
        ".parquet",
        ".safetensors",
        ".onnx",
        ".html",
        ".yaml",
        ".txt",
        ".jsonl",
        ".lock",
        "",
    }
    kinds = set()
    for project in (demand, looking_back):
        files = [path for path in project.artifacts.rglob("*") if path.is_file()]
        assert [] == [path for path in files if path.suffix in PICKLES or is_pickle(path)]
        kinds |= {opened(path) for path in files}
    assert {".json", ".parquet", ".safetensors", ".onnx"} <= kinds
    assert set() == kinds - plain


def test_whoever_may_read_one_file_of_an_artefact_may_read_all(demand: Project) -> None:
    """What is trained by one user is served by another."""
    files = [
        path
        for artefact in (demand.snapshot("smoke").path, demand.bundle("smoke").path)
        for path in artefact.rglob("*")
        if path.is_file()
    ]
    assert len(files) > 6
    assert 1 == len({path.stat().st_mode for path in files})


def test_a_pickle_would_be_found(tmp_path: Path) -> None:
    """Under whatever name it hides."""
    import pickle

    hidden = tmp_path / "model.json"
    hidden.write_bytes(pickle.dumps({"weights": [1.0]}))
    assert is_pickle(hidden)
    with zipfile.ZipFile(tmp_path / "weights.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    assert is_pickle(tmp_path / "weights.safetensors")
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("CREATE TABLE entities (name TEXT)")
    connection.close()
    assert not is_pickle(tmp_path / "registry.db")


def test_no_line_of_ours_loads_one() -> None:
    """Said in prose only, of what is not done."""
    said = {"no pickle", "No pickle"}
    lines = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text().splitlines()
        if any(loader in line for loader in LOADERS) and not any(word in line for word in said)
    ]
    assert [] == lines
