"""A run through the process backend of Kubeflow's client, in a virtual environment of its own.

That backend changes the working directory of whoever uses it for as long as a job lasts, forgets
jobs when its process ends, and ends no more of one than a shell. So it has this process for itself,
which holds the run's lock, and the job is watched and stopped by what it leaves in its folder.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kubeflow.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient
from kubeflow.trainer.constants import constants
from kubeflow.trainer.options import Name

from feastrain.errors import BY_CODE, FeastrainError
from feastrain.jobs.launch import adopted
from feastrain.jobs.portable import train_run
from feastrain.jobs.record import STILL, Request, note, notes

if TYPE_CHECKING:
    from types import FrameType


def run_in_environment(folder: Path) -> None:
    """Make an environment, run what is asked for of a run in it, and wait.

    The environment sees the packages of this one: it would take minutes to install them anew.

    Raises:
        FeastrainError: the run failed, with its own message; or the environment could not be made.
    """
    given = os.environ  # noqa: TID251 - handed on: the backend gives a job nothing of it
    given["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", "")])
    packages = os.pathsep.join(path for path in sys.path if path)
    client = TrainerClient(LocalProcessBackendConfig())
    runtime = client.get_runtime(constants.DEFAULT_TRAINING_RUNTIME)
    # Else the job is started by a torchrun that the environment has not; ours starts the ranks.
    runtime.trainer.framework = "python"
    signal.signal(signal.SIGTERM, _pass_on)
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch  # where the backend leaves an environment that was stopped
        name = client.train(
            runtime=runtime,
            trainer=CustomTrainer(
                train_run, func_args={"folder": str(folder)}, env={**given, "PYTHONPATH": packages}
            ),
            options=[Name(Request.load(folder).name)],
        )
        for _ in client.get_job_logs(name, follow=True):
            pass  # It prints them itself, as they come.
    last = notes(folder)[-1]
    if last.reason not in STILL:
        message = "no environment could be made for the run; see its lines"
        note(folder, "Failed", message, code=FeastrainError.exit_code)
        raise FeastrainError(message)
    if last.reason != "Complete":
        raise BY_CODE[last.facts.get("code", 75)](last.message)


def _pass_on(number: int, _: FrameType | None) -> None:
    """Ask all processes of this session to stop: the shell would keep it to itself."""
    signal.signal(number, signal.SIG_IGN)
    os.killpg(0, number)


if __name__ == "__main__":
    adopted(run_in_environment)
