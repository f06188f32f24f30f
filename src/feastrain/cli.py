"""The command line: one verb a stage, no logic of its own.

Heavy imports stay inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from feastrain import jobs_verbs
from feastrain.errors import ExpectationError, FeastrainError, UsageError
from feastrain.inspection import Engine  # noqa: TC001 - read by typer
from feastrain.jobs.job import On  # noqa: TC001 - read by typer
from feastrain.project import Project
from feastrain.version import __version__

if TYPE_CHECKING:
    from feastrain.dataset.verdict import Verdict

app = typer.Typer(
    name="feastrain",
    help="From a Feast feature service to a served forecast.",
    epilog="Start with: feastrain demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

START, DATA, MODELS = "Start", "From features to a snapshot", "From a snapshot to a bundle"
FORECASTS, OPERATIONS = "From a bundle to forecasts", "Operations"

RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe's name (mlp) or file.", metavar="RECIPE")
]
ProjectOption = Annotated[
    Path, typer.Option("--project", "-C", help="The project folder.", metavar="DIR")
]
SnapshotArgument = Annotated[
    str,
    typer.Argument(
        help="A snapshot: folder, fingerprint, or RECIPE[.previous].", metavar="SNAPSHOT"
    ),
]
Part = Literal["train", "validation", "test", "all"]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", help="Know nothing later than this (2012-08-31).", metavar="DATE"),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder of Kaggle's Walmart CSVs; else a synthetic twin.", metavar="DIR"
    ),
]
SeedOption = Annotated[int, typer.Option(help="What the synthetic twin is drawn from.")]


@app.command(rich_help_panel=START)
def init(  # noqa: PLR0913 - each argument is an option of the command line
    directory: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("demand"),
    data: DataOption = None,
    seed: SeedOption = 0,
    repo: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A Feast repo of yours to forecast from.", metavar="FEAST_REPO"
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="With --from: what to forecast.", metavar="SOURCE.COLUMN"),
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="With --from: which feature service.", metavar="NAME")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a project: the retail demand application, or one on a Feast repo of yours."""
    if repo is None:
        if label is not None or service is not None:
            message = "--label and --service go with --from FEAST_REPO"
            raise UsageError(message)
        project = Project.init(directory, data or _walmart_dir(), seed)
        _show({"project": str(project.root), **project.raw_facts()}, as_json=as_json)
        return
    from feastrain.report import ask_for_label, show_guesses

    choose = ask_for_label if sys.stdin.isatty() and not as_json else None
    project, proposal = Project.adopt(directory, repo, label, service, choose)
    if as_json:
        guesses = [vars(guess) for guess in proposal.guesses]
        _show({"project": str(project.root), "guesses": guesses}, as_json=True)
    else:
        show_guesses(proposal.guesses, project.root)


