"""`feastrain jobs`: training jobs of this machine or a cluster, on the command line."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from feastrain.jobs.job import On
from feastrain.project import Project

app = typer.Typer(help="Training jobs, here or on a cluster.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A job, as `jobs list` names it.", metavar="JOB")]
Where = Annotated[On, typer.Option("--on", help="Where it runs.")]
Folder = Annotated[Path, typer.Option("--project", "-C", help="The project folder.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _jobs(on: On, project: Path) -> Any:
    return Project(project).jobs(on)


@app.command("list")
def list_jobs(on: Where = "here", project: Folder = Path(), *, as_json: AsJson = False) -> None:
    """List all jobs, the newest first."""
    from feastrain.report import show_jobs

    jobs = _jobs(on, project).all()
    if as_json:
        typer.echo(json.dumps([asdict(job) for job in jobs]))
    else:
        show_jobs(jobs)


@app.command()
def get(
    name: Name, on: Where = "here", project: Folder = Path(), *, as_json: AsJson = False
) -> None:
    """Show one job: its state, why, and how far it is."""
    from feastrain.report import show_jobs

    job = _jobs(on, project).get(name)
    if as_json:
        typer.echo(json.dumps(asdict(job)))
    else:
        show_jobs([job])


@app.command()
def logs(
    name: Name,
    on: Where = "here",
    project: Folder = Path(),
    node: Annotated[int, typer.Option(min=0, help="Which node.")] = 0,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """Print the lines of a node."""
    for line in _jobs(on, project).logs(name, node, follow=follow):
        typer.echo(line)


@app.command()
def events(name: Name, on: Where = "here", project: Folder = Path()) -> None:
    """Print what happened to a job, the oldest first; on a cluster, to its pods too."""
    for noted in _jobs(on, project).events(name):
        about = f"{noted.involved_object_kind} {noted.involved_object_name}"
        told = f": {noted.message}" if noted.message else ""
        typer.echo(f"{noted.event_time.isoformat()} {about}: {noted.reason}{told}")


@app.command()
def wait(
    name: Name,
    on: Where = "here",
    project: Folder = Path(),
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds; by default as long as it takes.")
    ] = None,
) -> None:
    """Wait until a job is complete; one that fails ends this with its error and exit code."""
    _jobs(on, project).wait(name, math.inf if timeout is None else timeout)


@app.command()
def stop(name: Name, on: Where = "here", project: Folder = Path()) -> None:
    """Have a job save and end all its processes; `jobs resume` has it go on."""
    _jobs(on, project).stop(name)


@app.command()
def resume(name: Name, on: Where = "here", project: Folder = Path()) -> None:
    """Have a job that was stopped go on from its last checkpoint."""
    _jobs(on, project).resume(name)


@app.command()
def delete(name: Name, on: Where = "here", project: Folder = Path()) -> None:
    """End a job and forget it; checkpoints stay, and the same run goes on from them."""
    _jobs(on, project).delete(name)
