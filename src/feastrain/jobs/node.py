"""Torchrun on one node of a cluster, which leaves with the code of the rank that failed.

    python -m feastrain.jobs.node --nproc-per-node 2 -m feastrain.training.run ...

takes torchrun's own arguments and the `PET_*` variables that Kubeflow's controller sets. Torchrun
itself leaves with 1 whatever happened, so that nobody could tell a run that was asked to stop, or
lost a node, from one that would fail in the same way again. With `--launcher PID` before all else
it ends with the process that started it, and its ranks with it.
"""

from __future__ import annotations

import os
import sys

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import main as torchrun

from feastrain.errors import BY_CODE, InterruptedRun, LostRankError
from feastrain.jobs.agents import death
from feastrain.telemetry import say
from feastrain.training.distributed import die_with_parent


def run_node(arguments: list[str]) -> int:
    """Run the ranks of this node, and return the exit code.

    It is that of the first rank that left with one of `feastrain.errors`; 69, start again, where
    ranks died otherwise or another node is not reached; 75 where this node was asked to stop.
    """
    if arguments[:1] == ["--launcher"]:
        die_with_parent(int(arguments[1]))
        arguments = [*arguments[2:], "--launcher", str(os.getpid())]
    try:
        torchrun(arguments)
    except ChildFailedError as failed:
        ends = sorted(failed.failures.items(), key=lambda end: end[1].timestamp)
        codes = {rank: failure.exitcode for rank, failure in ends}
        return _code(codes)
    except SignalException:
        return InterruptedRun.exit_code
    except (DistError, RendezvousError) as error:
        say(f"another node is not reached: {error}")
        return _lost()
    return 0


def _code(codes: dict[int, int]) -> int:
    told = [code for code in codes.values() if code in BY_CODE.keys() - {LostRankError.exit_code}]
    if not told:
        say(death(codes, "rank"))
    return next(iter(told), _lost())


def _lost() -> int:
    return LostRankError.exit_code


if __name__ == "__main__":
    sys.exit(run_node(sys.argv[1:]))
