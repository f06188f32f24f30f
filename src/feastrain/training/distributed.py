"""The ranks of a run: who they are, how they talk, and that all leave together.

Ranks talk by collectives, which NCCL or gloo carries; which of the two is settled by all of them
before either is started. A collective that fails ends the run on every rank in one line that
says who is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from feastrain.errors import FeastrainError, SilentRankError
from feastrain.settings import load_settings
from feastrain.telemetry import say
from feastrain.training.meeting import Meeting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHECK = timedelta(minutes=1)
"""How long the first collective of all may take; it is tiny, but makes every connection."""
LEAVE_SECONDS = 5.0
"""How long a rank that failed tries to tear its connections down."""
NO_CUDA = "has no CUDA"
CGROUP_CPUS = Path("/sys/fs/cgroup/cpu.max")

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ranks:
    """This process among the others of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, the one that writes and reports."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of `values` over all ranks."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def any(self, *, flag: bool) -> bool:
        """Return whether `flag` holds on any rank."""
        return bool(self.total(torch.tensor([float(flag)]))[0] > 0)

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return the values of every rank, which all have one shape."""
        if self.world_size == 1:
            return [values]
        values = values.to(self.device)
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values)
        return [tensor.cpu() for tensor in gathered]

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.total(torch.zeros(1))


@dataclass(frozen=True)
class Place:
    """Where torchrun put this process; alone, without torchrun."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    attempt: str
    """A name for this start of the ranks, which no other start has."""
    node: int = 0
    nodes_here: int = 1
    """How many nodes of the run share this machine."""

    @property
    def size_here(self) -> int:
        """How many ranks share this machine."""
        return self.local_size * self.nodes_here

    @property
    def rank_here(self) -> int:
        """This rank among those that share this machine."""
        return self.local_rank + (self.node * self.local_size if self.nodes_here > 1 else 0)

    @classmethod
    def here(cls) -> Self:
        """Read torchrun's environment."""
        given = os.environ  # noqa: TID251 - torchrun's, not ours
        return cls(
            rank=int(given.get("RANK", "0")),
            world_size=int(given.get("WORLD_SIZE", "1")),
            local_rank=int(given.get("LOCAL_RANK", "0")),
            local_size=int(given.get("LOCAL_WORLD_SIZE", "1")),
            attempt="-".join(
                given.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT")
            ),
            node=int(given.get("GROUP_RANK", "0")),
            nodes_here=load_settings().nodes_here,
        )

    def obstacle(self) -> str:
        """Return why this rank cannot use NCCL, or nothing."""
        if not torch.cuda.is_available():
            return NO_CUDA
        devices = torch.cuda.device_count()
        if devices < self.size_here:
            return f"shares {devices} devices with {self.size_here - 1} other ranks"
        return "" if dist.is_nccl_available() else "has a torch without NCCL"


def settle(obstacles: Sequence[str]) -> tuple[str, str]:
    """Return the backend of all ranks, and what there is to say about it, if anything.

    Args:
        obstacles: by rank, why it cannot use NCCL; empty where it can.
    """
    if not any(obstacles):
        return "nccl", ""
    if set(obstacles) == {NO_CUDA}:
        return "gloo", ""
    rank, obstacle = next((rank, why) for rank, why in enumerate(obstacles) if why)
    return "gloo", f"rank {rank} {obstacle}, so all ranks compute on the CPU and talk by gloo."


@contextlib.contextmanager
def ranks(timeout: timedelta) -> Iterator[Ranks]:
    """Join the run that torchrun's environment describes; without torchrun, run alone.

    Devices are CUDA with NCCL when every rank of the run has one of its own, else the CPU with
    gloo. Each rank gets its share of the cores as threads.

    Args:
        timeout: the longest that a rank waits for the others, in a collective and before.

    Raises:
        LostRankError: another rank died.
        SilentRankError: another rank does not answer.
        FeastrainError: another rank left with this error.
    """
    place = Place.here()
    torch.set_num_threads(max(1, _cores() // place.size_here))
    if place.world_size == 1:
        yield Ranks(0, 1, _device(place, on_cuda=torch.cuda.is_available()))
        return
    store = PrefixStore(f"feastrain/{place.attempt}", _store(timeout))
    meeting = Meeting(store, place.rank, place.world_size, timeout)
    with _leaving_together(meeting):
        backend, note = settle(meeting.share("obstacle", place.obstacle()))
        if note and place.rank == 0:
            say(note)
        device = _device(place, on_cuda=backend == "nccl")
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
            device_id=device if backend == "nccl" else None,
        )
        work = dist.all_reduce(torch.zeros(1, device=device), async_op=True)
        work.wait(min(timeout, CHECK))
        yield Ranks(place.rank, place.world_size, device)


@contextlib.contextmanager
def _leaving_together(meeting: Meeting) -> Iterator[None]:
    """End the process group however the block ends, for one reason on all ranks."""
    clean = False
    try:
        yield
        clean = True
    except FeastrainError as error:
        meeting.agree(error)
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
            raise
        raise meeting.explain(error) from error
    finally:
        _disband(clean=clean)


def _disband(*, clean: bool) -> None:
    if not dist.is_initialized():
        return
    if clean:
        dist.destroy_process_group()
        return
    # With NCCL this waits for the others, and one that is dead never comes.
    thread = threading.Thread(target=dist.destroy_process_group, daemon=True)
    thread.start()
    thread.join(LEAVE_SECONDS)


def _store(timeout: timedelta) -> Store:
    """Return the store that torchrun's agent holds.

    Raises:
        SilentRankError: it cannot be reached.
    """
    try:
        store: Store = next(rendezvous("env://", timeout=timeout))[0]
    except (dist.DistError, ValueError) as error:
        message = f"torchrun's store cannot be reached: {str(error).splitlines()[0]}"
        raise SilentRankError(message) from error
    return store


def _device(place: Place, *, on_cuda: bool) -> torch.device:
    if not on_cuda:
        return torch.device("cpu")
    device = torch.device("cuda", place.rank_here)
    torch.cuda.set_device(device)
    return device


def _cores() -> int:
    """Return the cores that this process may use: of the machine, or its container's share."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    limit = CGROUP_CPUS.read_text() if CGROUP_CPUS.is_file() else "max"
    quota, _, period = limit.partition(" ")
    return cores if quota == "max" else min(cores, max(1, int(quota) // int(period)))


def die_with_parent(launcher: int | None) -> None:
    """Ask the kernel to kill this process when the one that started it dies (Linux).

    A worker that outlived a killed launcher would go on writing to a run that another has
    resumed. One whose `launcher` died before this call leaves at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if launcher is not None and os.getppid() != launcher:
        sys.exit(1)
