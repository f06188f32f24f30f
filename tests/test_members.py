"""Trees and ensembles: trained as a network is, and one bundle in the end."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from feastrain.dataset.snapshot import Snapshot, write_table
from feastrain.errors import InterruptedRun, RecipeError, UsageError
from feastrain.evaluation.explain import networks
from feastrain.evaluation.forecasts import FILE, Forecasts, forecast_origin
from feastrain.jobs.train import train
from feastrain.models.bundle import Bundle, load_bundle
from feastrain.models.exported import Exported
from feastrain.models.mixture import Mixture
from feastrain.models.network import Network
from feastrain.models.over_baseline import OverBaseline
from feastrain.models.trees import Trees, forecast_with_trees
from feastrain.recipe import BaselineModel, load_recipe
from feastrain.training.boosting import Boosting
from feastrain.training.distributed import Ranks
from feastrain.training.encoding import Labelled, Part, fit_encoder
from feastrain.training.observer import Boosted, Observer
from feastrain.training.shutdown import StopRequest
from gangs import launcher, started, until
from tiny_snapshot import MLP, START, TEST_WEEK, TFT, tiny_recipe, tiny_snapshot

TREES = "{kind: trees, rounds: 60, leaves: 7, min_labels: 5, baseline: last_year}"
BASELINE = "{kind: baseline, baseline: last_year}"
ENSEMBLE = (
    f"{{kind: ensemble, members: [{MLP}, {TFT}, {TREES}, {BASELINE}], weights: [1, 1, 1, 2]}}"
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return tiny_snapshot(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot) -> Path:
    """The artifacts of an ensemble that was fitted again on all that is known."""
    folder = tmp_path_factory.mktemp("ensemble")
    recipe = tiny_recipe(folder, 2, ENSEMBLE, "processes: 2, refit: true")
    train(recipe, snapshot, folder)
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path) -> Bundle:
    return load_bundle((run / "bundles" / "tiny").resolve())


def test_boosters_that_are_done_stay_when_a_run_is_asked_to_stop(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    """The one that is being fitted is left, and the run goes on with it."""
    recipe = load_recipe(tiny_recipe(tmp_path, model=TREES, training="processes: 1"))
    stop, seen = StopRequest(), []

    class Impatient:
        def see(self, event: Boosted) -> None:
            seen.append(event.booster)
            stop.received = event.booster == 2 and seen.count(2) == 1

    here = Ranks(0, 1, torch.device("cpu"))
    boosting = Boosting(recipe, snapshot, tmp_path, here, stop, Observer(1, [Impatient()]))
    with pytest.raises(InterruptedRun, match="asked to stop while boosters were fitted; the same"):
        boosting.fit()
    assert 1 == len(list(tmp_path.glob("trees-*")))
    stop.received = False
    assert len(recipe.model.quantiles) == len(boosting.fit().boosters)


def _forecast(bundle: Bundle, snapshot: Snapshot) -> np.ndarray:
    return bundle.forecast(snapshot.rows("test"), snapshot.known(), snapshot.rows())


def test_ensemble_forecasts_the_mean_of_its_members(bundle: Bundle, snapshot: Snapshot) -> None:
    """A quantile is the weighted mean of the members' quantiles, calibrated, and none cross."""
    given = snapshot.rows("test"), snapshot.known(), snapshot.rows()
    parts = [member.forecast(bundle.encoder, *given) for member in bundle.members]
    forecast_NHQ = _forecast(bundle, snapshot)
    kinds = [Exported, Exported, Trees, OverBaseline]
    assert kinds == [type(member) for member in bundle.members]
    mean_NHQ = (parts[0] + parts[1] + parts[2] + 2 * parts[3]) / 5
    ordinary_NH = np.zeros(mean_NHQ.shape[:2], dtype=bool)
    unit_N = bundle.encoder.unit(given[0])
    expected = bundle.calibration.apply(mean_NHQ, unit_N, ordinary_NH)
    np.testing.assert_allclose(expected, forecast_NHQ)
    assert {"all", "1"} <= set(bundle.calibration.offsets)
    assert (np.diff(forecast_NHQ, axis=2) >= 0).all()
    assert bundle.looks_back


