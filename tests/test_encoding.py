"""Encoded rows in memory and in mapped files are the same rows."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file

from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import ArtifactError, FeastrainError, UsageError
from feastrain.jobs.train import train
from feastrain.models.batches import Batch, Rows
from feastrain.models.encoder import Encoder, fit
from feastrain.recipe import load_recipe
from feastrain.training.encoding import Encodings, encode, memory_share
from tiny_snapshot import COLUMNS, tiny_recipe, tiny_snapshot

CPU = torch.device("cpu")
ENOUGH = 1 << 30


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"), parts=4)


def _whole(snapshot: Snapshot) -> tuple[Encoder, Rows, Rows]:
    """Encode the whole tables at once."""
    known, training = snapshot.known(), snapshot.rows("train")
    cutoffs = training["event_timestamp"].unique()
    seen = known.filter(pc.is_in(known["event_timestamp"], value_set=cutoffs))
    encoder = fit(COLUMNS, training, seen)
    tables = (training, snapshot.rows("validation"))
    train, validation = (Rows(encoder.encode(t, known), encoder.labels(t)) for t in tables)
    return encoder, train, validation


def _encode(snapshot: Snapshot, folder: Path, most_bytes: int) -> Encodings:
    return encode(load_recipe(tiny_recipe(folder)), snapshot, folder, CPU, most_bytes)


def _tensors(rows: Rows) -> list[torch.Tensor]:
    index = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    batch, *labels = rows.examples(index)
    return [*(getattr(batch, field.name) for field in fields(Batch)), *labels]


@pytest.mark.parametrize("most_bytes", [ENOUGH, 0])
def test_parts_encode_to_what_the_whole_does(
    snapshot: Snapshot, tmp_path: Path, most_bytes: int
) -> None:
    """In memory and mapped, an encoder and batches are those of the whole tables, bit for bit."""
    expected, actual = _whole(snapshot), _encode(snapshot, tmp_path, most_bytes)
    assert bool(most_bytes) == (not list(tmp_path.glob("encoded-*")))
    assert expected[0] == actual.encoder
    for whole, rows in zip(expected[1:], (actual.train, actual.validation), strict=True):
        for one, other in zip(_tensors(whole), _tensors(rows), strict=True):
            assert torch.equal(one, other)


@dataclass(frozen=True)
class CountedSnapshot(Snapshot):
    """A snapshot that counts how often its rows are read whole."""

    readings: list[int] = field(default_factory=list)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        self.readings.extend([1] * (columns is None))
        return super().parts(columns)


def test_files_are_made_once(snapshot: Snapshot, tmp_path: Path) -> None:
    """What a killed run left half written is removed, and another run finds what is whole."""
    (tmp_path / ".encoded-killed").mkdir()
    first, second = (CountedSnapshot(snapshot.path, snapshot.manifest) for _ in range(2))
    _encode(first, tmp_path, 0)
    (files,) = tmp_path.glob("*encoded-*")
    before = (files / "train").stat()
    _encode(second, tmp_path, 0)
    after = (files / "train").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    # Both look at the columns; the first alone encodes the rows of both parts of the split.
    assert 2 == len(first.readings) - len(second.readings)


def test_a_part_without_rows_is_an_empty_file(snapshot: Snapshot, tmp_path: Path) -> None:
    """A fit on all that is known validates on nothing, mapped as in memory."""
    recipe = load_recipe(tiny_recipe(tmp_path))
    held, mapped = (
        encode(recipe, snapshot, tmp_path, CPU, most_bytes, refit=True)
        for most_bytes in (ENOUGH, 0)
    )
    assert [0, 0] == [len(held.validation), len(mapped.validation)]
    for one, other in zip(_tensors(held.train), _tensors(mapped.train), strict=True):
        assert torch.equal(one, other)


def test_another_snapshot_has_files_of_its_own(snapshot: Snapshot, tmp_path: Path) -> None:
    """Files are named by what they were made from."""
    other = tiny_snapshot(tmp_path / "snapshots", "fedcba9876543210", seed=1)
    for each in (snapshot, other):
        _encode(each, tmp_path, 0)
    assert 2 == len(list(tmp_path.glob("encoded-*")))


def test_damaged_file_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    """One changed bit in a file of encoded rows is found before anything is trained on it."""
    _encode(snapshot, tmp_path, 0)
    (path,) = tmp_path.glob("encoded-*/train")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"train is damaged"):
        _encode(snapshot, tmp_path, 0)


def test_full_disk_is_one_line(snapshot: Snapshot, tmp_path: Path) -> None:
    """Rows that do not fit on the disk are refused with what to do, and nothing is left there."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        with pytest.raises(FeastrainError, match="raise FEASTRAIN_MEMORY_BYTES"):
            _encode(snapshot, tmp_path, 0)
        assert ["encoded.lock", "tiny-3.yaml"] == [path.name for path in tmp_path.iterdir()]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is the machine's, and each rank has its part; the default is half the memory."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory_share() <= most // 2
    monkeypatch.setenv("FEASTRAIN_MEMORY_BYTES", "1000")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 250 == memory_share()
    monkeypatch.setenv("FEASTRAIN_MEMORY_BYTES", "half")
    with pytest.raises(UsageError, match="FEASTRAIN_MEMORY_BYTES='half'"):
        memory_share()


@pytest.mark.distributed
def test_mapped_rows_train_the_same_weights(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks end in the same weights, bit for bit, with rows in memory and in files."""
    recipe = tiny_recipe(tmp_path, 2)
    bundles = [train(recipe, snapshot, tmp_path / "memory").path]
    monkeypatch.setenv("FEASTRAIN_MEMORY_BYTES", "0")
    bundles += [train(recipe, snapshot, tmp_path / "files").path]
    assert [] == list(tmp_path.glob("memory/runs/*/encoded-*"))
    assert 1 == len(list(tmp_path.glob("files/runs/*/encoded-*")))
    expected, actual = (load_file(bundle / "model.safetensors") for bundle in bundles)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
