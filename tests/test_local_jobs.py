"""Jobs of this machine as real processes: in the background, watched and stopped from elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from feastrain.artifacts import publishing
from feastrain.dataset.snapshot import Snapshot
from feastrain.errors import DataError, FeastrainError, InterruptedRun, LostRankError, UsageError
from feastrain.jobs import local
from feastrain.jobs.agents import _show_last_lines, death, log_of
from feastrain.jobs.backends import run_request
from feastrain.jobs.job import Gang
from feastrain.jobs.launch import adopted, launch
from feastrain.jobs.local import LocalJobs
from feastrain.jobs.places import follow
from feastrain.jobs.record import NOTES, Request, alone_in, is_held, note, noting_the_end, send
from feastrain.jobs.train import Run, train
from feastrain.recipe import load_recipe
from gangs import processes_of, same_weights, until
from tiny_snapshot import tiny_recipe, tiny_snapshot, tiny_tables

EPOCHS = 40


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot) -> Path:
    """The bundle of one node with two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    return train(tiny_recipe(folder, EPOCHS), snapshot, folder / "artifacts").path


@pytest.fixture
def artifacts(tmp_path: Path) -> Iterator[Path]:
    """A folder whose jobs are ended after the test."""
    yield tmp_path / "artifacts"
    for folder in (tmp_path / "artifacts" / "runs").glob("*"):
        send(folder, signal.SIGKILL)
        until(lambda folder=folder: not processes_of(folder), "the end of a job", 10)


def prepared(
    recipe: Path,
    snapshot: Snapshot,
    artifacts: Path,
    gang: Gang | None = None,
    *,
    fresh: bool = False,
) -> Run:
    """Return a run that is ready to be sent."""
    asked = load_recipe(recipe)
    run = Run.of(asked, snapshot, artifacts)
    run.prepare(recipe, asked)
    gang = gang or Gang.of(asked.training)
    run.request(artifacts / "bundles" / asked.name, gang, fresh=fresh).save(run.folder)
    return run


def made(artifacts: Path, name: str = "tiny-0123456789ab", nodes: int = 1) -> Path:
    """Return the folder of a job that nobody works at."""
    folder = artifacts / "runs" / name
    folder.mkdir(parents=True)
    note(folder, "Created", name=name, recipe="tiny", run="0123456789abcdef", nodes=nodes)
    return folder


def saved(run: Run) -> bool:
    """Return whether a run is past its first checkpoint."""
    return bool(list(run.folder.glob("epoch-000[2-9]-*")))


@pytest.mark.distributed
def test_two_nodes_end_in_the_weights_of_one_whatever_befalls_them(
    quiet: Path, snapshot: Snapshot, tmp_path: Path, artifacts: Path
) -> None:
    """An agent killed, the job stopped without a process left, and resumed.

    That it was asked to start over holds for its first start alone.
    """
    jobs = LocalJobs(artifacts)
    run = prepared(tiny_recipe(tmp_path, EPOCHS), snapshot, artifacts, Gang(2, 1), fresh=True)
    name = jobs.submit(run.folder)
    assert "Created" == jobs.get(name).state
    until(lambda: saved(run), "a second checkpoint")
    (agent,) = [pid for pid in processes_of(run.folder) if "--node-rank 1" in _command_of(pid)]
    os.kill(agent, signal.SIGKILL)
    told = "node 1 ended with SIGKILL; all ranks start again from the last checkpoint"
    until(lambda: "Restarted" == jobs.events(name)[-1].reason, "a restart")
    before = set(run.folder.glob("epoch-*"))
    until(lambda: set(run.folder.glob("epoch-*")) - before, "another checkpoint")
    assert ("Running", f"{told} (restart 1 of 3)") == (jobs.get(name).state, jobs.get(name).why)
    jobs.stop(name)
    assert [] == processes_of(run.folder)
    assert "Suspended" == jobs.get(name).state
    with pytest.raises(InterruptedRun, match="was stopped; `feastrain train tiny` goes on"):
        jobs.wait(name)
    jobs.resume(name)
    assert "Complete" == jobs.wait(name, 120).state
    assert same_weights(quiet, run.bundle)
    assert run.bundle == (artifacts / "bundles" / "tiny").resolve()
    lines = list(jobs.logs(name))
    assert 2 == sum('"event": "resumed"' in line for line in lines)
    assert not any('"event": "epoch"' in line for line in jobs.logs(name, 1))


