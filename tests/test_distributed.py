import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore, PrefixStore

from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import DataError, FeastrainError, LostRankError, SilentRankError
from feastrain.jobs.train import train
from feastrain.models.batches import Rows
from feastrain.models.encoder import fit
from feastrain.models.mlp import MLP, architecture
from feastrain.recipe import MLPModel, load_recipe
from feastrain.training.distributed import NO_CUDA, Ranks, _leaving_together, settle
from feastrain.training.encoding import Part
from feastrain.training.finite import NotFiniteError, first_bad_rows, marked, row_names
from feastrain.training.loop import validate
from feastrain.training.meeting import Meeting
from gangs import agent, free_port, launcher, ranks_of, same_weights, started, until
from tiny_snapshot import COLUMNS, tiny_recipe, tiny_snapshot, tiny_tables

EPOCHS = 40
ALONE = Ranks(0, 1, torch.device("cpu"))
QUANTILES = torch.tensor([0.1, 0.5, 0.9])
SECOND = timedelta(seconds=1)
T = TypeVar("T")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


@given(st.lists(st.sampled_from(["", NO_CUDA, "shares 1 devices with 1 other ranks"]), min_size=1))
def test_nccl_is_used_by_all_ranks_or_by_none(obstacles: list[str]) -> None:
    """One rank that cannot use NCCL puts all on gloo, which is said unless nobody has CUDA."""
    backend, note = settle(obstacles)
    assert (backend == "nccl") == (not any(obstacles))
    assert bool(note) == (backend == "gloo" and set(obstacles) != {NO_CUDA})
    if note:
        rank = int(note.split()[1])
        assert note.startswith(f"rank {rank} {obstacles[rank]}")


def _meetings(ranks: int) -> list[Meeting]:
    store = PrefixStore("test", HashStore())
    return [Meeting(store, rank, ranks, SECOND) for rank in range(ranks)]


def _at_once(calls: list[Callable[[], T]]) -> list[T]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [call.result() for call in [pool.submit(call) for call in calls]]


def test_ranks_share_a_word_each() -> None:
    """Every rank hears the words of all, in the order of ranks."""
    calls = [lambda m=m, w=w: m.share("topic", w) for m, w in zip(_meetings(3), "abc", strict=True)]
    assert 3 * [["a", "b", "c"]] == _at_once(calls)


def test_rank_that_does_not_join_is_named() -> None:
    """Ranks that say nothing within the time-out are in the one line that all others end with."""
    first, _, third, _ = _meetings(4)
    with pytest.raises(FeastrainError, match=r"ranks 1, 3 of 4 did not join within 1 s") as missed:
        _at_once([lambda m=m: m.share("topic", "here") for m in (first, third)])
    assert 70 == missed.value.exit_code


@pytest.mark.parametrize(
    ("failure", "kind", "told"),
    [
        ("/gloo/: Timed out waiting 1000ms", SilentRankError, "rank 1 did not answer for 1 s"),
        ("/gloo/: Connection closed by peer", LostRankError, "rank 1 is gone"),
    ],
)
def test_failed_collective_names_who_is_missing(
    failure: str, kind: type[FeastrainError], told: str
) -> None:
    """Survivors of a silent rank and of a dead one leave with codes of their own."""
    meetings = _meetings(3)
    calls = [lambda m=m: m.explain(RuntimeError(failure)) for m in (meetings[0], meetings[2])]
    for error in _at_once(calls):
        assert kind is type(error)
        assert str(error).startswith(told)


def test_failed_collective_is_explained_by_the_rank_that_left() -> None:
    """What a rank said as it left is why the others leave, with the same exit code."""
    first, second = _meetings(2)
    second.agree(DataError("rows are missing"))
    error = first.explain(RuntimeError("Connection closed by peer"))
    assert (DataError, "rows are missing") == (type(error), str(error))


def test_an_error_of_the_code_is_no_lost_rank() -> None:
    """It is shown as it is, with its place, and nobody else is blamed for it."""
    (meeting,) = _meetings(1)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"), _leaving_together(meeting):
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))


def test_infinite_loss_makes_every_gradient_nan() -> None:
    """A pinball loss that is infinite has a finite gradient, which would go unseen."""
    for value, expected in ((3.0, 1.0), (float("inf"), float("nan")), (float("nan"), float("nan"))):
        weight = torch.ones((), requires_grad=True)
        loss = weight + value
        loss.backward(marked(loss))
        assert weight.grad is not None
        assert torch.equal(torch.tensor(expected).nan_to_num(-1), weight.grad.nan_to_num(-1))


