"""What a project says of its training sets: checked, planned, compared, and nothing published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from feastrain.opened import Opened

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path
    from types import ModuleType

    from feast import FeatureStore

    from feastrain.dataset.checks import TrainingSet
    from feastrain.dataset.diff import Difference
    from feastrain.dataset.drift import Drift
    from feastrain.dataset.join import JoinRequest
    from feastrain.dataset.plan import Plan
    from feastrain.dataset.snapshot import Snapshot
    from feastrain.dataset.verdict import Verdict
    from feastrain.jobs.sizing import Size
    from feastrain.telemetry import Stage

Engine = Literal["pandera", "gx"]


class Inspection(Opened):
    """The part of a `Project` that publishes nothing."""

    def validate(
        self, recipe: str | Path, as_of: datetime | None = None, engine: Engine = "pandera"
    ) -> list[Verdict]:
        """Check the recipe's expectations on what `build` would publish; publishes nothing.

        Args:
            recipe: its name or path.
            as_of: labels later than this do not exist yet.
            engine: what checks them; `gx` is Great Expectations. Both give the same verdicts.
        """
        from feastrain.telemetry import stage

        subject, asked = self._training_set(recipe, as_of), self.recipe(recipe)
        verdicts: list[Verdict]
        with stage("validate") as current:
            if engine == "gx":
                verdicts = self._gx().validate_with_gx(subject, asked.expectations)
            else:
                from feastrain.dataset.validate import validate

                verdicts = validate(subject, asked.expectations)
            broken = sum(1 for verdict in verdicts if not verdict.holds)
            current.made(engine=engine, checks=len(verdicts), broken=broken)
        return verdicts

    def export_gx(
        self, recipe: str | Path, directory: Path, as_of: datetime | None = None
    ) -> list[Path]:
        """Write the recipe's expectations as suites of Great Expectations, one for each table."""
        asked, suites = self.recipe(recipe), self._gx()
        subject = self._training_set(recipe, as_of)
        written: list[Path] = suites.write_suites(
            subject, asked.expectations, directory, asked.name
        )
        return written

    def plan(self, recipe: str | Path, as_of: datetime | None = None) -> Plan:
        """Say what `build` would do; makes, applies and writes nothing."""
        from feastrain.dataset.plan import Place, make_plan

        return make_plan(Place(self.root, self.artifacts), self.recipe(recipe), as_of)

    def size(
        self, recipe: str | Path, queue: str | None = None, processes: int | None = None
    ) -> Size:
        """Say what training the recipe on its last snapshot needs.

        Args:
            recipe: its name or path.
            queue: the name of one of the setting `queues`, which the size is to fit.
            processes: of all nodes; by default as the recipe says.

        Raises:
            UsageError: there is no such queue, or it cannot hold the run.
            ProjectError: the recipe was never built.
        """
        from feastrain.errors import UsageError
        from feastrain.jobs.measured import last_measured
        from feastrain.jobs.memory import TrainingRows
        from feastrain.jobs.sizing import UNLIMITED, size
        from feastrain.recipe import with_values

        queues = self.settings.queues
        if queue is not None and queue not in queues:
            known = ", ".join(queues) or "none"
            message = f"no queue {queue!r} in FEASTRAIN_QUEUES; there is {known}"
            raise UsageError(message)
        asked = self._trainable(recipe)
        if processes is not None:
            asked = with_values(asked, {"training.processes": processes})
        rows = TrainingRows.of(self.snapshot(asked.name).manifest)
        measured = last_measured(self.artifacts, asked)
        return size(rows, asked, UNLIMITED if queue is None else queues[queue], measured)

    def snapshot(self, name: str | Path) -> Snapshot:
        """Open a snapshot by path, by fingerprint, or the last one of a recipe by its name.

        `NAME.previous` is the one that the recipe was built into before.
        """
        from feastrain.dataset.latest import find_snapshot
        from feastrain.dataset.snapshot import Snapshot

        return Snapshot.open(find_snapshot(self.artifacts / "snapshots", name))

    def drift(self, before: str | Path, after: str | Path, part: str = "train") -> Drift:
        """Measure how far every feature moved between two snapshots, in one part of the split."""
        from feastrain.dataset.drift import Sample, measure_drift
        from feastrain.dataset.drift_metrics import DriftMetrics
        from feastrain.training.metrics import push

        samples = [
            Sample.of_part(snapshot.rows(), snapshot.known(), snapshot.columns, part)
            for snapshot in (self.snapshot(before), self.snapshot(after))
        ]
        drift = measure_drift(*samples)
        if self.settings.pushgateway is not None:
            service = self.snapshot(after).manifest["service"]
            metrics = DriftMetrics(drift, service)
            push(self.settings.pushgateway, metrics.registry, {"drift": service})
        return drift

    def diff(self, before: str | Path, after: str | Path) -> Difference:
        """Say why two snapshots differ: every input that changed, and what came of it."""
        from feastrain.dataset.diff import compare_snapshots

        return compare_snapshots(self.snapshot(before), self.snapshot(after))

    def _training_set(self, recipe: str | Path, as_of: datetime | None) -> TrainingSet:
        from feastrain.dataset.build import training_set
        from feastrain.telemetry import stage

        store = self.features(recipe)
        with stage("join") as current:
            directory = self.artifacts / "snapshots"
            request = self._request(recipe, store, as_of, current)
            subject = training_set(request, directory)
            current.made(rows=len(subject.rows), known=len(subject.known))
        return subject

    def _request(
        self,
        recipe: str | Path,
        store: FeatureStore,
        as_of: datetime | None,
        stage: Stage,
        *,
        rehearsal: bool = False,
    ) -> JoinRequest:
        """Say what is to be joined for a recipe, and by what; its progress is the stage's."""
        from feastrain.dataset.engine import engine_of
        from feastrain.dataset.join import JoinRequest

        asked = self.recipe(recipe)
        engine = engine_of(asked, self.settings.ray_address)
        return JoinRequest(
            self.root, asked, store, as_of, rehearsal, engine=engine, on_part=stage.advance
        )

    def _gx(self) -> ModuleType:
        from importlib import import_module
        from importlib.util import find_spec

        from feastrain.errors import UsageError

        if find_spec("great_expectations") is None:
            message = "Great Expectations is not installed: pip install 'feastrain[gx]'"
            raise UsageError(message)
        return import_module("feastrain.dataset.gx_suite")
