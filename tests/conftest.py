"""What tests share: small raw tables in Kaggle's shape, and one project taken to its end."""

import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import Phase, settings

from feastrain import Project
from feastrain.settings import Settings
from kaggle_tables import write_small_tables
from small_tft import small_tft

# How long an example takes is the machine's affair: no test asserts speed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# A mutant is judged by the same examples each time, and nobody reads the smallest that fails.
settings.register_profile(
    "mutation", deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def walmart() -> Path:
    """Kaggle's real tables, where this machine has them."""
    given = os.environ.get("FEASTRAIN_WALMART_DIR")
    path = Path(given) if given else REPOSITORY.parent / "shared" / "data" / "walmart"
    if not path.is_dir():
        pytest.skip("Kaggle's tables are absent: set FEASTRAIN_WALMART_DIR to test on them")
    return path


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read no setting of the machine they run on."""
    for name in os.environ:
        if name.startswith("FEASTRAIN_") and name != "FEASTRAIN_WALMART_DIR":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def small_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three CSV files of 3 stores, 4 departments and 110 weeks, as Kaggle writes them."""
    return write_small_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def demand(tmp_path_factory: pytest.TempPathFactory, small_tables: Path) -> Project:
    """A project on the small tables with its smoke recipe trained and materialised.

    Shared by many tests: read it, or copy it first.
    """

    def make(root: Path) -> None:
        Project.init(root, small_tables)
        project = Project(root, Settings())
        project.train("smoke")
        project.materialize("smoke")

    return Project(_made_once(tmp_path_factory, "demand", make), Settings())


@pytest.fixture
def own_demand(demand: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project for one test, which stands in its folder."""
    root = tmp_path / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def looking_back(tmp_path_factory: pytest.TempPathFactory, small_tables: Path) -> Project:
    """A project with a small TFT trained on all there is, materialised as of its test cut-off.

    Shared by many tests: read it, or copy it first.
    """

    def make(root: Path) -> None:
        Project.init(root, small_tables)
        small_tft(root)
        project = Project(root, Settings())
        project.train("tft")
        last = project.snapshot("tft").manifest["split"]["test"]["last_cutoff"]
        project.materialize("tft", datetime.fromisoformat(last))

    return Project(_made_once(tmp_path_factory, "looking-back", make), Settings())


def _made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """The folder of a project that all processes of a test run share: whoever is first makes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    root, made = base / name / "demand", base / name / "made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that failed
            make(root)
            made.touch()
    return root
