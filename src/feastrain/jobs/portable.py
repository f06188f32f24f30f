"""A run as a function that Kubeflow's backends ship as source: it stands alone."""


def train_run(params: dict[str, str] | None = None, **given: str) -> None:
    """Run what a folder's request asks for.

    Args:
        params: the folder, as Kubeflow's process backend hands it over.
        given: the same, as its other backends do.
    """
    import subprocess
    import sys

    folder = {**(params or {}), **given}["folder"]
    command = [sys.executable, "-m", "feastrain.jobs.launch", folder]
    sys.exit(subprocess.call(command))  # noqa: S603 - ours


def train_rank(params: dict[str, str] | None = None, **given: str) -> None:
    """Be a rank of a run, which torchrun has started in a container, and leave the exit code.

    Args:
        params: the folder with the run, its snapshot and, at the end, its bundle; and `fresh`.
        given: the same, as the container backend hands it over.
    """
    import os
    import pathlib
    import runpy
    import sys

    told = {**(params or {}), **given}
    folder, anew = told["folder"], [told["fresh"]] if "fresh" in told else []
    places = {"recipe": "run/recipe.yaml", "snapshot": "snapshot", "folder": "run"}
    words = [f"--{name}={folder}/{place}" for name, place in {**places, "bundle": "bundle"}.items()]
    sys.argv = ["feastrain.training.run", *words, *anew]
    try:
        runpy.run_module("feastrain.training.run", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        rank = os.environ["RANK"]  # noqa: TID251 - torchrun's
        pathlib.Path(folder, f"exit.{rank}").write_text(str(end.code))
        raise
