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
