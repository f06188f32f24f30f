"""The Python API: a project folder and the stages of its journey, in the words of the CLI.

    from feastrain import Project
    project = Project("./demand")
    project.train("mlp")

Every stage makes what it needs first, and says when an earlier run had made it already.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feastrain.inspection import Inspection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from feast import FeatureStore

    from feastrain.adopt.candidates import Candidate
    from feastrain.adopt.guessing import Proposal
    from feastrain.dataset.audit import Audited
    from feastrain.dataset.skew import Skew
    from feastrain.dataset.snapshot import Snapshot
    from feastrain.dataset.verdict import Verdict
    from feastrain.evaluation.backtest import Backtest
    from feastrain.evaluation.explain import Explained, Part
    from feastrain.jobs.cluster import Size
    from feastrain.models.bundle import Bundle
    from feastrain.recipe import Recipe
    from feastrain.serving.batch import BatchForecast
    from feastrain.serving.forecaster import Forecaster
    from feastrain.settings import Settings
    from feastrain.training.tuning import Tuned


class Project(Inspection):
    """A folder with a feature repo and recipes; see `feastrain init`."""

    def __init__(self, root: Path | str, settings: Settings | None = None) -> None:
        self.root = Path(root).resolve()
        self._given_settings = settings

    @classmethod
    def init(cls, root: Path | str, data: Path | str | None = None, seed: int = 0) -> Project:
        """Make a project folder from the reference application, with its raw tables.

        Args:
            root: a folder that does not exist yet, or is empty.
            data: a folder with the application's raw tables; without it they are synthetic.
            seed: what the synthetic tables are drawn from.
        """
        from feastrain.scaffold import scaffold
        from feastrain.telemetry import stage

        path = Path(root).resolve()
        with stage("init") as current:
            facts = scaffold(path, Path(data).resolve() if data is not None else None, seed)
            current.made(**facts, path=_shown(path))
        return cls(path)

    @classmethod
    def adopt(
        cls,
        root: Path | str,
        repo: Path | str,
        label: str | None = None,
        service: str | None = None,
        choose: Callable[[Sequence[Candidate]], str] | None = None,
    ) -> tuple[Project, Proposal]:
        """Make a project folder that forecasts from a Feast repo that is there already.

        Args:
            root: a folder that does not exist yet, or is empty.
            repo: the Feast repo, which is only read.
            label: what to forecast, as `SOURCE.COLUMN`.
            service: its feature service; by default that with most features that can be used.
            choose: asked which candidate is the label, where none is given.

        Returns:
            The project, and what was guessed about it with the reason for each guess.
        """
        from feastrain.adopt import adopt
        from feastrain.telemetry import stage

        path = Path(root).resolve()
        with stage("init", live=choose is None) as current:
            proposal = adopt(path, Path(repo), label, service, choose)
            views = len(proposal.views)
            current.made(label=proposal.label.name, views=views, path=_shown(path))
        return cls(path), proposal

    @cached_property
    def settings(self) -> Settings:
        """The settings of this machine."""
        from feastrain.settings import load_settings

        return self._given_settings or load_settings()

    @property
    def artifacts(self) -> Path:
        """The folder that every stage publishes under."""
        return self.root / self.settings.artifacts

    def recipe(self, name: str | Path) -> Recipe:
        """Read a recipe by its name (`mlp`) or its path."""
        from feastrain.recipe import load_recipe

        return load_recipe(self.recipe_path(name))

    def recipe_path(self, name: str | Path) -> Path:
        """Return the file of a recipe given by name, by path, or by path within the project."""
        by_name = self.root / "recipes" / f"{name}.yaml"
        given = Path(name)
        within = self.root / given
        return next((path for path in (by_name, given, within) if path.is_file()), given)

    def features(self, recipe: str | Path) -> FeatureStore:
        """Make the feature tables and apply the feature repo, and open the feature store."""
        from feastrain.dataset.transform import engineer
        from feastrain.telemetry import stage

        asked = self.recipe(recipe)
        if asked.transform is not None:
            with stage("engineer") as current:
                made = engineer(self.root, asked.transform, self.artifacts / "features")
                current.made(
                    cached=made.cached,
                    tables=len(made.tables),
                    rows=sum(made.tables.values()),
                    path=_shown(made.path),
                )
        with stage("apply") as current:
            from feastrain.stores.feature_repo import apply_repo, open_store

            repo = self.root / asked.features.repo
            cached = apply_repo(repo, self.artifacts / "applied")
            store = open_store(repo)
            current.made(cached=cached, service=asked.features.service, registry=_shown(repo))
        return store

    def build(
        self,
        recipe: str | Path,
        as_of: datetime | None = None,
        on_verdicts: Callable[[list[Verdict]], None] = lambda verdicts: None,  # noqa: ARG005
    ) -> Snapshot:
        """Build the recipe's training set and publish it as a snapshot.

        Args:
            recipe: its name or path.
            as_of: labels later than this do not exist yet.
            on_verdicts: told what every expectation found, before a broken one stops the build.
        """
        return self._build(recipe, self.features(recipe), as_of, on_verdicts)

    def _build(
        self,
        recipe: str | Path,
        store: FeatureStore,
        as_of: datetime | None,
        on_verdicts: Callable[[list[Verdict]], None] = lambda verdicts: None,  # noqa: ARG005
        *,
        rehearsal: bool = False,
    ) -> Snapshot:
        from feastrain.dataset.build import build
        from feastrain.telemetry import stage

        with stage("build") as current:
            request = self._request(recipe, store, as_of, current, rehearsal=rehearsal)
            built = build(request, self.artifacts / "snapshots", on_verdicts)
            rows = built.snapshot.manifest["rows"]
            warned = sum(1 for v in built.snapshot.manifest["verdicts"] if not v["holds"])
            current.made(
                cached=built.cached,
                rows=sum(rows.values()),
                features=len(built.snapshot.manifest["row_features"])
                + len(built.snapshot.manifest["known_features"]),
                warnings=warned,
                audit=built.snapshot.manifest["audit"]["verdict"],
                path=_shown(built.snapshot.path),
            )
        return built.snapshot

    def audit(
        self,
        recipe: str | Path,
        *,
        cutoffs: int = 6,
        rows: int = 600,
        seed: int = 0,
        as_of: datetime | None = None,
    ) -> Audited:
        """Prove on a sample of rows that no feature of the recipe knows the future.

        Args:
            recipe: its name or path.
            cutoffs: how many cut-offs, spread over all there are.
            rows: how many (series, cut-off) rows at all of them together.
            seed: decides which rows, and how the future is changed.
            as_of: labels later than this do not exist yet.
        """
        from feastrain.dataset.audit import Plan, audit
        from feastrain.telemetry import stage

        store = self.features(recipe)
        plan = Plan(cutoffs, rows, seed, ("scrambled", "absent"))
        with stage("audit") as current:
            directory = self.artifacts / "audits"
            audited = audit(self._request(recipe, store, as_of, current), directory, plan)
            report = audited.report
            current.made(
                cached=audited.cached,
                verdict=report.verdict,
                features=len(report.findings),
                rows=report.rows,
                path=_shown(audited.html),
            )
        return audited

    def train(self, recipe: str | Path, *, fresh: bool = False) -> Bundle:
        """Train the recipe's model and publish it as a bundle; resumes what was interrupted.

        Args:
            recipe: its name or path.
            fresh: start over rather than from the last checkpoint.
        """
        return self._train(recipe, self.build(recipe), fresh=fresh)

    def render(self, recipe: str | Path, size: Size) -> list[dict[str, Any]]:
        """Return the Kubernetes objects that train the recipe, and prepare the run's folder.

        Args:
            recipe: its name or path.
            size: what each node asks for.

        Raises:
            UsageError: the size is none that can train, or a setting holds what it cannot be.
        """
        from functools import partial

        from feastrain.jobs.cluster import inside, render
        from feastrain.jobs.train import Run
        from feastrain.settings import load_cluster

        asked, cluster = self.recipe(recipe), load_cluster()
        run = Run.of(asked, self.build(recipe), self.artifacts)
        seen = partial(inside, artifacts=self.artifacts, cluster=cluster)
        objects = render(asked, run.fingerprint, run.arguments(seen), size, cluster)
        run.prepare(self.recipe_path(recipe))
        return objects

    def _train(
        self,
        recipe: str | Path,
        snapshot: Snapshot,
        *,
        fresh: bool = False,
        rehearsal: bool = False,
    ) -> Bundle:
        from feastrain.jobs.train import train
        from feastrain.models.bundle import load_bundle
        from feastrain.telemetry import stage

        with stage("train", live=False) as current:
            path, asked = self.recipe_path(recipe), {"fresh": fresh, "rehearsal": rehearsal}
            trained = train(path, snapshot, self.artifacts, **asked)
            bundle = load_bundle(trained.path)
            current.made(cached=trained.cached, **bundle.metrics, path=_shown(trained.path))
        return bundle

    def backtest(self, recipe: str | Path) -> Backtest:
        """Score the recipe's model and the baselines on the same held-out rows of every origin.

        For each origin of the recipe a training set is built and a model trained on what was
        known then, unless an earlier run had done so.
        """
        from feastrain.evaluation.backtest import backtest
        from feastrain.evaluation.forecasts import forecast_origin
        from feastrain.telemetry import stage

        asked, store = self.recipe(recipe), self.features(recipe)
        made = []
        for as_of in self._origins(asked):
            past = as_of is not None
            snapshot = self._build(recipe, store, as_of, rehearsal=past)
            bundle = self._train(recipe, snapshot, rehearsal=past)
            with stage("forecast") as current:
                origin = forecast_origin(asked, snapshot, bundle, self.artifacts / "origins")
                current.made(cached=origin.cached, origin=origin.origin, path=_shown(origin.path))
            made.append((origin.path, snapshot))
        with stage("backtest") as current:
            newest = made[-1][1].labels()
            paths = [path for path, _ in made]
            result = backtest(asked, paths, newest, self.artifacts / "backtests")
            current.made(
                cached=result.cached,
                origins=len(result.origins),
                labels=result.scores[0].scores.rows,
                path=_shown(result.path),
            )
        return result

    def _origins(self, recipe: Recipe) -> list[datetime | None]:
        """Return when the labels of each origin of a backtest end; None where all are there."""
        from datetime import UTC

        from feastrain.dataset.labels import read_labels
        from feastrain.dataset.split import backtest_folds

        panel = read_labels(self.root / recipe.label.source, recipe)
        moments = [moment.replace(tzinfo=UTC) for moment in panel.periods.tolist()]
        folds = backtest_folds([recipe.period_name(moment) for moment in moments], recipe)
        lasts = [moments[fold.last] for fold in folds]
        return [None if last == panel.last_period else last for last in lasts]

    def tune(self, recipe: str | Path, trials: int = 20) -> Tuned:
        """Try values of the recipe's keys, as its `tune` says, and write the best recipe.

        Args:
            recipe: its name or path.
            trials: how many at all, those of earlier calls included.
        """
        from feastrain.telemetry import stage
        from feastrain.training.tuning import tune

        asked, snapshot = self.recipe(recipe), self.build(recipe)
        with stage("tune", live=False) as current:
            about = self.recipe_path(recipe), asked, snapshot, self.artifacts
            tuned = tune(*about, trials, settings=self.settings)
            best = tuned.trials[0]
            current.made(trials=len(tuned.trials), wmae=best.wmae, recipe=_shown(tuned.recipe))
        return tuned

    def explain(self, recipe: str | Path, part: Part = "test") -> Explained:
        """Say which variables and which past periods the recipe's last bundle rests on.

        Args:
            recipe: its name or path; of a TFT.
            part: which rows of the bundle's snapshot to average over.
        """
        from feastrain.evaluation.explain import explain
        from feastrain.telemetry import stage

        bundle = self.bundle(recipe)
        snapshot = self._snapshot_of(bundle)
        with stage("explain") as current:
            explained = explain(snapshot, bundle, self.artifacts / "explanations", part)
            rows = explained.shares.rows
            current.made(cached=explained.cached, rows=rows, path=_shown(explained.page))
        return explained

    def materialize(
        self, recipe: str | Path, as_of: datetime | None = None, *, fresh: bool = False
    ) -> datetime:
        """Write the features of the last closed period up to `as_of` to the online store.

        Args:
            recipe: its name or path.
            as_of: facts later than this are not read.
            fresh: write them again, though they were written before.
        """
        from feastrain.dataset.labels import read_labels
        from feastrain.dataset.service import resolve_service
        from feastrain.stores.materialize import materialize
        from feastrain.telemetry import stage

        store = self.features(recipe)
        asked = self.recipe(recipe)
        with stage("materialize") as current:
            service = resolve_service(store, asked)
            panel = read_labels(self.root / asked.label.source, asked, as_of)
            cutoff = panel.last_period
            views = sorted(service.sources)
            state = [service.fingerprint, service.source_digests()]
            if asked.model.look_back:  # first, so that a server finds it with the new cut-off
                from feastrain.dataset.past import keep_past

                keep_past(store, service, asked, panel, self.artifacts / "past")
            stamp = self.artifacts / "materialized"
            if fresh:
                stamp.unlink(missing_ok=True)
            cached = materialize(
                store,
                views,
                cutoff,
                state,
                stamp,
                progress=lambda view, rows: current.advance(
                    views.index(view), len(views), view=view, rows=rows
                ),
            )
            current.made(cached=cached, views=len(views), as_of=cutoff.isoformat())
        return cutoff

    def skew(self, recipe: str | Path, sample: int | None = None, seed: int = 0) -> Skew:
        """Compare what the online store answers with what the offline join answers.

        Args:
            recipe: its name or path.
            sample: of how many series, drawn at random; None for all.
            seed: decides which.
        """
        from feastrain.dataset.service import resolve_service
        from feastrain.dataset.skew import compare_stores, publish
        from feastrain.telemetry import stage
        from feastrain.training.metrics import push

        store, asked = self.features(recipe), self.recipe(recipe)
        with stage("skew") as current:
            service = resolve_service(store, asked)
            report = compare_stores(self.root, asked, store, service, sample, seed)
            skew = publish(report, self.artifacts / "skews")
            if self.settings.pushgateway is not None:
                push(self.settings.pushgateway, skew.metrics, {"skew": asked.name})
            current.made(
                values=report.values,
                differing=report.differing,
                as_of=report.as_of,
                path=_shown(skew.path),
            )
        return skew

    def predict(self, recipe: str | Path, push: str | None = None) -> BatchForecast:
        """Forecast every series from the online store into one Parquet file.

        Args:
            recipe: its name or path.
            push: a push source of the feature repo, through which the forecasts are written to
                the online store too.
        """
        from feastrain.serving.batch import forecast_all
        from feastrain.telemetry import stage

        bundle = self.bundle(recipe)
        forecaster = self.forecaster(bundle)
        with stage("predict") as current:
            stamp = self.artifacts / "materialized"
            state = stamp.read_text() if stamp.is_file() else ""
            labels, directory = self._snapshot_of(bundle).labels(), self.artifacts / "forecasts"
            made = forecast_all(forecaster, labels, directory, state)
            current.made(
                cached=made.cached,
                series=made.series,
                rows=made.rows,
                as_of=made.as_of.isoformat(),
                path=_shown(made.path),
            )
        if push is not None:
            self._push(recipe, push, made)
        return made

    def _push(self, recipe: str | Path, source: str, made: BatchForecast) -> None:
        import pyarrow.parquet as pq

        from feastrain.serving.batch import rows_to_push
        from feastrain.stores.push import push_rows
        from feastrain.telemetry import stage

        store, asked = self.features(recipe), self.recipe(recipe)
        with stage("push") as current:
            rows = rows_to_push(pq.read_table(made.path), asked)
            views = push_rows(store, source, rows)
            current.made(rows=len(rows), views=", ".join(views))

    def serve(
        self,
        recipe: str | Path,
        host: str | None = None,
        port: int | None = None,
        workers: int | None = None,
    ) -> None:
        """Serve forecasts and the planner's page until stopped.

        Args:
            recipe: its name or path.
            host: address to listen on; by default that of the settings.
            port: port to listen on; by default that of the settings.
            workers: processes that answer; by default as many as the settings say.
        """
        from functools import partial

        from feastrain.serving.listening import listen
        from feastrain.serving.supervisor import supervise

        given = {"host": host, "port": port, "serve_workers": workers}
        settings = self.settings.model_copy(
            update={key: value for key, value in given.items() if value is not None}
        )
        work = partial(_serve, self.root, recipe)
        with listen(settings) as listener:
            if settings.serve_workers == 1:
                work(settings, listener)
            else:
                supervise(work, settings, listener)

    def bundle(self, recipe: str | Path) -> Bundle:
        """Open the bundle that the recipe was last trained into.

        Raises:
            ProjectError: it was never trained.
            ArtifactError: the bundle is damaged.
        """
        from feastrain.errors import ProjectError
        from feastrain.models.bundle import load_bundle

        pointer = self.bundle_pointer(recipe)
        if not pointer.exists():
            message = (
                f"recipe {pointer.name!r} has no bundle yet; run `feastrain train {recipe}` first"
            )
            raise ProjectError(message)
        return load_bundle(pointer.resolve())

    def bundle_pointer(self, recipe: str | Path) -> Path:
        """Return the link to the bundle that the recipe was last trained into."""
        return self.artifacts / "bundles" / self.recipe(recipe).name

    def forecaster(self, bundle: Bundle) -> Forecaster:
        """Return what forecasts from the online store with a bundle."""
        from datetime import datetime

        from feastrain.recipe import recipe_of
        from feastrain.serving.forecaster import Forecaster
        from feastrain.stores.feature_repo import open_store
        from feastrain.stores.online import OnlineFeatures

        recipe = recipe_of(bundle.lineage)
        source = OnlineFeatures(
            open_store(self.root / recipe.features.repo),
            bundle.columns,
            recipe,
            row_features=tuple(bundle.lineage["row_features"]),
            known_features=tuple(bundle.lineage["known_features"]),
            first_period=datetime.fromisoformat(bundle.lineage["first_period"]),
        )
        past = None
        if bundle.looks_back:
            from feastrain.dataset.past import Past

            past = Past(self.artifacts / "past", recipe.name)
        return Forecaster(bundle, source, past)

    def _snapshot_of(self, bundle: Bundle) -> Snapshot:
        from feastrain.dataset.snapshot import Snapshot

        return Snapshot.open(self.artifacts / "snapshots" / bundle.lineage["snapshot"])

    def raw_facts(self) -> dict[str, Any]:
        """Return what the raw tables of the project are and where they came from."""
        from feastrain.scaffold import RAW

        facts: dict[str, Any] = json.loads((self.root / RAW / "manifest.json").read_text())
        return {key: value for key, value in facts.items() if key != "files"}


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _serve(
    root: Path,
    recipe: str | Path,
    settings: Settings,
    listener: socket.socket,
    started: Callable[[], None] | None = None,
) -> None:
    """Load what forecasts, and serve it on a socket; a process of several begins here."""
    from feastrain.serving.api import create_app, serve
    from feastrain.serving.evidence import newest_evidence
    from feastrain.serving.history import History
    from feastrain.serving.swap import BundleWatch, Sources, deaf_to_hangup

    deaf_to_hangup()
    project = Project(root, settings)

    def load() -> Sources:
        bundle = project.bundle(recipe)
        history = History(project._snapshot_of(bundle).labels(), bundle.columns.entities)
        forecaster = project.forecaster(bundle)
        return Sources(forecaster, history, newest_evidence(project.artifacts, forecaster.recipe))

    served = load()
    watch = BundleWatch(project.bundle_pointer(recipe), load, settings.bundle_seconds)
    app = create_app(
        served.forecaster, served.history, settings, evidence=served.evidence, watch=watch
    )
    serve(app, settings, listener, started)
