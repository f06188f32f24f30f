"""What an installation is made of: its packages, their versions and licences, as an SBOM.

It says nothing of what lies outside Python, as a container's own packages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from typing import Any

from feastrain.version import __version__

_CLASSIFIER = "License :: OSI Approved :: "
UNKNOWN = "unknown"


@dataclass(frozen=True, order=True)
class Package:
    """One installed package; `licence` is an SPDX expression where `spdx`, else its own words."""

    name: str
    version: str
    licence: str
    spdx: bool = False

    @property
    def purl(self) -> str:
        """Its package URL, as scanners of vulnerabilities look it up."""
        return f"pkg:pypi/{self.name}@{self.version}"

    def to_json(self) -> dict[str, Any]:
        """Return the package as a CycloneDX component."""
        told: list[dict[str, Any]] = [{"license": {"name": self.licence}}]
        if self.spdx:
            told = [{"expression": self.licence}]
        return {
            "type": "library",
            "bom-ref": self.purl,
            "name": self.name,
            "version": self.version,
            "purl": self.purl,
            "licenses": told if self.licence != UNKNOWN else [],
        }


def installed() -> list[Package]:
    """Return every package of this Python environment but feastrain, by name."""
    found = {package.name: package for package in map(_package, distributions())}
    found.pop("feastrain", None)
    return sorted(found.values())


def as_cyclonedx(packages: list[Package]) -> dict[str, Any]:
    """Return the packages as a CycloneDX 1.6 document, the same for the same packages."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "feastrain",
                "name": "feastrain",
                "version": __version__,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": [package.to_json() for package in packages],
    }


def _package(distribution: Distribution) -> Package:
    about = distribution.metadata
    name = re.sub(r"[-_.]+", "-", about["Name"]).lower()
    for expression in about.get_all("License-Expression") or ():
        return Package(name, distribution.version, expression, spdx=True)
    classified = [
        line.removeprefix(_CLASSIFIER)
        for line in about.get_all("Classifier") or ()
        if line.startswith(_CLASSIFIER)
    ]
    # Some put the whole text there; its first line names it.
    written = "".join(about.get_all("License") or ()).strip().split("\n")[0]
    return Package(name, distribution.version, " or ".join(classified) or written or UNKNOWN)
