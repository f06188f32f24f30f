"""What an installation is made of: locked by hashes, and listed with licences."""

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from feastrain.cli import main
from feastrain.inventory import UNKNOWN, Package, as_cyclonedx, installed

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([\w.-]+)==([^ ;\\]+)(?: ; ([^\\]+?))?(?: \\)?$")
MARKED = [line.strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
PARTED = {"torch"}
"""Installed before the rest: which build there is depends on the machine."""
COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General|SSPL|BUSL)", re.IGNORECASE)


def pins(lines: list[str]) -> dict[str, set[str]]:
    """Return the versions of each package that hold on some Python or platform."""
    found: dict[str, set[str]] = {}
    for match in filter(None, map(PIN.match, lines)):
        found.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return found


def test_the_lock_has_the_versions_that_are_tested() -> None:
    """Those of constraints.txt, and those that only torch asks for."""
    locked = pins(MARKED)
    tested = pins((ROOT / "constraints.txt").read_text().splitlines())
    assert tested == {name: locked[name] for name in tested if name in locked}
    assert {"mpmath", "networkx", "setuptools", "sympy"} >= locked.keys() - tested.keys()


def test_the_lock_has_whatever_the_project_asks_for() -> None:
    """It was made anew after the last dependency was added."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        Requirement(text)
        for group in (project["dependencies"], *project["optional-dependencies"].values())
        for text in group
    ]
    locked = pins(MARKED)
    lacking = [
        str(one)
        for one in asked
        if one.name not in {"feastrain", *PARTED}
        and not any(v in one.specifier for v in locked.get(canonicalize_name(one.name), ()))
    ]
    assert [] == lacking


def test_every_package_of_the_lock_has_its_hashes() -> None:
    """Each line of a package is followed by at least one."""
    begun = [index for index, line in enumerate(MARKED) if PIN.match(line)]
    assert len(begun) > 150
    assert all(MARKED[index + 1].startswith("--hash=sha256:") for index in begun)
    assert [] == [line for line in MARKED if "://" in line]


def test_what_is_installed_is_what_is_locked() -> None:
    """The tests ran with the versions that others will install."""
    wrong = []
    for match in filter(None, map(PIN.match, MARKED)):
        if match[3] is None or Marker(match[3]).evaluate():
            try:
                found = version(match[1])
            except PackageNotFoundError:
                continue
            if found != match[2] and match[1] != "setuptools":  # the environment's own
                wrong.append(f"{match[1]} {found}, locked {match[2]}")
    assert [] == wrong


def test_the_sbom_lists_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CycloneDX: name, version, licence and package URL of each; twice the same."""
    monkeypatch.setattr("sys.argv", ["feastrain", "sbom"])
    with pytest.raises(SystemExit):
        main()
    told = json.loads(capsys.readouterr().out)
    assert as_cyclonedx(installed()) == told
    assert ("CycloneDX", "1.6") == (told["bomFormat"], told["specVersion"])
    (feast,) = [one for one in told["components"] if one["name"] == "feast"]
    assert f"pkg:pypi/feast@{version('feast')}" == feast["purl"] == feast["bom-ref"]
    references = [one["bom-ref"] for one in told["components"]]
    assert len(set(references)) == len(references)


def test_a_licence_is_an_expression_or_a_name() -> None:
    """As CycloneDX tells them apart; of one that is not known nothing is said."""
    told = [
        Package("a", "1", "MIT OR Apache-2.0", spdx=True),
        Package("b", "2", "MIT License"),
        Package("c", "3", UNKNOWN),
    ]
    expected = [[{"expression": "MIT OR Apache-2.0"}], [{"license": {"name": "MIT License"}}], []]
    assert expected == [package.to_json()["licenses"] for package in told]


def test_every_licence_is_known_and_lets_us_be() -> None:
    """None that would have whoever serves forecasts publish their own code."""
    packages = installed()
    assert [] == [one for one in packages if one.licence == UNKNOWN]
    assert [] == [one for one in packages if COPYLEFT.search(one.licence)]
