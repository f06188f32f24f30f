"""Torchrun on one node of a cluster, which leaves with the code of the rank that failed.

    python -m feastrain.jobs.node --nproc-per-node 2 -m feastrain.training.run ...

takes torchrun's own arguments and the `PET_*` variables that Kubeflow's controller sets. Torchrun
itself leaves with 1 whatever happened, so that nobody could tell a run that was asked to stop, or
lost a node, from one that would fail in the same way again.
"""

from __future__ import annotations

import sys

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import main as torchrun

from feastrain.errors import BY_CODE, InterruptedRun, LostRankError
from feastrain.telemetry import say


def run_node(arguments: list[str]) -> int:
    """Run the ranks of this node, and return the exit code.

    It is that of the first rank that left with one of `feastrain.errors`; 69, start again, where
    ranks died otherwise or another node is not reached; 75 where this node was asked to stop.
    """
    try:
        torchrun(arguments)
    except ChildFailedError as failed:
        ends = sorted(failed.failures.values(), key=lambda failure: failure.timestamp)
        codes = [end.exitcode for end in ends if end.exitcode in BY_CODE]
        return next((code for code in codes if code != LostRankError.exit_code), _lost())
    except SignalException:
        return InterruptedRun.exit_code
    except (DistError, RendezvousError) as error:
        say(f"another node is not reached: {error}")
        return _lost()
    return 0


def _lost() -> int:
    return LostRankError.exit_code


if __name__ == "__main__":
    sys.exit(run_node(sys.argv[1:]))
