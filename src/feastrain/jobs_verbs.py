"""`feastrain jobs`: the training jobs of a cluster, on the command line."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from feastrain.jobs.trainer import Jobs

app = typer.Typer(help="The training jobs of a cluster.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A job, as `jobs list` names it.", metavar="JOB")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def cluster_jobs() -> Jobs:
    """Return the jobs of the cluster that the settings and the kubeconfig name.

    Raises:
        UsageError: Kubeflow's client is not installed, or no cluster is known.
    """
    from importlib.util import find_spec

    from feastrain.errors import UsageError
    from feastrain.settings import load_cluster

    if find_spec("kubeflow") is None:
        message = "jobs of a cluster need Kubeflow's client: pip install 'feastrain[jobs]'"
        raise UsageError(message)
    from feastrain.jobs.trainer import Jobs

    return Jobs(load_cluster())


@app.command("list")
def list_jobs(*, as_json: AsJson = False) -> None:
    """List all jobs, the newest first."""
    from feastrain.report import show_jobs

    jobs = cluster_jobs().all()
    if as_json:
        typer.echo(json.dumps([asdict(job) for job in jobs]))
    else:
        show_jobs(jobs)


@app.command()
def get(name: Name, *, as_json: AsJson = False) -> None:
    """Show one job: its state, why, and how far it is."""
    from feastrain.report import show_jobs

    job = cluster_jobs().get(name)
    if as_json:
        typer.echo(json.dumps(asdict(job)))
    else:
        show_jobs([job])


@app.command()
def logs(
    name: Name,
    node: Annotated[int, typer.Option(min=0, help="Which node.")] = 0,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """Print the lines of a node."""
    for line in cluster_jobs().logs(name, node, follow=follow):
        typer.echo(line)


@app.command()
def events(name: Name) -> None:
    """Print what the cluster noted of a job and its pods, the oldest first."""
    for noted in cluster_jobs().events(name):
        about = f"{noted.involved_object_kind} {noted.involved_object_name}"
        typer.echo(f"{noted.event_time.isoformat()} {about}: {noted.reason}: {noted.message}")


@app.command()
def wait(
    name: Name,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds; by default as long as it takes.")
    ] = None,
) -> None:
    """Wait until a job is complete; one that fails ends this with its error and exit code."""
    cluster_jobs().wait(name, math.inf if timeout is None else timeout)


@app.command()
def stop(name: Name) -> None:
    """Have a job save and end its pods; `jobs resume` has it go on."""
    cluster_jobs().stop(name)


@app.command()
def resume(name: Name) -> None:
    """Have a job that was stopped go on from its last checkpoint."""
    cluster_jobs().resume(name)


@app.command()
def delete(name: Name) -> None:
    """Delete a job and its pods; checkpoints stay, and the same run goes on from them."""
    cluster_jobs().delete(name)
