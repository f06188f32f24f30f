"""The Python API: a project folder and the stages of its journey, in the words of the CLI.

    from feastrain import Project
    project = Project("./demand")
    project.train("mlp")

Every stage makes what it needs first, and says when an earlier run had made it already.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feastrain.delivery import Delivery
from feastrain.opened import CANDIDATE, shown
from feastrain.submission import Submission

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from feast import FeatureStore

    from feastrain.adopt.candidates import Candidate
    from feastrain.adopt.guessing import Proposal
    from feastrain.dataset.audit import Audited
    from feastrain.dataset.snapshot import Snapshot
    from feastrain.dataset.verdict import Verdict
    from feastrain.evaluation.backtest import Backtest
    from feastrain.evaluation.explain import Explained, Part
    from feastrain.jobs.cluster import Size
    from feastrain.jobs.job import On
    from feastrain.models.bundle import Bundle
    from feastrain.recipe import Recipe
    from feastrain.training.tuning import Tuned


class Project(Submission, Delivery):
    """A folder with a feature repo and recipes; see `feastrain init`."""

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
            current.made(**facts, path=shown(path))
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
            current.made(label=proposal.label.name, views=views, path=shown(path))
        return cls(path), proposal

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
                    path=shown(made.path),
                )
        with stage("apply") as current:
            from feastrain.stores.feature_repo import apply_repo, open_store

            repo = self.root / asked.features.repo
            cached = apply_repo(repo, self.artifacts / "applied")
            store = open_store(repo)
            current.made(cached=cached, service=asked.features.service, registry=shown(repo))
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
        from feastrain.telemetry import bind, stage

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
                path=shown(built.snapshot.path),
            )
        bind(snapshot=built.snapshot.fingerprint)
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
                path=shown(audited.html),
            )
        return audited

    def train(
        self,
        recipe: str | Path,
        *,
        fresh: bool = False,
        candidate: bool = False,
        on: On = "here",
        size: Size | None = None,
    ) -> Bundle:
        """Train the recipe's model and publish it as a bundle; resumes what was interrupted.

        Args:
            recipe: its name or path.
            fresh: start over rather than from the last checkpoint.
            candidate: leave the bundle that is served in its place; `promote` compares them.
            on: where; elsewhere than here, its lines are told and its end is waited for.
            size: nodes and processes of each; by default one node, and as the recipe says.
        """
        snapshot = self.build(recipe)
        link = CANDIDATE if candidate else ""
        if on == "here":
            return self._train(recipe, snapshot, fresh=fresh, link=link, size=size)
        name = self.submit(recipe, fresh=fresh, on=on, size=size)
        if name is not None:
            from feastrain.jobs.places import follow

            follow(self.jobs(on), name, self._run(recipe))
        return self._train(recipe, snapshot, link=link)

    def _train(
        self,
        recipe: str | Path,
        snapshot: Snapshot,
        *,
        fresh: bool = False,
        link: str | None = "",
        size: Size | None = None,
    ) -> Bundle:
        from feastrain.jobs.job import Gang
        from feastrain.jobs.train import train
        from feastrain.models.bundle import load_bundle
        from feastrain.telemetry import stage

        with stage("train", live=False) as current:
            path = self.recipe_path(recipe)
            gang = Gang(size.nodes, size.processes) if size else None
            trained = train(
                path, snapshot, self.artifacts, root=self.root, fresh=fresh, link=link, gang=gang
            )
            bundle = load_bundle(trained.path)
            current.made(cached=trained.cached, **bundle.metrics, path=shown(trained.path))
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
            bundle = self._train(recipe, snapshot, link=None)
            with stage("forecast") as current:
                origin = forecast_origin(asked, snapshot, bundle, self.artifacts / "origins")
                current.made(cached=origin.cached, origin=origin.origin, path=shown(origin.path))
            made.append((origin.path, snapshot))
        with stage("backtest") as current:
            newest = made[-1][1].labels()
            paths = [path for path, _ in made]
            result = backtest(asked, paths, newest, self.artifacts / "backtests")
            current.made(
                cached=result.cached,
                origins=len(result.origins),
                labels=result.scores[0].scores.rows,
                path=shown(result.path),
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

        asked, snapshot = self._trainable(recipe), self.build(recipe)
        with stage("tune", live=False) as current:
            about = self.recipe_path(recipe), asked, snapshot, self.artifacts
            tuned = tune(*about, trials, settings=self.settings)
            best = tuned.trials[0]
            current.made(trials=len(tuned.trials), wmae=best.wmae, recipe=shown(tuned.recipe))
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
            current.made(cached=explained.cached, rows=rows, path=shown(explained.page))
        return explained

    def raw_facts(self) -> dict[str, Any]:
        """Return what the raw tables of the project are and where they came from."""
        from feastrain.scaffold import RAW

        facts: dict[str, Any] = json.loads((self.root / RAW / "manifest.json").read_text())
        return {key: value for key, value in facts.items() if key != "files"}