@pytest.mark.parametrize("made_by", ["epoch-{}.safetensors", "trees-{}.txt"])
def test_a_member_of_an_ensemble_that_goes_on_is_a_run_that_does(
    made_by: str, tmp_path: Path, snapshot: Snapshot
) -> None:
    """Ranks that die, but each time leave a model's new checkpoint, are started again."""
    recipe = tiny_recipe(tmp_path, training="restarts: 1")
    run = prepared(recipe, snapshot, tmp_path, fresh=True)
    anew = []

    def start(arguments: list[str], folder: Path, _: Gang) -> dict[int, int]:
        anew.append("--fresh" in arguments)
        if len(anew) > 3:
            return {}
        made = folder / "member-1" / made_by.format(len(anew))
        made.parent.mkdir(exist_ok=True)
        made.touch()
        return {0: -signal.SIGKILL}

    run_request(Request.load(run.folder), run.folder, start)
    assert [True, False, False, False] == anew


def test_a_code_that_nobody_explains_is_said(tmp_path: Path, snapshot: Snapshot) -> None:
    """A rank that could write no failure left with a code of ours; its lines are above."""
    run = prepared(tiny_recipe(tmp_path), snapshot, tmp_path)
    told = "training failed: node 1 ended with exit code 3; see above"
    request = replace(Request.load(run.folder), nodes=2)
    with pytest.raises(FeastrainError, match=told):
        run_request(request, run.folder, lambda *_: {0: LostRankError.exit_code, 1: 3})


def test_a_run_from_another_thread_leaves_signals_alone(tmp_path: Path, snapshot: Snapshot) -> None:
    """Only the main thread can hear them; a notebook's server calls from another."""
    run = prepared(tiny_recipe(tmp_path), snapshot, tmp_path)
    during = []

    def start(*_: object) -> dict[int, int]:
        during.append(signal.getsignal(signal.SIGTERM))
        return {}

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run_request, Request.load(run.folder), run.folder, start).result()
    assert [signal.getsignal(signal.SIGTERM)] == during


def test_a_node_says_how_it_ended() -> None:
    """By itself, by a signal, or because one of its ranks did."""
    ends = ({1: 3}, {0: -signal.SIGKILL}, {1: LostRankError.exit_code})
    expected = ["node 1 ended with exit code 3", "node 0 ended with SIGKILL", "node 1 lost a rank"]
    assert expected == [death(end, "node") for end in ends]