@app.command(rich_help_panel=START)
def demo(
    directory: Annotated[Path, typer.Argument(help="Folder to make or go on with.")] = Path(
        "demand"
    ),
    data: DataOption = None,
    recipe: Annotated[str, typer.Option(help="Which recipe to run.")] = "mlp",
    port: Annotated[int | None, typer.Option(help="Port of the page.")] = None,
    *,
    serve: Annotated[bool, typer.Option(help="Serve the page at the end.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Run the whole chain: raw tables in, a page of forecasts out."""
    from feastrain.demo import run_demo, show_demo

    result = run_demo(directory, data or _walmart_dir(), recipe)
    if as_json:
        _show(result.to_json(), as_json=True)
    else:
        show_demo(result)
    if serve:
        result.project.serve(recipe, port=port)


@app.command(rich_help_panel=START)
def doctor(project: ProjectOption = Path(), *, as_json: JsonOption = False) -> None:
    """Say what is installed, reachable or missing, and the command that mends it."""
    from feastrain.doctor import examine, show_findings

    findings = examine(project)
    if as_json:
        _show([finding.to_json() for finding in findings], as_json=True)
    else:
        show_findings(findings)
    if not all(finding.well or finding.optional for finding in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=DATA)
def plan(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    as_of: AsOfOption = None,
    queue: Annotated[
        str | None,
        typer.Option(help="Fit training to this queue of FEASTRAIN_QUEUES.", metavar="NAME"),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what build would do, and what training on its last snapshot needs; writes nothing."""
    from feastrain.report import show_plan, show_size

    opened = Project(project)
    planned = opened.plan(recipe, _moment(as_of))
    size = opened.size(recipe, queue) if planned.last or queue else None
    if as_json:
        _show({**planned.to_json(), "training": size and size.to_json()}, as_json=True)
        return
    show_plan(planned)
    if size is not None:
        show_size(size, f"Training {planned.recipe} on snapshot {planned.last}")


@app.command(rich_help_panel=DATA)
def build(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    as_of: AsOfOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Build the training set: joined as of each cut-off, validated, split, published."""
    from feastrain.report import show_verdicts

    found: list[Verdict] = []
    try:
        snapshot = Project(project).build(recipe, _moment(as_of), found.extend)
    except ExpectationError:
        told = [verdict.to_json() for verdict in found]
        if as_json:
            _show({"verdicts": told}, as_json=True)
        else:
            show_verdicts(told)
        raise
    if as_json:
        _show({"snapshot": str(snapshot.path), **snapshot.manifest}, as_json=True)
    else:
        show_verdicts(snapshot.manifest["verdicts"])


@app.command(rich_help_panel=DATA)
def validate(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    as_of: AsOfOption = None,
    engine: Annotated[Engine, typer.Option(help="What checks; both give the same verdicts.")] = (
        "pandera"
    ),
    export_gx: Annotated[
        Path | None,
        typer.Option(help="Write Great Expectations suites here instead.", metavar="DIR"),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check the recipe's expectations on what build would publish; exit 3 if one breaks."""
    from feastrain.dataset.verdict import require
    from feastrain.report import show_verdicts

    opened, moment = Project(project), _moment(as_of)
    if export_gx is not None:
        written = opened.export_gx(recipe, export_gx, moment)
        _show({"suites": [str(path) for path in written]}, as_json=as_json)
        return
    verdicts = opened.validate(recipe, moment, engine)
    told = [verdict.to_json() for verdict in verdicts]
    if as_json:
        _show(told, as_json=True)
    else:
        show_verdicts(told)
    require(verdicts)


@app.command(rich_help_panel=DATA)
def audit(  # noqa: PLR0913 - each argument is an option of the command line
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    cutoffs: Annotated[int, typer.Option(min=1, help="At how many cut-offs.")] = 6,
    rows: Annotated[int, typer.Option(min=1, help="On how many rows.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Decides the rows and the changes.")] = 0,
    html: Annotated[
        Path | None, typer.Option(help="Copy the report to read there.", metavar="FILE")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Prove that no feature knows the future; exit 4 when one does."""
    from feastrain.dataset.audit import require_clean
    from feastrain.report import show_audit

    audited = Project(project).audit(recipe, cutoffs=cutoffs, rows=rows, seed=seed)
    if as_json:
        _show({**audited.report.to_json(), "path": str(audited.path)}, as_json=True)
    else:
        show_audit(audited.report)
    if html is not None:
        html.write_bytes(audited.html.read_bytes())
    require_clean(audited.report, html or audited.html)


@app.command(rich_help_panel=DATA)
def diff(
    before: SnapshotArgument,
    after: SnapshotArgument,
    project: ProjectOption = Path(),
    *,
    as_json: JsonOption = False,
) -> None:
    """Say why two snapshots differ: each input that changed, and what came of it."""
    from feastrain.report import show_difference

    difference = Project(project).diff(before, after)
    if as_json:
        _show(difference.to_json(), as_json=True)
    else:
        show_difference(difference)


@app.command(rich_help_panel=DATA)
def drift(
    before: SnapshotArgument,
    after: SnapshotArgument,
    project: ProjectOption = Path(),
    part: Annotated[Part, typer.Option(help="Which rows to compare.")] = "train",
    *,
    as_json: JsonOption = False,
) -> None:
    """Measure how far every feature moved between two snapshots, worst first."""
    from feastrain.report import show_drift

    moved = Project(project).drift(before, after, part)
    if as_json:
        _show(moved.to_json(), as_json=True)
    else:
        show_drift(moved, f"Drift of the {part} rows from {before} to {after}")


@app.command(rich_help_panel=MODELS)
def train(  # noqa: PLR0913 - a flag each
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    on: Annotated[On, typer.Option(help="Where it runs.")] = "here",
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes.")] = 1,
    processes: Annotated[
        int | None,
        typer.Option(
            "--nproc-per-node", min=1, help="Training processes on each; by default the recipe's."
        ),
    ] = None,
    *,
    cpu: Annotated[
        int | None, typer.Option(min=1, help="Cores of each node of a cluster; one a process.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of each node of a cluster; by default what `plan` works out."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each node of a cluster.")] = 0,
    fresh: Annotated[bool, typer.Option(help="Start over, without a checkpoint.")] = False,
    candidate: Annotated[
        bool,
        typer.Option("--candidate", help="Leave what is served in its place; see `promote`."),
    ] = False,
    follow: Annotated[
        bool | None,
        typer.Option(
            "--follow/--no-follow",
            help="Stay until it ends, by default unless it runs on a cluster; else it goes on in "
            "the background, as one of `feastrain jobs`.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the model; the same command resumes a run that was interrupted."""
    opened = Project(project)
    size = opened.job_size(recipe, nodes, processes, on=on, cpu=cpu, memory=memory, gpus=gpus)
    if dry_run:
        typer.echo(opened.show_job(recipe, fresh=fresh, on=on, size=size), nl=False)
        return
    if candidate and follow is None:
        follow = True
    stay = on != "kubernetes" if follow is None else follow
    if candidate and not stay:
        message = "--candidate names the bundle once it is made: leave --no-follow out"
        raise UsageError(message)
    if not stay and (job := opened.submit(recipe, fresh=fresh, on=on, size=size)) is not None:
        _show({"job": job}, as_json=as_json)
        return
    bundle = opened.train(recipe, fresh=fresh and stay, candidate=candidate, on=on, size=size)
    _show({"bundle": str(bundle.path), **bundle.metrics}, as_json=as_json)


@app.command(rich_help_panel=MODELS)
def backtest(
    recipe: RecipeArgument, project: ProjectOption = Path(), *, as_json: JsonOption = False
) -> None:
    """Score the model and its baselines on the same held-out rows."""
    from feastrain.report import show_leaderboard

    result = Project(project).backtest(recipe)
    if as_json:
        _show(result.to_json(), as_json=True)
    else:
        show_leaderboard(result)


@app.command(rich_help_panel=MODELS)
def promote(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    better_by: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the served one's error that must be saved."),
    ] = 0.0,
    *,
    as_json: JsonOption = False,
) -> None:
    """Serve what `train --candidate` made, if it beats what is served on rows unseen; else exit 1.

    Servers that run swap within seconds. To go back, point the link of the recipe in
    artifacts/bundles back.
    """
    compared = Project(project).promote(recipe, better_by)
    _show(compared.to_json(), as_json=as_json)
    if not compared.promotes:
        message = (
            f"the candidate stays out: WMAE {compared.candidate_wmae:,.1f}, and "
            f"{compared.served_wmae:,.1f} of what is served, on {compared.rows:,} labels"
        )
        raise FeastrainError(message)


@app.command(rich_help_panel=MODELS)
def tune(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    trials: Annotated[
        int, typer.Option(min=1, help="How many at all, earlier ones included.")
    ] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", help="Copy the best recipe there.", metavar="FILE")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Try values of the recipe's keys, as its `tune` says; the same command resumes."""
    from feastrain.report import show_trials

    tuned = Project(project).tune(recipe, trials)
    if as_json:
        _show(tuned.to_json(), as_json=True)
    else:
        show_trials(tuned)
    if out is not None:
        out.write_bytes(tuned.recipe.read_bytes())


@app.command(rich_help_panel=MODELS)
def explain(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    part: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Which rows to average over.")
    ] = "test",
    out: Annotated[
        Path | None, typer.Option("--out", help="Copy the page to look at there.", metavar="FILE")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what a TFT's forecasts rest on: its variables, and where in the past it looks."""
    from feastrain.report import show_explanation

    explained = Project(project).explain(recipe, part)
    if as_json:
        _show(explained.to_json(), as_json=True)
    else:
        show_explanation(explained.shares)
    if out is not None:
        out.write_bytes(explained.page.read_bytes())


@app.command(rich_help_panel=FORECASTS)
def materialize(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    as_of: AsOfOption = None,
    *,
    fresh: Annotated[bool, typer.Option(help="Write them again, though they are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the features of the last closed period to the online store."""
    cutoff = Project(project).materialize(recipe, _moment(as_of), fresh=fresh)
    _show({"as_of": cutoff.isoformat()}, as_json=as_json)


@app.command(rich_help_panel=FORECASTS)
def skew(  # noqa: PLR0913 - each argument is an option of the command line
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    sample: Annotated[int, typer.Option(min=1, help="Of how many series, at random.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Decides which series.")] = 0,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the values that may differ.")
    ] = 0.0,
    *,
    every: Annotated[bool, typer.Option("--all", help="Of all series.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the online store with the offline join, value by value; exit 1 when they differ."""
    from feastrain.dataset.skew import require_equal
    from feastrain.report import show_skew

    found = Project(project).skew(recipe, None if every else sample, seed)
    if as_json:
        _show({**found.report.to_json(), "path": str(found.path)}, as_json=True)
    else:
        show_skew(found.report)
    require_equal(found.report, found.page, tolerance)


@app.command(rich_help_panel=FORECASTS)
def predict(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    push: Annotated[
        str | None,
        typer.Option(help="Write them to the online store through this too.", metavar="SOURCE"),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Forecast every series from the online store into one Parquet file."""
    forecast = Project(project).predict(recipe, push)
    facts = {"forecasts": str(forecast.path), "rows": forecast.rows}
    _show({**facts, "as_of": forecast.as_of.isoformat()}, as_json=as_json)


@app.command(rich_help_panel=FORECASTS)
def serve(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer, on one socket.", min=1, max=256)
    ] = None,
) -> None:
    """Serve forecasts over HTTP, and the planner's page."""
    Project(project).serve(recipe, host, port, workers)


@app.command(rich_help_panel=OPERATIONS)
def sign(
    recipe: RecipeArgument,
    key: Annotated[Path, typer.Option(help="PEM file, Ed25519 private key.", metavar="FILE")],
    project: ProjectOption = Path(),
    *,
    as_json: JsonOption = False,
) -> None:
    """Sign the recipe's last bundle, for places where FEASTRAIN_BUNDLE_KEYS is set."""
    _show({"signed": str(Project(project).sign(recipe, key))}, as_json=as_json)


@app.command(rich_help_panel=OPERATIONS)
def verify(
    recipe: RecipeArgument,
    project: ProjectOption = Path(),
    *,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of the recipe's last bundle, and its signature where keys are set."""
    asked = Project(project)
    bundle = asked.bundle(recipe)
    signed = asked.settings.bundle_keys is not None
    _show({"bundle": str(bundle.path), "whole": True, "signed": signed}, as_json=as_json)


@app.command(rich_help_panel=OPERATIONS)
def render(
    overlay: Annotated[
        str | None,
        typer.Option(help="All of deploy/ as dev, prod or openshift has it.", metavar="NAME"),
    ] = None,
) -> None:
    """Print the training runtimes of a cluster, which its jobs name: | kubectl apply -f -."""
    if overlay is not None:
        from feastrain.jobs.overlay import render_overlay

        typer.echo(render_overlay(overlay), nl=False)
        return
    from feastrain.jobs.cluster import as_yaml
    from feastrain.jobs.runtimes import runtimes
    from feastrain.settings import load_cluster

    typer.echo(as_yaml(runtimes(load_cluster())), nl=False)


@app.command(rich_help_panel=OPERATIONS)
def metrics(
    update: Annotated[
        Path | None,
        typer.Option("--update", help="Write the tables of this page anew.", metavar="PAGE"),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List every metric: its kind, unit, labels and meaning."""
    from feastrain import catalogue

    if update is not None:
        changed = catalogue.update_tables(update)
        _show({"page": str(update), "changed": changed}, as_json=as_json)
    elif as_json:
        _show([entry.to_json() for entry in catalogue.catalogue()], as_json=True)
    else:
        for stage in sorted({entry.stage for entry in catalogue.catalogue()}):
            typer.echo(f"{catalogue.as_table(stage)}\n")


@app.command(rich_help_panel=OPERATIONS)
def sbom(
    *,
    licences: Annotated[bool, typer.Option(help="A line a package: its licence.")] = False,
) -> None:
    """List the packages of this installation as a CycloneDX SBOM."""
    from feastrain.inventory import as_cyclonedx, installed

    packages = installed()
    if licences:
        _show({f"{one.name} {one.version}": one.licence for one in packages}, as_json=False)
    else:
        _show(as_cyclonedx(packages), as_json=True)


app.add_typer(jobs_verbs.app, name="jobs", rich_help_panel=OPERATIONS)


@app.callback(invoke_without_command=True)
def _version(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(f"feastrain {__version__}")
        raise typer.Exit
    from feastrain.startup import check_types_when_called
    from feastrain.telemetry import log_as_lines

    check_types_when_called()
    log_as_lines()


def main() -> None:
    """Run the command line; an error that has a line for the user becomes that, and its code."""
    try:
        try:
            app()
        finally:
            _push_stages()
    except FeastrainError as error:
        typer.echo(f"feastrain: {error}", err=True)
        code = error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"feastrain: {error.filename}: {error.strerror}", err=True)
        code = 1
    else:
        return
    sys.exit(code)  # here, where nothing holds what the error's stack held


def _push_stages() -> None:
    """Tell a Pushgateway what became of the stages of this verb, where there is one."""
    if "feastrain.telemetry" not in sys.modules:  # no stage ran: `--help` has no time for it
        return
    from feastrain.settings import load_settings
    from feastrain.telemetry import ENDED

    if not ENDED:
        return
    gateway = load_settings().pushgateway
    if gateway is not None:
        from feastrain.stage_metrics import push_stages

        push_stages(gateway, sys.argv[1], ENDED)


def _walmart_dir() -> Path | None:
    from feastrain.settings import load_settings

    return load_settings().walmart_dir


def _moment(text: str | None) -> datetime | None:
    """Read a date as its last moment, or a date and time as given; UTC unless it says."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"--as-of {text!r} is no date; write it as 2012-08-31 or 2012-08-31T12:00"
        raise UsageError(message) from error
    if len(text) == len("2012-08-31"):
        moment = datetime.combine(moment, time.max)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _show(result: Any, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result, indent=2, default=str))
        return
    for key, value in result.items():
        typer.echo(f"{key}: {value}")