def _with_infinite_labels(bad: list[int]) -> tuple[MLP, Rows]:
    """Return a model and all tiny rows, of which some have a label that is not finite."""
    rows, known = tiny_tables()
    encoder = fit(COLUMNS, rows, known)
    label_NH, weight_NH = encoder.labels(rows)
    label_NH[bad, 1] = float("inf")
    weight_NH[bad, 1] = 1
    torch.manual_seed(0)
    model = MLP(**architecture(MLPModel(hidden=(8,), embedding=2), encoder))
    return model, Rows(encoder.encode(rows, known), (label_NH, weight_NH))


def test_rows_with_a_loss_that_is_not_finite_are_found(snapshot: Snapshot) -> None:
    """Of a batch, the first three bad rows are named by entity and cut-off."""
    model, rows = _with_infinite_labels([7, 11, 200, 201])
    index_B = torch.tensor([201, 3, 200, 7, 5, 11])
    assert [201, 200, 7] == first_bad_rows(model, rows, index_B, QUANTILES, ALONE)
    assert ["shop 2 at 2024-01-05 23:59"] == row_names(snapshot, Part.TRAIN, [40])


def test_a_step_that_no_row_is_to_blame_for_says_what_to_lower() -> None:
    """Finite rows can have a gradient that is not; the line names none of them."""
    told = str(NotFiniteError(step=4, epoch=2, rows=[]))
    assert told.startswith(
        "the loss or gradient of step 4 in epoch 2 is not finite: lower training."
    )
    assert "look at the labels" not in told


def test_validation_rows_must_have_a_finite_loss() -> None:
    """Else no epoch would be the best, and fresh weights would be published."""
    model, rows = _with_infinite_labels([7])
    with pytest.raises(DataError, match="the loss on the validation rows is not finite"):
        validate(model, rows, QUANTILES, batch_rows=100, ranks=ALONE)


def test_restarts_change_no_bundle(tmp_path: Path) -> None:
    """How often a run is restarted is no part of what its outcome depends on."""
    recipe = load_recipe(tiny_recipe(tmp_path))
    other = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"restarts": 9})}
    )
    assert recipe.training_section() == other.training_section()


def _saved(folder: Path) -> bool:
    """Whether a run in the folder is past its first checkpoint."""
    return bool(list(folder.rglob("epoch-000[2-9]-*")))


@pytest.mark.distributed
def test_killed_rank_is_restarted_to_the_same_weights(snapshot: Snapshot, tmp_path: Path) -> None:
    """SIGKILL on a rank is one line; all start again, and end where a quiet run ends."""
    (tmp_path / "quiet").mkdir()
    quiet = train(tiny_recipe(tmp_path / "quiet", EPOCHS), snapshot, tmp_path / "quiet").path
    recipe = tiny_recipe(tmp_path, EPOCHS)
    with started(launcher(recipe, snapshot.path, tmp_path / "killed")) as process:
        until(lambda: _saved(tmp_path / "killed"), "a second checkpoint")
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        _, told = process.communicate(timeout=120)
    assert 0 == process.returncode, told
    assert 1 == told.count("rank 1 ended with SIGKILL; all ranks start again"), told
    assert 1 == told.count('"event": "resumed"'), told
    assert same_weights(quiet, tmp_path / "killed" / "bundles" / quiet.name)


def _crashing_rank(folder: Path) -> dict[str, str]:
    """Return the environment in which rank 1 crashes as it starts, and notes its restarts."""
    (folder / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('RANK') == '1':\n"
        "    with open(os.environ['STARTS'], 'a') as starts:\n"
        "        starts.write(os.environ['FEASTRAIN_RESTARTS'])\n"
        "    os.kill(os.getpid(), 11)\n"
    )
    path = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(path), "STARTS": str(folder / "starts")}


@pytest.mark.distributed
def test_rank_that_always_dies_ends_the_run(snapshot: Snapshot, tmp_path: Path) -> None:
    """When no start saves a checkpoint, the last of the restarts ends in one line and exit 1."""
    recipe = tiny_recipe(tmp_path, training="restarts: 2")
    command = launcher(recipe, snapshot.path, tmp_path / "artifacts")
    with started(command, **_crashing_rank(tmp_path)) as process:
        _, told = process.communicate(timeout=120)
    assert 1 == process.returncode, told
    assert 2 == told.count("rank 1 ended with SIGSEGV; all ranks start again"), told
    assert "rank 1 ended with SIGSEGV again after 2 restarts" in told.splitlines()[-1]
    assert "012" == (tmp_path / "starts").read_text()


