"""What a run needed of its machine, left in its folder: the next one is sized by it."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from feastrain.artifacts import write_json
from feastrain.training.files import USAGE

if TYPE_CHECKING:
    from feastrain.training.distributed import Ranks


@dataclass(frozen=True)
class Usage:
    """A run that finished."""

    snapshot: str
    """Fingerprint of what it was fitted on."""
    processes: int
    peak_bytes: int
    """Resident at once in the rank that needed most."""
    gpu_peak_bytes: int
    """Allocated at once on the device of the rank that needed most; 0 without one."""
    seconds: float | None
    """Of fitting; None where the run was resumed."""

    def save(self, folder: Path) -> None:
        """Leave it in a run's folder."""
        write_json(folder / USAGE, asdict(self))


def peaks(here: Ranks) -> tuple[int, int]:
    """Return the most bytes that a rank had resident, and on its device; all ranks ask at once."""
    on_device = torch.cuda.max_memory_allocated(here.device) if here.device.type == "cuda" else 0
    mine = torch.tensor([_resident(), on_device], dtype=torch.float64)
    resident, allocated = torch.stack(here.gather(mine)).max(dim=0).values.tolist()
    return int(resident), int(allocated)


def _resident() -> int:
    """Return the most bytes that this process ever had resident."""
    status = Path("/proc/self/status")
    if status.is_file():
        # What a process was before it became this program is in `getrusage`, but not in here.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
