import importlib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feastrain import Project
from feastrain.cli import app
from feastrain.errors import UsageError
from feastrain.jobs.footprint import footprint
from feastrain.jobs.memory import HEADROOM, TrainingRows, need_of_rank
from feastrain.jobs.sizing import AGENT, Measured, size
from feastrain.models.architecture import make_module
from feastrain.recipe import Recipe, TreesModel, load_recipe, with_values
from feastrain.settings import Queue
from tiny_snapshot import COLUMNS, TFT, tiny_recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GIB = 1 << 30
few = settings(max_examples=6, deadline=None)


def tiny_rows(train: int = 100_000) -> TrainingRows:
    """Rows with the columns of the tiny snapshot, a tenth of them for validation."""
    return TrainingRows(
        columns=COLUMNS,
        rows={"train": train, "validation": train // 10, "test": train // 10},
        row_bytes=160.0,
        series=500,
        periods=200,
    )


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(tiny_recipe(tmp_path_factory.mktemp("mlp")))


@pytest.fixture(scope="module")
def tft(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(tiny_recipe(tmp_path_factory.mktemp("tft"), model=TFT))


@given(
    st.lists(st.integers(10, 5_000_000), min_size=2, max_size=2),
    st.lists(st.integers(1, 30_000), min_size=2, max_size=2),
    st.lists(st.integers(1, 300), min_size=2, max_size=2),
)
@few
def test_more_never_needs_less(
    mlp: Recipe, rows: list[int], batches: list[int], widths: list[int]
) -> None:
    """With more rows, a larger batch and wider layers a rank asks for at least as much."""
    asked = [
        need_of_rank(
            tiny_rows(train),
            with_values(mlp, {"training.batch_rows": batch, "model.hidden": [width, width]}),
        ).asked
        for train, batch, width in zip(*map(sorted, (rows, batches, widths)), strict=True)
    ]
    assert sorted(asked) == asked


def test_a_wider_tft_or_batch_never_needs_less(tft: Recipe) -> None:
    """The same of a model that looks back."""
    needs = {"training.batch_rows": 1}, {"training.batch_rows": 999}, {"model.hidden": 16}
    asked = []
    for values in needs:
        tft = with_values(tft, values)
        asked.append(need_of_rank(tiny_rows(), tft).asked)
    assert sorted(asked) == asked


@given(st.integers(GIB // 2, 3 * GIB), st.floats(0.5, 3), st.integers(1, 12), st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_a_size_fits_its_queue(
    mlp: Recipe, memory: int, needed: float, ranks: int, nodes: int
) -> None:
    """A size stays within the queue and has room for every rank; else one line says why not."""
    recipe, rows = with_values(mlp, {"training.processes": ranks}), tiny_rows()
    expected = need_of_rank(rows, recipe).expected
    measured = Measured(peak_bytes=round(needed * expected), expected_bytes=expected)
    queue = Queue(memory_bytes=memory, cpus=4, nodes=nodes)
    try:
        found = size(rows, recipe, queue, measured)
    except UsageError:
        assert memory < 2 * needed * expected + AGENT or nodes < ranks
        return
    assert memory >= found.memory_bytes
    assert nodes >= found.nodes
    assert found.cpus <= 4
    assert found.nodes * found.ranks_per_node >= ranks
    assert AGENT + found.ranks_per_node * found.rank_bytes == found.memory_bytes


@given(st.floats(0.2, 5))
@few
def test_never_below_what_a_run_needed(mlp: Recipe, ratio: float) -> None:
    """Of a run that was measured, what it needed is asked for, with head-room."""
    expected = need_of_rank(tiny_rows(), mlp).expected
    measured = Measured(peak_bytes=round(ratio * expected), expected_bytes=expected)
    asked = size(tiny_rows(), mlp, measured=measured).rank_bytes
    assert measured.peak_bytes < asked
    assert measured.peak_bytes * HEADROOM == pytest.approx(asked, rel=1e-6)


def test_fitting_again_needs_room_for_the_rows_of_embargoes(mlp: Recipe) -> None:
    """Those between the parts are known by then; there are no more than all rows."""

    def bytes_of_rows(embargo: int, *, refit: bool) -> int:
        recipe = with_values(mlp, {"training.refit": refit})
        split = recipe.split.model_copy(update={"embargo": embargo, "validation_cutoffs": 100})
        return need_of_rank(tiny_rows(), recipe.model_copy(update={"split": split})).rows

    again = [bytes_of_rows(embargo, refit=True) for embargo in (3, 30, 50, 1000)]
    assert again[0] < again[1] < again[2] == again[3]
    assert bytes_of_rows(3, refit=False) == bytes_of_rows(1000, refit=False) < again[0]


def test_a_small_run_says_nothing_good_of_a_large_one(mlp: Recipe) -> None:
    """It may raise what is asked for, but lowers it for a run about as large alone."""
    expected = need_of_rank(tiny_rows(), mlp).expected
    plain = size(tiny_rows(), mlp).rank_bytes
    factors = {}
    for part, ratio in itertools.product((0.4, 1.0), (0.5, 2.0)):
        measured = Measured(round(ratio * part * expected), round(part * expected))
        asked = size(tiny_rows(), mlp, measured=measured).rank_bytes
        factors[part, ratio] = round(asked / plain, 3)
    assert {(0.4, 0.5): 1.0, (0.4, 2.0): 2.0, (1.0, 0.5): 0.5, (1.0, 2.0): 2.0} == factors


def test_a_run_is_sized_by_the_last_one(demand: Project) -> None:
    """What it needed is in its folder, and is asked for with head-room the next time."""
    bundle = demand.bundle("smoke")
    told = json.loads((demand.artifacts / "runs" / bundle.fingerprint / "usage.json").read_text())
    assert bundle.lineage["snapshot"] == told["snapshot"]
    assert demand.recipe("smoke").training.processes == told["processes"]
    assert told["seconds"] > 0
    asked = demand.size("smoke").rank_bytes
    assert told["peak_bytes"] * HEADROOM == pytest.approx(asked, rel=1e-6)
    (time,) = [figure for figure in demand.size("smoke").figures if figure.name == "time"]
    assert "at the last run's pace" in time.why


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_the_count_is_what_a_step_allocates() -> None:
    """The live bytes that are counted without computing are those that the allocator tells of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        memory = importlib.import_module("memory")
    about = {
        "kind": "mlp",
        "row_numbers": 30,
        "step_numbers": 0,
        "known_numbers": 0,
        "row_vocabularies": [],
        "known_vocabularies": [],
        "horizon": 1,
        "hidden": [128] * 6,
        "embedding": 8,
        "dropout": 0.1,
        "quantiles": memory.QUANTILES,
    }
    batch, rows = memory._mlp()[1], 4096
    model = make_module(about).train()
    step = memory._step(model, batch, rows, 1)
    gradients = 4 * sum(parameter.numel() for parameter in model.parameters())
    for recompute in (False, True):
        model.recompute = recompute
        step()
        counted = footprint(about, rows, 1, recompute=recompute)
        assert gradients == 4 * counted.parameters
        # The count has the batch and holds the gradients, which the step that is measured frees.
        read = sum(tensor.nbytes for tensor in vars(batch).values()) + 2 * 4 * rows
        counted_bytes = counted.train_bytes - gradients - read
        assert memory._peak(step) == pytest.approx(counted_bytes, rel=0.1)


def test_a_batch_that_does_not_fit_is_made_smaller(mlp: Recipe) -> None:
    """First activations are computed again, then the batch is halved; the size says so."""
    recipe = with_values(mlp, {"training.batch_rows": 65_536, "model.hidden": [512, 512, 512]})
    rows = tiny_rows(1_000_000)
    free = size(rows, recipe)
    assert (65_536, False) == (free.batch_rows, free.recompute)
    found = size(rows, recipe, Queue(memory_bytes=4 * GIB))
    assert found.recompute
    assert found.batch_rows < 65_536
    (why,) = [figure.why for figure in found.figures if figure.name == "batch"]
    assert f"set training.recompute to true and training.batch_rows to {found.batch_rows}" in why


def test_what_cannot_fit_is_one_line(mlp: Recipe) -> None:
    """The line says how much is needed, by how many rows, and how much there is."""
    told = "of it for 12,000,000 rows, and a node of the queue has 2.15 GB; take a queue with more"
    with pytest.raises(UsageError, match=told):
        size(tiny_rows(10_000_000), mlp, Queue(memory_bytes=2 * GIB))
    alone = with_values(mlp, {"training.processes": 1})
    assert size(tiny_rows(), alone, Queue(memory_bytes=2 * GIB)).memory_bytes <= 2 * GIB
    with pytest.raises(UsageError, match=r"a node of the queue has 2\.15 GB"):
        size(tiny_rows(), alone, Queue(memory_bytes=2 * GIB), Measured(4 * GIB, GIB))
    told = "needs 2 nodes for its 2 processes, 1 on each, and the queue gives 1"
    with pytest.raises(UsageError, match=told):
        size(tiny_rows(), mlp, Queue(memory_bytes=GIB, nodes=1))


def test_a_short_queue_takes_several_runs_and_costs(mlp: Recipe) -> None:
    """Time beyond the queue's is more runs, and the cost is that of all of them."""
    queue = Queue(walltime_s=100, cpu_hour=0.5, gb_hour=0.25)
    found = size(tiny_rows(50_000_000), mlp, queue)
    assert (100, 2) <= (found.walltime_s, found.runs)
    hours = found.nodes * found.runs * found.walltime_s / 3600
    assert found.cost == pytest.approx(hours * (found.cpus / 2 + found.memory_bytes / 4e9))
    assert size(tiny_rows(), mlp).cost is None


def test_a_gpu_for_each_process_that_fits_a_network(mlp: Recipe) -> None:
    """A queue with GPUs gives each process one; trees compute without."""
    queue = Queue(gpus=1)
    assert (1, 2) == ((found := size(tiny_rows(), mlp, queue)).gpus, found.nodes)
    trees = mlp.model_copy(update={"model": TreesModel(kind="trees")})
    assert 0 == size(tiny_rows(), trees, queue).gpus


def test_every_figure_has_a_reason(mlp: Recipe) -> None:
    """No figure stands alone."""
    figures = size(tiny_rows(), mlp).figures
    assert {"memory of a process", "nodes", "batch", "loader workers", "time"} <= {
        figure.name for figure in figures
    }
    assert all(figure.value and figure.why for figure in figures)


def test_a_manifest_says_what_the_rows_are(demand: Project) -> None:
    """Rows, series and the bytes of a row are those of the table."""
    snapshot = demand.snapshot("smoke")
    rows = TrainingRows.of(snapshot.manifest)
    table = snapshot.rows()
    assert len(table) == rows.every
    assert table.nbytes / len(table) == pytest.approx(rows.row_bytes, rel=0.1)


def test_the_plan_shows_the_size(demand: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """`plan` ends with what training needs; `--json` has it, and `--queue` fits it to one."""
    app(["plan", "smoke", "-C", str(demand.root)], standalone_mode=False)
    text = capsys.readouterr().out
    for told in ("to ask for", "memory of a node", "1 process, 1 on each"):
        assert told in text
    app(["plan", "smoke", "-C", str(demand.root), "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)["training"]
    assert 1 == told["nodes"]
    with pytest.raises(UsageError, match="no queue 'night' in FEASTRAIN_QUEUES; there is none"):
        demand.size("smoke", "night")


def test_queues_come_from_the_environment(demand: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue is JSON of the setting, its memory in any unit."""
    monkeypatch.setenv("FEASTRAIN_QUEUES", '{"night": {"memory_bytes": "300MiB"}}')
    with pytest.raises(UsageError, match="a node of the queue has 315 MB"):
        Project(demand.root).size("smoke", "night")


@pytest.mark.distributed
def test_a_real_run_needs_no_more_than_asked(
    demand: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks of the smoke recipe stay within what is asked for, and use most of it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    bench = importlib.import_module("sizing")
    content = (demand.root / "recipes" / "smoke.yaml").read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content.replace("processes: 1", "processes: 2"))
    snapshot = demand.snapshot("smoke")
    peak = bench.measure(tmp_path, 2, recipe, snapshot.path)
    asked = need_of_rank(TrainingRows.of(snapshot.manifest), load_recipe(recipe)).asked
    assert 0.5 * asked < peak < asked