@pytest.mark.distributed
def test_sigterm_between_restarts_is_75(snapshot: Snapshot, tmp_path: Path) -> None:
    """A launcher that is busy starting ranks again can be stopped like any other."""
    recipe = tiny_recipe(tmp_path, training="restarts: 9999")
    command = launcher(recipe, snapshot.path, tmp_path / "artifacts")
    with started(command, **_crashing_rank(tmp_path)) as process:
        until((tmp_path / "starts").is_file, "a first start")
        until(lambda: "2" in (tmp_path / "starts").read_text(), "a second restart")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
    assert 75 == process.returncode, told


@pytest.mark.distributed
def test_rank_that_stops_answering_ends_the_run(snapshot: Snapshot, tmp_path: Path) -> None:
    """After the time-out the others name the rank and leave; the launcher kills it."""
    command = launcher(tiny_recipe(tmp_path, 9999), snapshot.path, tmp_path / "artifacts")
    with started(command, FEASTRAIN_TRAINING_TIMEOUT_SECONDS="8") as process:
        until(lambda: _saved(tmp_path), "a second checkpoint")
        stopped = ranks_of(process.pid)[1]
        os.kill(stopped, signal.SIGSTOP)
        _, told = process.communicate(timeout=120)
    assert 70 == process.returncode, told
    assert told.splitlines()[-1].startswith("rank 1 did not answer for 8 s"), told
    assert not Path(f"/proc/{stopped}").exists()


@pytest.mark.distributed
def test_frozen_node_that_keeps_the_store_does_not_hold_up_others(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    """A rank whose first node stands still, store and all, says so and leaves."""
    port, recipe = free_port(), tiny_recipe(tmp_path, 9999)
    wait = {"FEASTRAIN_TRAINING_TIMEOUT_SECONDS": "8"}
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(started(agent(node, port, recipe, snapshot.path, tmp_path), **wait))
            for node in range(2)
        )
        until(lambda: _saved(tmp_path), "a second checkpoint")
        (rank,) = ranks_of(second.pid).values()
        for pid in (first.pid, *ranks_of(first.pid).values()):
            os.kill(pid, signal.SIGSTOP)
        until(lambda: not Path(f"/proc/{rank}").exists(), "the end of the other rank")
        second.kill()
        _, told = second.communicate(timeout=60)
    assert "the first node, which keeps torchrun's store, did not answer for 8 s" in told


@pytest.mark.distributed
def test_row_that_overflows_is_refused_by_name(tmp_path: Path) -> None:
    """A label beyond single precision ends all ranks before the step, exit 3, with its row."""
    rows, _ = tiny_tables()
    label = rows["label_2"].to_numpy().copy()
    label[3 * 60 + 5] = 1e300
    place = rows.column_names.index("label_2")
    rows = rows.set_column(place, "label_2", pa.array(label, from_pandas=True))
    snapshot = tiny_snapshot(tmp_path / "snapshots", rows=rows)
    command = launcher(tiny_recipe(tmp_path), snapshot.path, tmp_path / "artifacts")
    with started(command) as process:
        _, told = process.communicate(timeout=120)
    assert 3 == process.returncode, told
    assert "is not finite at shop 4 at 2024-02-09 23:59: " in told.splitlines()[-1]


@pytest.mark.distributed
def test_two_agents_leave_together_and_resume(snapshot: Snapshot, tmp_path: Path) -> None:
    """SIGTERM to one of two torchrun agents makes both leave; started again they land a bundle."""
    recipe = tiny_recipe(tmp_path, EPOCHS)
    for stop in (True, False):
        port = free_port()
        with ExitStack() as stack:
            agents = [
                stack.enter_context(started(agent(node, port, recipe, snapshot.path, tmp_path)))
                for node in range(2)
            ]
            if stop:
                until(lambda: _saved(tmp_path), "a second checkpoint")
                agents[1].send_signal(signal.SIGTERM)
            told = [one.communicate(timeout=120)[1] for one in agents]
        assert [stop, stop] == [bool(one.returncode) for one in agents], told
        assert stop == ("asked to stop" in told[0]), told
        assert stop == (not (tmp_path / "bundle").exists())
    assert 1 == told[0].count('"event": "resumed"'), told
