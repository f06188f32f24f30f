"""A training run whose disk or memory is used up, whose clock jumps, or that is killed.

A link that is cut and a node that is lost are in `tests/test_two_nodes.py`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nodes import require

from gangs import launcher, same_weights, started, until
from tiny_snapshot import tiny_recipe, tiny_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from outcomes import Outcome

pytestmark = [pytest.mark.faults, pytest.mark.distributed]
EPOCHS = 60
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
    static long *seconds;
    if (!seconds) {
        int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
        seconds = mmap(0, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *told) {
    int failed = syscall(SYS_clock_gettime, clock, told);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) told->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *restrict told, void *restrict zone) {
    int failed = syscall(SYS_gettimeofday, told, zone);
    told->tv_sec += ahead();
    return failed;
}

time_t time(time_t *told) {
    time_t now = syscall(SYS_time, 0) + ahead();
    if (told) *told = now;
    return now;
}
"""
"""The time of day, and so many seconds more; time that only passes stays as it is."""
GROUPS = Path("/sys/fs/cgroup")
MEBIBYTE = 1 << 20
GREEDY = f"input(); held = b'x' * {512 * MEBIBYTE}; input()"
"""Takes memory once it is told to."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return trained(folder, folder / "artifacts")


def trained(folder: Path, artifacts: Path, **environment: str) -> Path:
    """Train to the end, and return the bundle."""
    with started(command(folder, artifacts), **environment) as process:
        _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    (bundle,) = {path.resolve() for path in (artifacts / "bundles").iterdir()}
    return bundle


def command(folder: Path, artifacts: Path) -> list[str]:
    """Return the command of a run in two ranks."""
    snapshot = tiny_snapshot(folder)
    recipe = tiny_recipe(folder, EPOCHS)
    return launcher(recipe, snapshot.path, artifacts)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a disk of a size for the length of the block."""
    folder.mkdir()
    size = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills(
    undisturbed: Path, tmp_path: Path, outcome_of: Callable[[str, str], Outcome]
) -> None:
    """The run ends in one line that says where; with room, the same command ends in its bundle."""
    require("mount")
    outcome = outcome_of("training", "the disk fills")
    artifacts = tmp_path / "artifacts"
    with small_disk(artifacts, 4096):
        filler = artifacts / "filler"
        with started(command(tmp_path, artifacts)) as process:
            until(lambda: any(artifacts.rglob("epoch-*.safetensors")), "a checkpoint")
            began = time.monotonic()
            filler.write_bytes(bytes(shutil.disk_usage(artifacts).free))
            _, told = process.communicate(timeout=120)
        ended = time.monotonic() - began
        assert process.returncode == 1, told
        assert "Traceback" not in told
        assert "No space left on device (os error 28)); make room, and the same command" in told
        filler.unlink()
        same = same_weights(undisturbed, trained(tmp_path, artifacts))
    outcome.add({"other weights": int(not same)}, {"until it ended": ended}, survived=same)
    assert same


class MemoryGroup:
    """Processes that share an amount of memory, by cgroups of version 1 or 2."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        old = (folder / "memory.limit_in_bytes").exists()
        self._limit = folder / ("memory.limit_in_bytes" if old else "memory.max")
        self._usage = folder / ("memory.usage_in_bytes" if old else "memory.current")
        self._events = folder / ("memory.oom_control" if old else "memory.events")

    def take(self, process: subprocess.Popen[str]) -> None:
        """Have a process, and those that it starts from now on, among them."""
        (self._folder / "cgroup.procs").write_text(str(process.pid))

    def leave(self, more: int) -> None:
        """Let them have so many bytes more than they hold."""
        self._limit.write_text(str(int(self._usage.read_text()) + more))

    def killed(self) -> int:
        """Return how many of them the kernel killed for want of memory."""
        told = dict(line.split() for line in self._events.read_text().splitlines())
        return int(told["oom_kill"])


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Make a group; skips where root may not."""
    parent = GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS
    folder = parent / "feastrain-fault"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made in {parent}: {error.strerror}")
    try:
        yield MemoryGroup(folder)
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text(), "the end of its processes")
        folder.rmdir()


def test_memory_that_is_used_up(
    undisturbed: Path, tmp_path: Path, outcome_of: Callable[[str, str], Outcome]
) -> None:
    """What shares the pod grows until the kernel kills a rank; the run ends in its bundle."""
    outcome = outcome_of("training", "memory is used up")
    artifacts = tmp_path / "artifacts"
    with memory_group() as group, started(command(tmp_path, artifacts)) as process:
        group.take(process)
        until(lambda: any(artifacts.rglob("epoch-*.safetensors")), "a checkpoint")
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, text=True
        ) as greedy:
            group.take(greedy)
            group.leave(32 * MEBIBYTE)
            assert greedy.stdin is not None
            greedy.stdin.write("now\n")
            greedy.stdin.flush()
            until(lambda: group.killed() > 0, "the kernel to kill a process")
            greedy.kill()
        _, told = process.communicate(timeout=200)
        ended = time.monotonic() - began
    if process.returncode:
        assert "Traceback" not in told
    same = same_weights(undisturbed, trained(tmp_path, artifacts))
    outcome.add({"other weights": int(not same)}, {"until it ended": ended}, survived=same)
    assert same


def test_a_clock_that_jumps(
    undisturbed: Path, tmp_path: Path, outcome_of: Callable[[str, str], Outcome]
) -> None:
    """A day ahead and two back, in the middle of a run: nothing waits or gives up for it."""
    require("cc")
    outcome = outcome_of("training", "the clock jumps a day ahead, then two back")
    artifacts, ahead, shim = (tmp_path / name for name in ("artifacts", "ahead", "clock.so"))
    compiler = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(shim), "-"]
    subprocess.run(compiler, input=CLOCK, text=True, check=True)
    ahead.write_bytes(bytes(8))
    faked = {"LD_PRELOAD": str(shim), "CLOCK_AHEAD": str(ahead)}
    with started(command(tmp_path, artifacts), **faked) as process:
        until(lambda: any(artifacts.rglob("epoch-*.safetensors")), "a checkpoint")
        began = time.monotonic()
        for day in (86_400, -86_400):
            with ahead.open("r+b") as file:
                file.write(day.to_bytes(8, sys.byteorder, signed=True))
            time.sleep(1)
        _, told = process.communicate(timeout=200)
        ended = time.monotonic() - began
    assert process.returncode == 0, told
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    moments = [datetime.fromisoformat(line["at"]) for line in lines]
    assert max(moments) - min(moments) > timedelta(hours=23)  # the run saw it
    (bundle,) = {path.resolve() for path in (artifacts / "bundles").iterdir()}
    same = same_weights(undisturbed, bundle)
    outcome.add({"other weights": int(not same)}, {"until it ended": ended}, survived=same)
    assert same


def test_a_rank_that_is_killed_again_and_again(
    undisturbed: Path,
    tmp_path: Path,
    outcome_of: Callable[[str, str], Outcome],
    times: int,
) -> None:
    """The whole run is killed at a moment of its own each time; the bundle is the same."""
    outcome = outcome_of("training", "kill -9 of the whole run, then the same command")
    artifacts = tmp_path / "artifacts"
    for strike in range(times):
        with started(command(tmp_path, artifacts)) as process:
            until(lambda: any(artifacts.rglob("epoch-*.safetensors")), "a checkpoint")
            time.sleep(0.2 + 0.3 * (strike % 3))
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(1)
    same = same_weights(undisturbed, trained(tmp_path, artifacts))
    for _ in range(times):
        outcome.add({"other weights": int(not same)}, {}, survived=same)
    assert same