@pytest.mark.parametrize(("node", "shown"), [(0, []), (1, ["node 1: two", "node 1: three"])])
def test_the_last_lines_of_a_node_that_has_a_log_are_shown(
    node: int, shown: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the first node were told as they came."""
    log_of(tmp_path, node).write_text("two\nthree\n")
    _show_last_lines(tmp_path, node)
    told = [json.loads(line)["text"] for line in capsys.readouterr().err.splitlines()]
    assert shown == told


def test_what_is_published_is_not_run_again(tmp_path: Path, snapshot: Snapshot) -> None:
    """The recipe's link leads to its bundle, and the job is complete."""
    run = prepared(tiny_recipe(tmp_path), snapshot, tmp_path)
    Request.load(run.folder).note(run.folder)
    with publishing(run.bundle, {}):
        pass
    launch(run.folder, lambda *_: pytest.fail("it was run"))
    assert run.bundle == (tmp_path / "bundles" / "tiny").resolve()
    assert "Complete" == LocalJobs(tmp_path).get(run.name).state


@pytest.mark.parametrize("inherited", [True, False])
def test_a_launcher_ends_with_the_code_of_its_run(
    inherited: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether it has the run's lock by a file, or whoever started it holds that."""

    def run(folder: Path) -> None:
        message = f"{folder.name}: rows are missing"
        raise DataError(message)

    folder = made(tmp_path)
    with alone_in(folder), (folder / "lock").open() as lock:
        given = ["--lock", str(lock.fileno())] if inherited else []
        monkeypatch.setattr(sys, "argv", ["launch", str(folder), *given])
        with pytest.raises(SystemExit) as left:
            adopted(run)
    assert DataError.exit_code == left.value.code
    assert f"{folder.name}: rows are missing" in capsys.readouterr().err


def test_a_job_that_nothing_ends_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder is a process that the kernel cannot end, or that it does not know."""
    monkeypatch.setattr(local, "KILL_SECONDS", 0.0)
    folder = made(tmp_path)
    with alone_in(folder):
        _, start, host = (folder / "lock").read_text().split()
        (folder / "lock").write_text(f"{1 << 30} {start} {host}\n")
        with pytest.raises(FeastrainError, match="does not end, though it was killed"):
            LocalJobs(tmp_path).stop(folder.name, grace_seconds=0)


def test_a_job_of_the_foreground_is_resumed_there(tmp_path: Path) -> None:
    """Nothing says what it was asked for; the line has the command."""
    folder = made(tmp_path)
    with pytest.raises(UsageError, match="was run in the foreground: `feastrain train tiny`"):
        LocalJobs(tmp_path).resume(folder.name)


def test_a_job_at_work_is_ended_before_it_is_forgotten(tmp_path: Path) -> None:
    """With its process; what it saved stays, and another job is as it was."""
    folder, other, jobs = made(tmp_path), made(tmp_path, "other"), LocalJobs(tmp_path)
    for one in (folder, other):
        (one / "epoch-0001.safetensors").touch()
        log_of(one, 0).write_text("one\n")
    working = "import sys, time\nfrom pathlib import Path\nfrom feastrain.jobs.record import *\n"
    working += "with alone_in(Path(sys.argv[1])): time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", working, str(folder)]) as holder:
        until(lambda: is_held(folder), "a job at work", 30)
        until(lambda: (folder / "lock").read_text().split()[:1] == [str(holder.pid)], "its holder")
        jobs.delete(folder.name)
        assert -signal.SIGTERM == holder.wait(5)
    assert ["other"] == [job.name for job in jobs.all()]
    assert ["epoch-0001.safetensors", "lock"] == sorted(path.name for path in folder.iterdir())
    assert "one" == next(jobs.logs("other"))


def test_each_job_is_found_by_its_name(tmp_path: Path) -> None:
    """Among others, of whatever run."""
    for name in ("one", "two", "three"):
        made(tmp_path, name)
    jobs = LocalJobs(tmp_path)
    assert ["one", "two", "three"] == [jobs.get(name).name for name in ("one", "two", "three")]


@pytest.mark.parametrize(
    ("told", "lines"), [(None, []), ("one\ntwo\n", ["one", "two"]), ("one\ntw", ["one", "tw"])]
)
def test_lines_are_followed_to_their_end(
    told: str | None, lines: list[str], tmp_path: Path
) -> None:
    """Of a job that ended before it said anything, and of one that was cut off in a line."""
    folder = made(tmp_path)
    if told is not None:
        log_of(folder, 0).write_text(told)
    assert lines == list(LocalJobs(tmp_path).logs(folder.name, follow=True))


def test_a_job_that_is_followed_is_told_on_standard_error(
    tmp_path: Path, snapshot: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing more once it is complete and its bundle is there."""
    run = prepared(tiny_recipe(tmp_path), snapshot, tmp_path)
    Request.load(run.folder).note(run.folder)
    log_of(run.folder, 0).write_text("one\ntwo\n")
    note(run.folder, "Complete")
    with publishing(run.bundle, {}):
        pass
    follow(LocalJobs(tmp_path), run.name, run)
    assert ("", "one\ntwo\n") == tuple(capsys.readouterr())


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@pytest.mark.distributed
def test_a_job_that_will_not_end_is_killed_and_resumes_exactly(
    quiet: Path, snapshot: Snapshot, tmp_path: Path, artifacts: Path
) -> None:
    """After the grace all its processes are gone; sent again by Kubeflow's client, it goes on."""
    here = pytest.importorskip("feastrain.jobs.here", reason="the extra `jobs` is not installed")
    jobs, client = LocalJobs(artifacts), here.HereClient(artifacts)
    run = prepared(tiny_recipe(tmp_path, EPOCHS), snapshot, artifacts)
    trainer = here.CustomTrainer(here.train_run, func_args={"folder": str(run.folder)})
    name = client.train(trainer=trainer)
    with pytest.raises(UsageError, match="another `feastrain train` is at work"):
        client.train(trainer=trainer)
    until(lambda: saved(run), "a second checkpoint")
    jobs.stop(name, grace_seconds=0)
    until(lambda: not processes_of(run.folder), "the end of its ranks", 2)
    assert "killed, for it did not end within 0 s" == jobs.get(name).why
    assert "Suspended" == client.get_job(name).status
    client.train(trainer=trainer)
    followed = list(client.get_job_logs(name, follow=True))
    assert '"stage": "fit"' in followed[-1]
    assert "Complete" == client.wait_for_job_status(name, timeout=60, polling_interval=1).status
    assert same_weights(quiet, run.bundle)
    assert [name] == [job.name for job in client.list_jobs()]
    assert "Complete" == client.get_job_events(name)[-1].reason
    client.delete_job(name)
    assert [] == client.list_jobs()
    assert list(run.folder.glob("epoch-*"))


@pytest.mark.distributed
def test_a_failure_ends_the_wait_with_the_ranks_last_line(
    tmp_path: Path, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, as the error that the rank left with; bad data is not tried again."""
    rows, _ = tiny_tables()
    label = rows["label_2"].to_numpy().copy()
    label[3 * 60 + 5] = 1e300
    place = rows.column_names.index("label_2")
    rows = rows.set_column(place, "label_2", pa.array(label, from_pandas=True))
    snapshot = tiny_snapshot(tmp_path / "snapshots", rows=rows)
    jobs = LocalJobs(artifacts)
    run = prepared(tiny_recipe(tmp_path, training="processes: 1"), snapshot, artifacts)
    name = jobs.submit(run.folder)
    with pytest.raises(DataError) as told:
        jobs.wait(name, 120)
    late = time.time() - jobs.events(name)[-1].event_time.timestamp()
    assert str(told.value).startswith(f"the job {name} failed with exit code 3: ")
    assert "is not finite at shop 4 at 2024-02-09 23:59" in str(told.value)
    assert "is not finite at shop 4" in capsys.readouterr().err
    assert late < 2
    assert "Failed" == jobs.get(name).state
    with pytest.raises(UsageError, match="has ended: it is Failed"):
        jobs.stop(name)


def test_a_process_that_is_gone_is_no_job_at_work(tmp_path: Path) -> None:
    """Whatever has its number now: the lock is free, so it was killed, and is sent no signal."""
    folder = made(tmp_path)
    (folder / "lock").write_text(f"{os.getpid()} 1 elsewhere\n")
    job = LocalJobs(tmp_path).get(folder.name)
    assert ("Failed", True) == (job.state, "it was killed" in job.why)
    send(folder, signal.SIGKILL)


def test_a_number_that_another_process_has_is_not_signalled(tmp_path: Path) -> None:
    """The holder of a lock is known by when it was started, too."""
    folder = made(tmp_path)
    with alone_in(folder), subprocess.Popen(["sleep", "60"]) as stranger:
        pid, start, host = (folder / "lock").read_text().split()
        assert str(os.getpid()) == pid
        (folder / "lock").write_text(f"{stranger.pid} {start} {host}\n")
        send(folder, signal.SIGTERM)
        time.sleep(0.1)
        assert stranger.poll() is None
        (folder / "lock").write_text(f"{stranger.pid} {start} elsewhere\n")
        with pytest.raises(UsageError, match="runs on elsewhere: stop it there"):
            send(folder, signal.SIGTERM)
        stranger.kill()


def test_what_outlived_its_launcher_is_ended(tmp_path: Path) -> None:
    """A rank that was about to start as its job was stopped is not left behind; others are."""
    folder, other = made(tmp_path), made(tmp_path, "other")
    note(folder, "Suspended")
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)", "feastrain.training.run"]
    with (
        subprocess.Popen([*sleeping, "--folder", str(folder)]) as rank,
        subprocess.Popen([*sleeping, "--folder", str(other)]) as stranger,
    ):
        until(lambda: processes_of(folder) and processes_of(other), "both", 5)
        LocalJobs(tmp_path).stop(folder.name)
        assert -signal.SIGKILL == rank.wait(5)
        assert stranger.poll() is None
        stranger.kill()


def test_looking_at_a_lock_does_not_take_it(tmp_path: Path) -> None:
    """Those who ask whether a run is at work, all the time, do not keep it from starting."""
    folder = made(tmp_path)
    asking = "from feastrain.jobs.record import is_held\nfrom pathlib import Path\nimport sys\n"
    asking += "print(flush=True)\nwhile True: is_held(Path(sys.argv[1]))\n"
    command = [sys.executable, "-c", asking, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        for _ in range(50):
            with alone_in(folder):
                assert is_held(folder)
            until(lambda: not is_held(folder), "a free lock", 1)
        watcher.kill()


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "Complete"),
        (InterruptedRun("asked to stop"), "Suspended"),
        (DataError("rows are missing"), "Failed"),
    ],
)
def test_a_run_in_the_foreground_is_a_job_too(
    error: FeastrainError | None, state: str, tmp_path: Path
) -> None:
    """Its state is that of whoever runs it; its lines are where it was started."""
    folder, jobs = made(tmp_path), LocalJobs(tmp_path)
    ends = pytest.raises(type(error)) if error else nullcontext()
    with ends, alone_in(folder), noting_the_end(folder):
        assert "Created" == jobs.get(folder.name).state
        note(folder, "Started")
        assert "Running" == jobs.get(folder.name).state
        with pytest.raises(FeastrainError, match="is Running after 0 s; it goes on"):
            jobs.wait(folder.name, 0)
        if error:
            raise error
    assert (state, str(error or "")) == (jobs.get(folder.name).state, jobs.get(folder.name).why)
    with pytest.raises(UsageError, match=r"lines of the job .* are told where it was started"):
        jobs.logs(folder.name)


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    """A machine that went down while a note was written leaves the ones before it."""
    folder = made(tmp_path)
    note(folder, "Complete")
    with (folder / NOTES).open("a") as file:
        file.write('{"time": 1')
    assert "Complete" == LocalJobs(tmp_path).get(folder.name).state


def test_jobs_are_listed_the_newest_first(tmp_path: Path) -> None:
    """A run that nobody asked for as a job is none."""
    for name in ("one", "two"):
        made(tmp_path, name)
    (tmp_path / "runs" / "old").mkdir()
    assert ["two", "one"] == [job.name for job in LocalJobs(tmp_path).all()]


def test_a_job_tells_how_far_it_is(tmp_path: Path) -> None:
    """Rank 0's last word on it is read from the job's lines."""
    folder = made(tmp_path)
    lines = [{"event": "progress", "done": done, "total": 8} for done in (1, 2)]
    (folder / "node-0.log").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with alone_in(folder):
        assert 25 == LocalJobs(tmp_path).get(folder.name).percent


@pytest.mark.parametrize("ask", ["get", "stop", "delete", "events", "logs", "wait"])
def test_a_job_that_is_not_there_is_said(ask: str, tmp_path: Path) -> None:
    """One line, whatever is asked of it."""
    with pytest.raises(UsageError, match="there is no job absent here; `feastrain jobs list`"):
        getattr(LocalJobs(tmp_path), ask)("absent")


def test_a_node_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Nodes are counted from 0."""
    folder = made(tmp_path, nodes=2)
    with pytest.raises(UsageError, match="has 2 nodes: there is no node 2"):
        LocalJobs(tmp_path).logs(folder.name, 2)


def test_kubeflows_client_is_told_what_is_refused(tmp_path: Path) -> None:
    """A function of one's own, a runtime that is not there, a job that will not complete."""
    here = pytest.importorskip("feastrain.jobs.here", reason="the extra `jobs` is not installed")
    client, folder = here.HereClient(tmp_path), made(tmp_path)
    with pytest.raises(ValueError, match=r"trains what `Project.trainer` returns"):
        client.train(trainer=here.CustomTrainer(print))
    with pytest.raises(ValueError, match="there is no runtime torch-distributed here"):
        client.train(runtime="torch-distributed")
    note(folder, "Failed", "rows are missing", code=3)
    with pytest.raises(RuntimeError, match="is Failed: rows are missing"):
        client.wait_for_job_status(folder.name)
    assert ["feastrain-here"] == [runtime.name for runtime in client.list_runtimes()]


def test_kubeflows_client_waits_for_a_job(tmp_path: Path) -> None:
    """It is looked at again until it is complete; one that stays at work is left to itself."""
    here = pytest.importorskip("feastrain.jobs.here", reason="the extra `jobs` is not installed")
    client, folder, seen = here.HereClient(tmp_path), made(tmp_path), []

    def look(job: Any) -> None:
        seen.append(job.status)
        note(folder, "Complete")

    with alone_in(folder):
        note(folder, "Started")
        with pytest.raises(TimeoutError, match="is Running after 0 s; it goes on"):
            client.wait_for_job_status(folder.name, timeout=0.02, polling_interval=0.01)
        done = client.wait_for_job_status(folder.name, polling_interval=0.01, callbacks=[look])
    assert ("Complete", ["Running", "Complete"]) == (done.status, seen)


def test_kubeflows_client_knows_one_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This interpreter, with its packages; a job of another is none of its own."""
    here = pytest.importorskip("feastrain.jobs.here", reason="the extra `jobs` is not installed")
    client, folder = here.HereClient(tmp_path), made(tmp_path)
    runtime = client.get_runtime("feastrain-here")
    assert [folder.name] == [job.name for job in client.list_jobs(runtime)]
    assert [] == client.list_jobs(replace(runtime, name="torch-distributed"))
    client.get_runtime_packages(runtime)
    packages = capsys.readouterr().out.splitlines()
    assert sorted(packages) == packages
    assert f"pytest=={pytest.__version__}" in packages


@pytest.mark.distributed
def test_kubeflows_process_backend_trains_and_is_stopped(
    quiet: Path, snapshot: Snapshot, tmp_path: Path, artifacts: Path
) -> None:
    """In an environment of its own; stopped, none of its processes is left, and it goes on here."""
    pytest.importorskip("kubeflow.trainer", reason="the extra `jobs` is not installed")
    jobs, before = LocalJobs(artifacts), Path.cwd()
    run = prepared(tiny_recipe(tmp_path, EPOCHS), snapshot, artifacts)
    name = jobs.submit(run.folder, "process")
    until(lambda: saved(run), "a second checkpoint")
    jobs.stop(name)
    assert [] == processes_of(run.folder)
    assert ("Suspended", before) == (jobs.get(name).state, Path.cwd())
    assert any("Operating inside" in line for line in jobs.logs(name))
    assert name == jobs.submit(run.folder)
    jobs.wait(name, 120)
    assert same_weights(quiet, run.bundle)


@pytest.mark.distributed
def test_kubeflows_container_backend_trains(
    quiet: Path, snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of a container, run as a process, ends in the weights of this machine."""
    pytest.importorskip("kubeflow.trainer", reason="the extra `jobs` is not installed")
    from kubeflow.trainer.backends.container.backend import ContainerBackend

    from feastrain.jobs.container import run_in_containers
    from local_containers import LocalContainers

    containers = LocalContainers(tmp_path)
    monkeypatch.setattr(ContainerBackend, "_create_adapter", lambda _: containers)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FEASTRAIN_CLUSTER_IMAGE", "registry.example/feastrain:1")
    run = prepared(tiny_recipe(tmp_path, EPOCHS), snapshot, tmp_path / "artifacts")
    with alone_in(run.folder):
        run_in_containers(run.folder)
    (asked,) = containers.asked
    assert "registry.example/feastrain:1" == asked["image"]
    assert "torchrun --nproc_per_node=2 --nnodes=1" in asked["command"][-1]
    assert same_weights(quiet, run.bundle)
    assert list(run.folder.glob("epoch-0040-*"))
    assert '"stage": "fit"' in (run.folder / "node-0.log").read_text()
    assert ({}, {}) == (containers.running, containers.networks)
    assert [] == list((tmp_path / ".kubeflow" / "trainer" / "containers").iterdir())


def test_checkpoints_of_all_models_come_out_of_a_container(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    """Those of an ensemble's members too; and what the last run needed, and had to say."""
    container = pytest.importorskip("feastrain.jobs.container", reason="the extra `jobs` is absent")
    run = prepared(tiny_recipe(tmp_path), snapshot, tmp_path / "artifacts")
    fitted = ("epoch-0001.safetensors", "member-1/refit/epoch-0002.safetensors", "trees-0.txt")
    left = (*fitted, "usage.json", "failure.txt")
    for name in left:
        made = tmp_path / "containers" / "run" / name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text("theirs")
    for name in (fitted[0], "usage.json"):
        (run.folder / name).write_text("ours")
    container._fetch(tmp_path / "containers", Request.load(run.folder), run.folder)
    kept = [(run.folder / name).read_text() for name in left]
    assert ["ours", "theirs", "theirs", "theirs", "theirs"] == kept
    assert not (tmp_path / "containers").exists()


class Containers:
    """An adapter of containers of which each is as it is said to be."""

    def __init__(self, *states: tuple[str, int | None]) -> None:
        self._states = states

    def container_status(self, container: str) -> tuple[str, int | None]:
        return self._states[int(container)]

    def container_logs(self, container: str, *, follow: bool) -> Iterator[str]:
        assert follow
        yield f"the lines of {container}\n"


def backend_of(*states: tuple[str, int | None]) -> Any:
    """Return what of Kubeflow's container backend a run looks at."""
    found = [
        {"id": str(node), "labels": {"of/step": f"node-{node}"}} for node in range(len(states))
    ]
    return SimpleNamespace(
        _adapter=Containers(*states), label_prefix="of", _get_job_containers=lambda _: found
    )


def test_containers_that_do_not_follow_a_failed_one_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had their time; what each said is in its log."""
    container = pytest.importorskip("feastrain.jobs.container", reason="the extra `jobs` is absent")
    monkeypatch.setattr(container, "FOLLOW_SECONDS", 0.0)
    container._watch(backend_of(("exited", 1), ("running", None)), "a job", tmp_path)
    logs = [log_of(tmp_path, node) for node in (0, 1)]
    until(lambda: all(log.is_file() and log.read_text() for log in logs), "both logs", 5)
    assert ["the lines of 0\n", "the lines of 1\n"] == [log.read_text() for log in logs]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({1: 3, 0: 75}, {1: 3, 0: 75}),
        ({0: 0, 1: 3}, {1: 3}),
        ({0: 0}, {1: LostRankError.exit_code}),
        ({}, {1: LostRankError.exit_code}),
    ],
)
def test_ranks_of_containers_failed_with_the_codes_that_they_left(
    left: dict[int, int], expected: dict[int, int], tmp_path: Path
) -> None:
    """In the order in which they ended; a node that left none has lost its rank."""
    container = pytest.importorskip("feastrain.jobs.container", reason="the extra `jobs` is absent")
    for second, (rank, code) in enumerate(left.items()):
        (tmp_path / f"exit.{rank}").write_text(str(code))
        os.utime(tmp_path / f"exit.{rank}", (second, second))
    codes = container._codes(backend_of(("exited", 0), ("exited", 1)), "a job", tmp_path)
    assert list(expected.items()) == list(codes.items())


def test_a_rank_in_a_container_leaves_its_exit_code(tmp_path: Path) -> None:
    """Torchrun's own says nothing; that of a rank is what ends the run, or has it go on."""
    rank = "from feastrain.jobs.portable import train_rank\nimport sys\n"
    rank += "train_rank(folder=sys.argv[1], fresh='--fresh')"
    command = [sys.executable, "-c", rank, str(tmp_path)]
    told = subprocess.run(command, env={**os.environ, "RANK": "1"}, check=False, text=True)
    assert (2, "2") == (told.returncode, (tmp_path / "exit.1").read_text())
