"""Where a project's recipes are trained in the background: this machine, or a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feastrain.inspection import Inspection

if TYPE_CHECKING:
    from pathlib import Path

    from feastrain.jobs.cluster import Size
    from feastrain.jobs.job import On
    from feastrain.jobs.train import Run


class Submission(Inspection):
    """The part of a `Project` that sends training away."""

    def submit(
        self,
        recipe: str | Path,
        *,
        fresh: bool = False,
        on: On = "here",
        size: Size | None = None,
    ) -> str | None:
        """Have the recipe trained in the background; return the job's name, None if it is trained.

        Args:
            recipe: its name or path.
            fresh: start over rather than from the last checkpoint.
            on: where.
            size: nodes and processes of each; by default one node, and as the recipe says.

        Raises:
            UsageError: the run is at work already, or the place refuses it.
        """
        from feastrain.jobs.places import send

        run = self._run(recipe)
        if run.is_done(fresh=fresh):
            return None
        run.prepare(self.recipe_path(recipe), self._trainable(recipe))
        asked, size = self.recipe(recipe), size or self.job_size(recipe, on=on)
        return send(on, asked, run, self.artifacts, size, fresh=fresh)

    def trainer(self, recipe: str | Path, size: Size | None = None) -> Any:
        """Return the recipe's run as a trainer for Kubeflow's client, and prepare its folder.

        Args:
            recipe: its name or path.
            size: nodes and processes of each; by default one node, and as the recipe says.

        Raises:
            UsageError: Kubeflow's client is not installed.
        """
        from feastrain.jobs.places import trainer_of

        run, size = self._run(recipe), size or self.job_size(recipe)
        run.prepare(self.recipe_path(recipe), self._trainable(recipe))
        return trainer_of(run, self.bundle_pointer(recipe), size)

    def show_job(
        self,
        recipe: str | Path,
        *,
        fresh: bool = False,
        on: On = "here",
        size: Size | None = None,
    ) -> str:
        """Return what `submit` would send, as text: objects of a cluster, or command lines."""
        from feastrain.jobs.places import show

        run, size = self._run(recipe), size or self.job_size(recipe, on=on)
        return show(on, self.recipe(recipe), run, self.artifacts, size, fresh=fresh)

    def job_size(
        self,
        recipe: str | Path,
        nodes: int = 1,
        processes: int | None = None,
        *,
        on: On = "here",
        memory: str | None = None,
        **each: Any,
    ) -> Size:
        """Return nodes that share out the recipe's processes, unless each has as many as said.

        Args:
            recipe: its name or path.
            nodes: how many.
            processes: on each.
            on: where; nodes of a cluster are given memory.
            memory: of each; by default what `size` finds that the last snapshot needs.
            each: what else a node of a cluster has: cpu, gpus.
        """
        from feastrain.jobs.cluster import Size
        from feastrain.jobs.job import Gang

        gang = Gang.of(self.recipe(recipe).training, nodes, processes)
        if on != "kubernetes":
            return Size(gang.nodes, gang.processes, **each)
        if memory is not None:
            return Size(gang.nodes, gang.processes, memory=memory, **each)
        needed = self.size(recipe, processes=gang.nodes * gang.processes)
        asked, why = needed.memory_of_node(gang.processes)
        return Size(gang.nodes, gang.processes, memory=asked, why=why, **each)

    def jobs(self, on: On = "here") -> Any:
        """Return the training jobs of a place, to be listed, watched and stopped.

        Raises:
            UsageError: the place is not reached, or needs what is not installed.
        """
        from feastrain.jobs.places import jobs_of

        return jobs_of(on, self.artifacts)

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
        from feastrain.settings import load_cluster

        asked, cluster, run = self.recipe(recipe), load_cluster(), self._run(recipe)
        seen = partial(inside, artifacts=self.artifacts, cluster=cluster)
        objects = render(asked, run.fingerprint, run.arguments(seen), size, cluster)
        run.prepare(self.recipe_path(recipe), self._trainable(recipe))
        return objects

    def _run(self, recipe: str | Path) -> Run:
        from feastrain.jobs.train import Run

        return Run.of(self._trainable(recipe), self.build(recipe), self.artifacts)
