"""What to ask for to train a recipe: memory, cores, GPUs, nodes, batch, time and cost.

Nothing is read or measured here: a size follows from the manifest of a snapshot, the recipe, what
a queue gives, and, where there is one, a run that was measured. Every figure says why it is so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from feastrain.errors import UsageError
from feastrain.jobs.memory import HEADROOM, Need, need_of_rank
from feastrain.recipe import NETWORKS, with_values
from feastrain.settings import Queue
from feastrain.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feastrain.jobs.memory import TrainingRows
    from feastrain.recipe import Recipe

AGENT = 300 << 20
"""Bytes of torchrun's agent, of which every node has one."""
FLOPS_PER_S = 2e9
"""Of the products of a step on one core: a low guess, fitted to no timed run."""
BOOSTED_PER_S = 5e5
"""Labels that one booster takes in a second and round on one core: a low guess, too."""
START_S = 60
"""Until ranks have imported their libraries and read the rows, and to publish at the end."""
SLACK = 2.0
"""How much longer a run may take before its time is up: it goes on in another, but later."""
HOUR = 3600
ALIKE = 1.5
"""How many times as much two runs may need that count as about as large."""
UNLIMITED = Queue()


@dataclass(frozen=True)
class Measured:
    """A run of which is known what it needed, and what would have been expected of it."""

    peak_bytes: int
    """Of the rank that needed most."""
    expected_bytes: int
    """`Need.expected` of the same run."""
    seconds: float | None = None
    """From its first step to its last; None where that is not known."""
    expected_seconds: float | None = None
    """`Size.work_s` of the same run."""

    def memory(self, expected_bytes: int) -> float:
        """Return how many bytes are needed for each that is expected.

        Fewer than one only of a run about as large: what a small one did not need, libraries
        above all, says little of a large one.
        """
        ratio = self.peak_bytes / self.expected_bytes
        alike = 1 / ALIKE < expected_bytes / self.expected_bytes < ALIKE
        return ratio if alike else max(ratio, 1.0)

    @property
    def pace(self) -> float:
        """How many seconds were needed for each that was expected."""
        if self.seconds is None or not self.expected_seconds:
            return 1.0
        return self.seconds / self.expected_seconds


@dataclass(frozen=True)
class Figure:
    """One thing to ask for, and why."""

    name: str
    value: str
    why: str


@dataclass(frozen=True)
class Size(Shown):
    """What to ask a queue for; memory, cores and GPUs are those of one node."""

    nodes: int
    ranks_per_node: int
    rank_bytes: int
    memory_bytes: int
    cpus: int
    gpus: int
    batch_rows: int
    recompute: bool
    work_s: float
    """Of computing, as expected."""
    walltime_s: int
    """What to ask for."""
    runs: int
    """How many such times it takes; each goes on where the last stopped."""
    cost: float | None
    figures: tuple[Figure, ...]

    def memory_of_node(self, processes: int) -> tuple[str, str]:
        """Return what a node with so many processes asks for, as Kubernetes writes it, and why."""
        asked = f"{math.ceil((AGENT + processes * self.rank_bytes) / 2**20)}Mi"
        why = next(figure.why for figure in self.figures if figure.name == "memory of a process")
        return asked, f"{_processes(processes)} of {_bytes(self.rank_bytes)}: {why}"

    def to_json(self) -> dict[str, Any]:
        """Return the size as plain JSON values."""
        return asdict(self)


def size(
    rows: TrainingRows, recipe: Recipe, queue: Queue = UNLIMITED, measured: Measured | None = None
) -> Size:
    """Say what to ask for to train a recipe on a snapshot.

    Where a step does not fit into a node, activations are computed again, and then the batch is
    halved until it does; the size says so, and the recipe has to.

    Args:
        rows: of the snapshot.
        recipe: the model and how to train it.
        queue: what one node of it has, and what it costs.
        measured: a run to correct what is expected by.

    Raises:
        UsageError: the queue cannot hold it.
    """
    factor = measured.memory(need_of_rank(rows, recipe).expected) if measured else 1.0
    asked, need = _that_fits(rows, recipe, queue, factor)
    rank_bytes = math.ceil(need.asked * factor)
    ranks = recipe.training.processes
    on_gpu = bool(queue.gpus) and need.network is not None
    each = min(ranks, _most_ranks(queue, rank_bytes, on_gpu=on_gpu))
    nodes = math.ceil(ranks / each)
    if queue.nodes is not None and nodes > queue.nodes:
        message = (
            f"recipe {recipe.name!r} needs {nodes} nodes for its {ranks} processes, "
            f"{each} on each, and the queue gives {queue.nodes}; lower training.processes"
        )
        raise UsageError(message)
    each = math.ceil(ranks / nodes)
    work = work_seconds(rows, recipe, need) * (measured.pace if measured else 1.0)
    whole = math.ceil(START_S + work * SLACK)
    walltime = whole if queue.walltime_s is None else min(whole, math.ceil(queue.walltime_s))
    found = Size(
        nodes=nodes,
        ranks_per_node=each,
        rank_bytes=rank_bytes,
        memory_bytes=AGENT + each * rank_bytes,
        cpus=each,
        gpus=each if on_gpu else 0,
        batch_rows=asked.training.batch_rows,
        recompute=asked.training.recompute,
        work_s=work,
        walltime_s=walltime,
        runs=math.ceil(whole / walltime),
        cost=None,
        figures=(),
    )
    cost = _cost(found, queue)
    figures = tuple(_figures(found, recipe, need, queue, measured, factor))
    return Size(**{**vars(found), "cost": cost, "figures": (*figures, *_priced(cost, queue))})


