"""What a project does with a trained model: features go online, and forecasts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feastrain.opened import Opened, shown

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from feastrain.dataset.skew import Skew
    from feastrain.dataset.snapshot import Snapshot
    from feastrain.evaluation.promotion import Comparison
    from feastrain.models.bundle import Bundle
    from feastrain.recipe import Recipe
    from feastrain.serving.batch import BatchForecast
    from feastrain.serving.forecaster import Forecaster
    from feastrain.settings import Settings


class Delivery(Opened):
    """The part of a `Project` that forecasts."""

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
                path=shown(skew.path),
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
                path=shown(made.path),
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
        work = partial(_serve, type(self), self.root, recipe)
        with listen(settings) as listener:
            if settings.serve_workers == 1:
                work(settings, listener)
            else:
                supervise(work, settings, listener)

    def bundle(self, recipe: str | Path) -> Bundle:
        """Open the bundle that the recipe was last trained into.

        Raises:
            ProjectError: it was never trained.
            ArtifactError: the bundle is damaged, or the settings have keys that did not sign it.
        """
        from feastrain.models.bundle import load_bundle

        path = self._bundle_path(recipe)
        if self.settings.bundle_keys is not None:
            from feastrain.models.signature import require_signature

            require_signature(path, self.settings.bundle_keys)
        return load_bundle(path)

    def sign(self, recipe: str | Path, key: Path) -> Path:
        """Sign the bundle that the recipe was last trained into, and return its folder.

        Args:
            recipe: its name or path.
            key: PEM file with an Ed25519 private key.
        """
        from feastrain.models.signature import sign

        path = self._bundle_path(recipe)
        sign(path, key)
        return path

    def _bundle_path(self, recipe: str | Path) -> Path:
        from feastrain.errors import ProjectError

        pointer = self.bundle_pointer(recipe)
        if not pointer.exists():
            message = (
                f"recipe {pointer.name!r} has no bundle yet; run `feastrain train {recipe}` first"
            )
            raise ProjectError(message)
        return pointer.resolve()

    def promote(self, recipe: str | Path, better_by: float = 0.0) -> Comparison:
        """Serve the recipe's candidate from now on, if it is better on rows neither was fitted on.

        Args:
            recipe: its name or path.
            better_by: by which share of the served one's WMAE the candidate's must be less.

        Raises:
            ProjectError: there is no candidate.
        """
        from feastrain.artifacts import point
        from feastrain.errors import ProjectError
        from feastrain.evaluation.promotion import compare
        from feastrain.models.bundle import load_bundle
        from feastrain.telemetry import stage

        pointer, next_one = (
            self.bundle_pointer(recipe, candidate=candidate) for candidate in (False, True)
        )
        if not next_one.exists():
            message = (
                f"recipe {pointer.name!r} has no candidate; "
                f"run `feastrain train {recipe} --candidate` first"
            )
            raise ProjectError(message)
        with stage("promote") as current:
            candidate = load_bundle(next_one.resolve())
            served = load_bundle(pointer.resolve()) if pointer.exists() else None
            comparison = compare(candidate, served, self._snapshot_of(candidate), better_by)
            if comparison.promotes:
                point(pointer, candidate.path)
            current.made(**comparison.to_json())
        return comparison

    def forecaster(self, bundle: Bundle) -> Forecaster:
        """Return what forecasts from the online store with a bundle."""
        from datetime import datetime

        from feastrain.recipe import recipe_of
        from feastrain.serving.forecaster import Forecaster
        from feastrain.stores.feature_repo import open_store
        from feastrain.stores.online import OnlineFeatures

        recipe = recipe_of(bundle.lineage)
        source = OnlineFeatures(
            open_store(self._repo_of(recipe)),
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

    def _repo_of(self, trained: Recipe) -> Path:
        """Return the feature repo that a bundle forecasts from: its code is run.

        Raises:
            ArtifactError: it lies outside the project, and the project's own recipe does not say
                so too.
        """
        from feastrain.errors import ArtifactError

        repo = (self.root / trained.features.repo).resolve()
        if not repo.is_relative_to(self.root) and (
            self.recipe(trained.name).features.repo != trained.features.repo
        ):
            message = (
                f"the bundle wants the feature repo {repo}, which is not in {self.root}: it was "
                "trained elsewhere, or made up; train it here"
            )
            raise ArtifactError(message)
        return repo

    def _snapshot_of(self, bundle: Bundle) -> Snapshot:
        from feastrain.artifacts import named
        from feastrain.dataset.snapshot import Snapshot

        return Snapshot.open(named(self.artifacts / "snapshots", bundle.lineage["snapshot"]))


def _serve(
    opened: type[Delivery],
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
    project = opened(root, settings)

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