def test_ensemble_forecasts_no_rows(bundle: Bundle, snapshot: Snapshot) -> None:
    """No rows in, no rows out, whatever its members are."""
    none = snapshot.rows("test").slice(0, 0)
    assert (0, 3, 3) == bundle.forecast(none, snapshot.known(), snapshot.rows()).shape
    for member in bundle.members:
        answer = member.forecast(bundle.encoder, none, snapshot.known(), snapshot.rows())
        assert (0, 3, 3) == answer.shape


@pytest.fixture(scope="module")
def with_labels(tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot) -> Snapshot:
    """The snapshot with its labels as a build writes them, for the baselines to read."""
    folder = tmp_path_factory.mktemp("with-labels") / snapshot.path.name
    shutil.copytree(snapshot.path, folder)
    rows = snapshot.rows()
    labels = rows.select(["shop", "event_timestamp"]).append_column("label", rows["sold"])
    labels = labels.append_column("weight", pa.array(np.ones(len(rows))))
    write_table(folder, "labels", labels.append_column("event", pa.array([""] * len(rows))))
    return Snapshot(folder, snapshot.manifest)


def test_an_origin_tells_each_member_beside_the_ensemble(
    bundle: Bundle, with_labels: Snapshot, tmp_path: Path
) -> None:
    """The ensemble comes first, then its members by number and kind, then the baselines."""
    recipe = load_recipe(tiny_recipe(tmp_path, 2, ENSEMBLE))
    origin = forecast_origin(recipe, with_labels, bundle, tmp_path / "forecasts")
    forecasts = Forecasts.pooled([origin.path], recipe.entities)
    members = ["ensemble/0-mlp", "ensemble/1-tft", "ensemble/2-trees", "ensemble/3-baseline"]
    assert ["ensemble", *members] == list(forecasts.systems)[:5]
    assert "lightgbm" in forecasts.systems
    rows = with_labels.rows("test")
    expected = bundle.members[3].forecast(bundle.encoder, rows, with_labels.known(), None)
    actual = forecasts.quantile("ensemble/3-baseline")
    np.testing.assert_allclose(expected.reshape(-1, 3), actual)


