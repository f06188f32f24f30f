"""The ranks of a run: who they are, how they talk, and that all leave together."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = timedelta(minutes=5)
"""How long a rank waits for the others before it gives up."""

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


@contextlib.contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the run that torchrun's environment describes; without torchrun, run alone.

    Devices are CUDA with NCCL when every local rank has one of its own, else the CPU with gloo.
    Each rank gets its share of the cores as threads.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))  # noqa: TID251 - torchrun's environment
    rank = int(os.environ.get("RANK", "0"))  # noqa: TID251
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))  # noqa: TID251
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # noqa: TID251
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    on_cuda = torch.cuda.is_available() and torch.cuda.device_count() >= local_size
    device = torch.device("cuda", local_rank) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group(
        "nccl" if on_cuda else "gloo", timeout=TIMEOUT, device_id=device if on_cuda else None
    )
    try:
        yield Ranks(rank, world_size, device)
    finally:
        dist.destroy_process_group()


def die_with_parent(launcher: int | None) -> None:
    """Ask the kernel to kill this process when the one that started it dies (Linux).

    A worker that outlived a killed launcher would go on writing to a run that another has
    resumed. One whose `launcher` died before this call leaves at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if launcher is not None and os.getppid() != launcher:
        sys.exit(1)
