"""A bundle is used where a trusted key signed it as it is, and what it names stays in its place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from feastrain import Project
from feastrain.artifacts import file_digest, named, open_manifest, publishing, write_json
from feastrain.cli import main
from feastrain.errors import ArtifactError, UsageError
from feastrain.models.signature import SIGNATURE, require_signature, sign
from feastrain.settings import Settings

Spoil = Callable[[Path], object]


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a pair of keys; return the private and the public file."""
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder as bundles are published, of two files."""
    final = tmp_path / "bundles" / "00000000feedface"
    with publishing(final, {}) as scratch:
        write_json(scratch / "model.json", {"kind": "fake"})
        (scratch / "member-0").mkdir()
        write_json(scratch / "member-0" / "model.json", {})
    return final


def forge(bundle: Path) -> None:
    """Change a file and give it a digest that fits."""
    write_json(bundle / "model.json", {"kind": "mine"})
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["model.json"] = file_digest(bundle / "model.json")
    write_json(bundle / "manifest.json", manifest)
    open_manifest(bundle)


def test_a_signed_bundle_is_let_through(bundle: Path, tmp_path: Path) -> None:
    """By any of the keys that are trusted, as while one replaces another."""
    (old, old_public), (new, new_public) = keys(tmp_path, "old"), keys(tmp_path, "new")
    both = tmp_path / "both.pub"
    both.write_bytes(old_public.read_bytes() + new_public.read_bytes())
    for private in (old, new):
        sign(bundle, private)
        require_signature(bundle, both)
    with pytest.raises(ArtifactError, match="is of none of the keys in"):
        require_signature(bundle, old_public)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda b: (b / SIGNATURE).unlink(), "is not signed; sign it with `feastrain sign RECIPE"),
        (lambda b: (b / SIGNATURE).write_text("%%"), "is not signed"),
        (lambda b: (b / SIGNATURE).write_text("AAAA"), "is of none of"),
        (forge, "is of none of the keys"),
        (
            lambda b: (b / "calibration.json").write_text("{}"),
            r"calibration\.json is not part of the bundle",
        ),
        (
            lambda b: (b / "member-0" / "model.onnx").write_text(""),
            r"model\.onnx is not part of the bundle",
        ),
        (lambda b: (b / "model.json").write_text("{}"), r"model\.json is damaged"),
    ],
)
def test_what_nobody_signed_is_refused(
    bundle: Path, tmp_path: Path, spoil: Spoil, error: str
) -> None:
    """No signature, another's, one of something else, and files beside those it covers."""
    private, public = keys(tmp_path, "ours")
    sign(bundle, private)
    spoil(bundle)
    with pytest.raises(ArtifactError, match=error):
        require_signature(bundle, public)


def test_one_bundle_does_not_stand_for_another(bundle: Path, tmp_path: Path) -> None:
    """A signature holds for the name that it was made for."""
    private, public = keys(tmp_path, "ours")
    sign(bundle, private)
    other = bundle.with_name("00000000deadbeef")
    shutil.copytree(bundle, other)
    with pytest.raises(ArtifactError, match="is of none of the keys"):
        require_signature(other, public)


def test_what_is_damaged_is_not_signed(bundle: Path, tmp_path: Path) -> None:
    """A signature would vouch for it."""
    (bundle / "model.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is damaged"):
        sign(bundle, keys(tmp_path, "ours")[0])
    assert not (bundle / SIGNATURE).exists()


def test_keys_that_cannot_be_meant_are_refused(bundle: Path, tmp_path: Path) -> None:
    """In one line that names the file and shows none of it."""
    private, public = keys(tmp_path, "ours")
    sign(bundle, private)
    curve = tmp_path / "curve.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    curve.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="holds another kind of key than Ed25519"):
        sign(bundle, curve)
    with pytest.raises(UsageError, match="holds no private key that can be read"):
        sign(bundle, public)
    with pytest.raises(UsageError, match="must hold Ed25519 public keys"):
        require_signature(bundle, private)
    with pytest.raises(UsageError, match=r"cannot be read \(FileNotFoundError\)"):
        require_signature(bundle, tmp_path / "absent.pub")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "member-0/../../outside", ""])
def test_a_manifest_names_nothing_outside_its_folder(bundle: Path, name: str) -> None:
    """A made-up one would have other files read."""
    outside = bundle.parent / "outside"
    outside.write_text("")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = file_digest(outside)
    write_json(bundle / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match="which is not in its folder"):
        open_manifest(bundle)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"files": []}'])
def test_a_manifest_without_digests_is_refused(bundle: Path, content: str) -> None:
    """Nothing would be checked by it."""
    (bundle / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match="lists no files"):
        open_manifest(bundle)


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "/etc", "a/b", "a\0b", "x\n", None, 3])
def test_what_names_an_artefact_is_no_path(name: object) -> None:
    """A bundle's lineage cannot lead a server elsewhere."""
    with pytest.raises(ArtifactError, match="names no artefact of"):
        named(Path("snapshots"), name)


@pytest.fixture
def project(demand: Project, tmp_path: Path) -> Project:
    """A trained project of our own."""
    shutil.copytree(demand.root, tmp_path / "demand", symlinks=True)
    return Project(tmp_path / "demand", Settings())


def test_a_project_forecasts_with_signed_bundles_where_keys_are_set(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the command line: unsigned ends in one line and exit 3, `sign` mends it."""
    private, public = keys(tmp_path, "ours")
    monkeypatch.setenv("FEASTRAIN_BUNDLE_KEYS", str(public))

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["feastrain", *arguments, "-C", str(project.root)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert run("predict", "smoke") == 3
    assert "is not signed; sign it with" in capsys.readouterr().err
    assert run("sign", "smoke", "--key", str(private)) == 0
    capsys.readouterr()
    assert run("verify", "smoke") == 0
    assert "signed: True" in capsys.readouterr().out
    assert run("predict", "smoke") == 0


def test_a_bundle_does_not_choose_whose_code_runs(project: Project, tmp_path: Path) -> None:
    """The feature repo is Python: that of a bundle from elsewhere is not opened."""
    bundle = project.bundle("smoke")
    bundle.lineage["recipe"]["features"]["repo"] = str(tmp_path / "theirs")
    with pytest.raises(ArtifactError, match=r"wants the feature repo .* train it here"):
        project.forecaster(bundle)
    bundle.lineage["snapshot"] = "../../elsewhere"
    with pytest.raises(ArtifactError, match="names no artefact of"):
        project._snapshot_of(bundle)