def test_an_origin_goes_without_lightgbm_where_it_is_not_installed(
    bundle: Bundle, with_labels: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No system has its name, and once it is there the origin is forecast anew."""
    recipe = load_recipe(tiny_recipe(tmp_path, 2, ENSEMBLE))
    find = importlib.util.find_spec
    with monkeypatch.context() as without:
        without.setattr(
            importlib.util, "find_spec", lambda name: None if name == "lightgbm" else find(name)
        )
        origin = forecast_origin(recipe, with_labels, bundle, tmp_path / "forecasts")
    names = pq.read_table(origin.path / FILE).column_names
    assert {"ensemble", "seasonal-naive"} <= set(names)
    assert "lightgbm" not in names
    assert origin.path != forecast_origin(recipe, with_labels, bundle, tmp_path / "forecasts").path


def test_the_baseline_of_trees_learns_from_a_sample(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more training rows than it takes, which ones is decided by the seed."""
    encoder = fit_encoder(snapshot)
    parts = [snapshot.rows(part) for part in ("train", "validation", "test")]
    monkeypatch.setattr("feastrain.models.trees.MOST_LABELS", 60)
    first, again, other = (
        forecast_with_trees(encoder, *parts, snapshot.known(), seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    in_units_NH = first / encoder.unit(parts[2])[:, None]
    # So few labels have no two leaves.
    np.testing.assert_allclose(in_units_NH, in_units_NH[0, 0])


WITHOUT_TORCH = """
import sys
sys.modules.update({"torch": None, "onnx": None})
import numpy as np
from pathlib import Path
from feastrain.dataset.snapshot import Snapshot
from feastrain.models.bundle import load_bundle
snapshot, bundle = Snapshot.open(Path(sys.argv[1])), load_bundle(Path(sys.argv[2]))
np.save(sys.argv[3], bundle.forecast(snapshot.rows("test"), snapshot.known(), snapshot.rows()))
"""


def test_a_bundle_forecasts_without_torch(run: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    """Where PyTorch is not installed, an ensemble of networks and trees says the same."""
    bundle = load_bundle((run / "bundles" / "tiny").resolve())
    out = tmp_path / "forecast.npy"
    command = [sys.executable, "-c", WITHOUT_TORCH, snapshot.path, bundle.path, out]
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(_forecast(bundle, snapshot), np.load(out))


def test_networks_forecast_as_they_were_trained(bundle: Bundle, snapshot: Snapshot) -> None:
    """ONNX Runtime gives PyTorch's numbers within 1e-5 of them or of the row's unit."""
    given = snapshot.rows("test"), snapshot.known(), snapshot.rows()
    unit_N11 = bundle.encoder.unit(given[0])[:, None, None]
    for exported, network in zip(bundle.members[:2], networks(bundle), strict=True):
        actual, expected = (
            one.forecast(bundle.encoder, *given) / unit_N11 for one in (exported, network)
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_bundle_of_an_older_release_needs_torch(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network without a graph is run by PyTorch; without that, one line says what to do."""
    folder = tmp_path / "old"
    shutil.copytree(run / "bundles" / "tiny" / "member-0", folder)
    (folder / "model.onnx").unlink()
    about = json.loads((folder / "model.json").read_text())
    assert [Network] == [type(member) for member in Mixture.load(folder, about).members]
    monkeypatch.setitem(sys.modules, "feastrain.models.network", None)
    with pytest.raises(UsageError, match=r"has no model\.onnx, which older releases did not write"):
        Mixture.load(folder, about)


def test_models_are_fitted_again_on_what_is_known(run: Path, bundle: Bundle) -> None:
    """Trees have the rounds of the first fit, networks its best number of epochs."""
    (folder,) = (run / "runs").glob("*/member-2")
    last = bundle.members[2]
    assert isinstance(last, Trees)
    first = Trees.load(folder, last.about)
    before, after = ([booster for (booster,) in trees.boosters] for trees in (first, last))
    assert [one.num_trees() for one in before] == [one.num_trees() for one in after]
    assert not {one.model_to_string() for one in before} & {one.model_to_string() for one in after}
    assert 3 <= bundle.metrics["epochs"] <= 8


def test_trees_without_patience_have_every_round(snapshot: Snapshot, tmp_path: Path) -> None:
    """What validates stops no booster, as it stops those that have a patience."""
    counts = {}
    for patience in ("1", "null"):
        model = TREES.replace("rounds: 60", f"rounds: 60, patience: {patience}")
        path = train(tiny_recipe(tmp_path, 1, model), snapshot, tmp_path).path
        (trees,) = load_bundle(path).members
        assert isinstance(trees, Trees)
        counts[patience] = [booster.num_trees() for (booster,) in trees.boosters]
    assert [60, 60, 60] == counts["null"]
    assert max(counts["1"]) < 60


def test_rows_before_the_first_that_trains_are_not_fitted_again(tmp_path: Path) -> None:
    """What warms up trains nothing, at last neither."""
    snapshot = tiny_snapshot(tmp_path, first_week=7)
    labelled = Labelled(load_recipe(tiny_recipe(tmp_path)), snapshot, fit_encoder(snapshot))
    rows, _ = labelled.all(Part.KNOWN)
    weeks = [(at - START) // timedelta(weeks=1) for at in rows["event_timestamp"].to_pylist()]
    assert sorted([*range(7, TEST_WEEK)] * 8) == sorted(weeks)


def test_known_labels_are_those_that_closed_by_the_first_test_cutoff(snapshot: Snapshot) -> None:
    """Rows before it are all there; a label that closes later weighs nothing."""
    recipe = load_recipe(tiny_recipe(Path(snapshot.path.parent)))
    encoder = fit_encoder(snapshot)
    rows, (_, weight_NH) = Labelled(recipe, snapshot, encoder).all(Part.KNOWN)
    _, everything_NH = encoder.labels(rows)
    first = START + timedelta(weeks=TEST_WEEK)
    cutoffs = rows["event_timestamp"].to_pylist()
    closes_NH = np.array([[c + timedelta(weeks=h) for h in (1, 2, 3)] for c in cutoffs])
    assert 8 * TEST_WEEK == len(rows)
    np.testing.assert_array_equal(np.where(closes_NH <= first, everything_NH, 0), weight_NH)
    assert 0 < (weight_NH == 0).sum() < weight_NH.size


def test_labels_over_a_baseline_come_back(snapshot: Snapshot) -> None:
    """What is left over the baseline and the baseline are the label."""
    encoder, rows = fit_encoder(snapshot), snapshot.rows("train")
    left_NH, weight_NH = encoder.labels(rows, "last_year")
    label_NH, _ = encoder.labels(rows)
    unit_N1 = encoder.unit(rows)[:, None]
    back_NH = left_NH * unit_N1 + encoder.base(rows, "last_year")
    seen = weight_NH > 0
    np.testing.assert_allclose((label_NH * unit_N1)[seen], back_NH[seen], rtol=1e-4)


def test_network_forecasts_over_its_baseline(bundle: Bundle, snapshot: Snapshot) -> None:
    """With weights that say nothing, the median is the baseline itself."""
    network, _ = networks(bundle)
    silent = Network.of(
        network.architecture | {"baseline": "last_year"},
        {name: torch.zeros_like(one) for name, one in network.module.state_dict().items()},
    )
    rows = snapshot.rows("test")
    forecast_NHQ = silent.forecast(bundle.encoder, rows, snapshot.known(), None)
    np.testing.assert_allclose(bundle.encoder.base(rows, "last_year"), forecast_NHQ[:, :, 1])


def test_baseline_quantiles_equal_the_hand_computed_example(snapshot: Snapshot) -> None:
    """By step as large a share of the baseline as labels were; none seen, at the baseline."""
    encoder, rows = fit_encoder(snapshot), snapshot.rows("train").slice(0, 11)
    base_NH, unit_N1 = encoder.base(rows, "last_year"), encoder.unit(rows)[:, None]
    size_NH = np.maximum(abs(base_NH), unit_N1 / 5)
    share_NH = np.column_stack([np.arange(11.0) - 3, np.arange(11.0) * 10, np.zeros(11)])
    weight_NH = np.column_stack([np.ones(11), np.full(11, 5.0), np.zeros(11)])
    weight_NH[10, 1] = 0
    labels = (share_NH * size_NH / unit_N1).astype(np.float32), weight_NH.astype(np.float32)
    baseline = BaselineModel(kind="baseline", baseline="last_year")
    model = OverBaseline.fit(baseline, encoder, rows, labels)
    np.testing.assert_allclose(
        model.about["shares"], [[-4, 0, 4], [-36, 0, 36], [0, 0, 0]], atol=1e-4
    )
    over_NHQ = model.forecast(encoder, rows, snapshot.known()) - base_NH[:, :, None]
    np.testing.assert_allclose(over_NHQ[5], size_NH[5][:, None] * model.about["shares"])


def test_killed_trees_go_on_and_end_the_same(snapshot: Snapshot, tmp_path: Path) -> None:
    """Boosters that were finished are not fitted again, and the bundle is byte for byte equal."""
    bundles = []
    for killed in (False, True):
        folder = tmp_path / str(killed)
        folder.mkdir()
        recipe = tiny_recipe(folder, 1, TREES.replace("rounds: 60", "rounds: 400"))
        command = launcher(recipe, snapshot.path, folder)
        if killed:
            with started(command) as process:
                until(lambda here=folder: list(here.glob("runs/*/trees-*.txt")), "a booster")
                os.kill(process.pid, signal.SIGKILL)
        bundles.append(train(recipe, snapshot, folder).path)
    one, other = (
        {path.name: path.read_bytes() for path in bundle.glob("trees-*.txt")} for bundle in bundles
    )
    assert 3 == len(one)
    assert one == other


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("{kind: ensemble, members: [{kind: mlp}], weights: [1, 2]}", "2 weights are given for 1"),
        ("{kind: trees, baseline: sold}", "model.baseline is 'sold', which is not listed both"),
        (
            "{kind: ensemble, members: [{kind: mlp}, {kind: trees, quantiles: [0.5]}]}",
            "the members of an ensemble must have the same quantiles",
        ),
        ("{kind: ensemble, members: []}", "model.ensemble.members"),
    ],
)
def test_models_that_cannot_be_are_refused(tmp_path: Path, model: str, told: str) -> None:
    """One line says what is wrong."""
    with pytest.raises(RecipeError, match=told.replace("[", r"\[")):
        load_recipe(tiny_recipe(tmp_path, 1, model))
