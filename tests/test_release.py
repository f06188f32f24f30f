"""What is said of a version is the same everywhere."""

import re
import tomllib
from pathlib import Path

import yaml

from feastrain.version import __version__

ROOT = Path(__file__).parents[1]
CHANGES = (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_is_of_this_version_and_licence() -> None:
    """As the package's own metadata has them."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (__version__, project["license"]) == (str(citation["version"]), citation["license"])


def test_the_changelog_begins_with_what_is_to_come_or_this_version() -> None:
    """A released version has its section, and a date."""
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", CHANGES, re.MULTILINE)
    assert headings[0][0] in {"Unreleased", __version__}
    assert all(date for name, date in headings if name != "Unreleased")
