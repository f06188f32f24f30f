"""The manifests of `deploy/` as one file, put together by kustomize."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from feastrain.errors import FeastrainError, UsageError

DEPLOY = Path(__file__).parents[3] / "deploy"
"""In a checkout; wheels have no manifests."""


def render_overlay(name: str, deploy: Path = DEPLOY) -> str:
    """Return all objects of an overlay.

    Args:
        name: of a folder of `deploy/overlays`.
        deploy: the manifests.

    Raises:
        UsageError: there is no such overlay, no checkout, or no kustomize.
        FeastrainError: kustomize refuses it.
    """
    overlays = deploy / "overlays"
    if not overlays.is_dir():
        message = "manifests are in a checkout of feastrain alone: clone it, and run it from there"
        raise UsageError(message)
    if not (overlays / name / "kustomization.yaml").is_file():
        known = ", ".join(sorted(path.name for path in overlays.iterdir()))
        message = f"no overlay {name!r}; there are {known}"
        raise UsageError(message)
    beside = Path(sys.executable).with_name("kubectl")
    kubectl = shutil.which("kubectl", path=str(beside.parent)) or shutil.which("kubectl")
    if kubectl is None:
        message = "kubectl is not found, whose `kustomize` puts manifests together: install it"
        raise UsageError(message)
    made = subprocess.run(  # noqa: S603 - kubectl, on our own files
        [kubectl, "kustomize", str(overlays / name)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        message = f"kubectl kustomize deploy/overlays/{name}: {made.stderr.strip()}"
        raise FeastrainError(message)
    return made.stdout