def _that_fits(
    rows: TrainingRows, recipe: Recipe, queue: Queue, factor: float
) -> tuple[Recipe, Need]:
    """Return the recipe with the largest batch that a node holds, and what a rank of it needs.

    Raises:
        UsageError: a node does not hold one row.
    """
    if queue.memory_bytes is None:
        return recipe, need_of_rank(rows, recipe)
    room = queue.memory_bytes - AGENT
    tried = list(_smaller(recipe))
    need = need_of_rank(rows, tried[-1])
    if need.asked * factor > room:
        message = (
            f"recipe {recipe.name!r} needs {_bytes(AGENT + need.asked * factor)} of memory for one "
            f"process, {_bytes(need.rows * factor)} of it for {rows.every:,} rows, and a node of "
            f"the queue has {_bytes(queue.memory_bytes)}; take a queue with more, or fewer rows"
        )
        raise UsageError(message)
    needs = ((asked, need_of_rank(rows, asked)) for asked in tried)
    return next((asked, need) for asked, need in needs if need.asked * factor <= room)


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the recipe, then with activations computed again, then with ever smaller batches."""
    yield recipe
    batch = recipe.training.batch_rows
    while batch >= 1:
        yield with_values(recipe, {"training.recompute": True, "training.batch_rows": batch})
        batch //= 2


def _most_ranks(queue: Queue, rank_bytes: int, *, on_gpu: bool) -> int:
    """Return how many ranks one node holds."""
    limits: list[float] = [math.inf]
    if queue.memory_bytes is not None:
        limits.append((queue.memory_bytes - AGENT) // rank_bytes)
    if queue.cpus is not None:
        limits.append(queue.cpus)
    if on_gpu and queue.gpus is not None:
        limits.append(queue.gpus)
    most = min(limits)
    return max(1, int(most)) if most < math.inf else 1 << 30


def work_seconds(rows: TrainingRows, recipe: Recipe, need: Need) -> float:
    """Return the seconds of all fits on one core a rank, without what comes before and after."""
    training = recipe.training
    fits = 2 if training.refit else 1
    labels = rows.train * rows.columns.horizon
    boosted = sum(
        member.rounds * member.seeds * len(member.quantiles) * labels
        for member in recipe.members
        if member.kind == "trees"
    )
    networks = sum(member.kind in NETWORKS for member in recipe.members)
    a_row = need.network.flops_a_row if need.network else 0.0
    # Forward and twice as much backward; validation rows forward alone.
    learnt = networks * training.epochs * a_row * (3 * rows.train + rows.validation)
    return fits * (learnt / FLOPS_PER_S + boosted / BOOSTED_PER_S) / training.processes


def _cost(found: Size, queue: Queue) -> float | None:
    prices = (queue.cpu_hour, queue.gb_hour, queue.gpu_hour)
    if not any(prices):
        return None
    amounts = (found.cpus, found.memory_bytes / 1e9, found.gpus)
    an_hour = sum(price * amount for price, amount in zip(prices, amounts, strict=True))
    return found.nodes * found.runs * found.walltime_s / HOUR * an_hour


def _priced(cost: float | None, queue: Queue) -> Iterator[Figure]:
    if cost is not None:
        why = f"at most: at the queue's prices, {queue.currency}, for all of the time asked for"
        yield Figure("cost", f"{cost:,.2f} {queue.currency}", why)


def _figures(
    found: Size,
    recipe: Recipe,
    need: Need,
    queue: Queue,
    measured: Measured | None,
    factor: float,
) -> Iterator[Figure]:
    ranks, each = recipe.training.processes, found.ranks_per_node
    seen = f", x {factor:.2f} as the last run measured" if measured else ""
    yield Figure(
        "memory of a process",
        _bytes(found.rank_bytes),
        f"libraries {_bytes(need.libraries)}, rows {_bytes(need.rows)}, a step "
        f"{_bytes(need.step)}{seen}, and {HEADROOM - 1:.0%} head-room",
    )
    why = f"{_processes(each)}, and {_bytes(AGENT)} for torchrun"
    yield Figure("memory of a node", _bytes(found.memory_bytes), why)
    yield Figure("cores of a node", str(found.cpus), "one for each process, its only thread")
    yield Figure("GPUs of a node", str(found.gpus), _of_gpus(found, need, queue))
    yield Figure("nodes", str(found.nodes), f"{_processes(ranks)}, {each} on each")
    yield Figure("batch", f"{found.batch_rows:,} rows", _of_batch(found, recipe))
    yield Figure("loader workers", "0", "batches are gathered from memory, in the process itself")
    known = measured is not None and measured.seconds is not None
    pace = "at the last run's pace" if known else "never measured here: a rough bound"
    why = f"{START_S} s to start and end, and {SLACK:.0f} x {found.work_s:,.0f} s of work, {pace}"
    if found.runs > 1:
        why += f"; the queue allows no more: {found.runs} runs, each resumes the last"
    yield Figure("time", f"{found.walltime_s:,} s", why)


def _of_gpus(found: Size, need: Need, queue: Queue) -> str:
    if found.gpus:
        return "one for each process; main memory beside a GPU was never measured"
    if need.network is None:
        return "no network is fitted"
    return "none is needed; ranks compute on the CPU" if not queue.gpus else "none"


def _of_batch(found: Size, recipe: Recipe) -> str:
    training = recipe.training
    if found.batch_rows == training.batch_rows and found.recompute == training.recompute:
        return "of each process, as the recipe says"
    return (
        f"the recipe's {training.batch_rows:,} do not fit a node: set training.recompute to true "
        f"and training.batch_rows to {found.batch_rows}"
    )


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
