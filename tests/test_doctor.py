"""What `feastrain doctor` finds, and the mend that it names."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from feastrain import Project
from feastrain.cli import app
from feastrain.doctor import Finding, examine, show_findings


@pytest.fixture
def shop(demand: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project that is well, with one recipe, where the test then is."""
    root = tmp_path / "demand"
    shutil.copytree(demand.root, root, symlinks=True)
    for path in (root / "recipes").glob("*.yaml"):
        if path.stem != "smoke":
            path.unlink()
    monkeypatch.chdir(root)
    return root


def ill(root: Path) -> list[Finding]:
    """Return what is not as it should be, but for what is optional."""
    return [one for one in examine(root) if not one.well and not one.optional]


def test_a_project_that_is_well_has_no_findings(shop: Path) -> None:
    """Nothing is reported for the sake of it."""
    assert [] == ill(shop)


def feast(root: Path, **changes: object) -> None:
    """Change the configuration of the feature repo."""
    path = root / "feature_repo" / "feature_store.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def flip_a_byte(root: Path) -> None:
    """Damage the weights of the bundle that is served."""
    (path,) = (root / "artifacts" / "bundles" / "smoke").resolve().glob("model.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")


PLACE = {"host": "db.example", "port": 1, "database": "feast", "user": "feast", "password": "-"}
POSTGRES = {"type": "postgres", **PLACE}
SETTINGS = {
    "a setting": {"FEASTRAIN_PORT": "http"},
    "a setting of the cluster": {"FEASTRAIN_CLUSTER_NAMESPACE": "Retail!"},
    "an open door": {"FEASTRAIN_HOST": "0.0.0.0"},
    "a short token": {"FEASTRAIN_SERVE_TOKENS": "secret"},
    "artifacts in a file": {"FEASTRAIN_ARTIFACTS": "data.py"},
    "features of long ago": {"FEASTRAIN_MAX_FEATURE_AGE_SECONDS": "3600"},
    "a bundle that nobody signed": {"FEASTRAIN_BUNDLE_KEYS": "keys.pem"},
}
"""What the environment holds, by what is wrong."""
PLANTS: dict[str, Callable[[Path], object]] = {
    "a damaged bundle": flip_a_byte,
    "a recipe": lambda root: (root / "recipes" / "smoke.yaml").write_text("name: smoke\n"),
    "a feature repo": lambda root: feast(root, online_store={"type": "no.such.Store"}),
    "a server that is away": lambda root: feast(
        root, online_store={"type": "redis", "connection_string": "127.0.0.1:1"}
    ),
    "a server that may be anybody": lambda root: feast(
        root, online_store=POSTGRES | {"sslmode": "require"}
    ),
    "no project": lambda root: shutil.rmtree(root / "recipes"),
}
"""What is done to the project."""


@pytest.mark.parametrize(
    ("wrong", "what", "mend"),
    [
        ("a setting", "settings", "correct the variable"),
        ("a setting of the cluster", "cluster", "correct the variable"),
        ("an open door", "who may ask", "FEASTRAIN_SERVE_TOKENS_FILE"),
        ("a short token", "who may ask", "correct the tokens"),
        ("artifacts in a file", "artifacts", "FEASTRAIN_ARTIFACTS"),
        ("features of long ago", "features online", "feastrain materialize"),
        ("a bundle that nobody signed", "bundle of smoke", "sign it"),
        ("a damaged bundle", "bundle of smoke", "feastrain train"),
        ("a recipe", "recipe smoke", "correct it"),
        ("a feature repo", "feature store", "correct the feature repo"),
        ("a server that is away", "online store (redis)", "start it, or correct feature_store"),
        ("a server that may be anybody", "online store, TLS", "sslmode: verify-full"),
        ("no project", "project", "feastrain init"),
    ],
)
def test_what_is_wrong_is_found_with_its_mend(
    shop: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, what: str, mend: str
) -> None:
    """Each planted fault is named in one line, beside the command or key that mends it."""
    for name, value in SETTINGS.get(wrong, {}).items():
        monkeypatch.setenv(name, value)
    PLANTS.get(wrong, lambda root: root)(shop)
    found = {one.what: one for one in ill(shop)}
    assert what in found
    assert mend in found[what].mend
    assert "\n" not in found[what].found


def test_a_finding_is_shown_as_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """The extra that a command names is in square brackets, which are no markup."""
    show_findings([Finding("[red]tables", well=False, found="[none]", mend="pip install 'a[b]'")])
    told = capsys.readouterr().out
    for words in ("[red]tables", "[none]", "pip install 'a[b]'"):
        assert words in told


def test_doctor_ends_with_an_error_where_something_is_wrong(shop: Path) -> None:
    """So that a script stops."""
    flip_a_byte(shop)
    assert 1 == app(["doctor"], standalone_mode=False)


def test_features_that_were_never_put_online_are_told(shop: Path) -> None:
    """With the command that does."""
    Project(shop).features("smoke")  # a copy has a registry of its own, which knows of no write
    (online,) = (one for one in examine(shop) if one.what == "features online")
    assert "never materialised" == online.found
    assert online.mend.startswith("feastrain materialize ")
