"""The names that others build on, as the last release promised them (docs/releases.md).

WRITE_GOLDEN=1 writes them anew, for a change that is meant.
"""

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import typer

import feastrain
from feastrain import Project, errors
from feastrain.cli import app
from feastrain.settings import Cluster, Settings

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
GOLDEN = Path(__file__).parent / "golden" / "public.txt"


def public() -> Iterator[str]:
    """Yield a line for each: modules' names, methods with signatures, verbs, settings, codes."""
    yield from (f"feastrain.{name}" for name in sorted(feastrain.__all__))
    for name, member in sorted(inspect.getmembers(Project)):
        if not name.startswith("_"):
            asked = str(inspect.signature(member)) if callable(member) else ""
            yield f"Project.{name}{ADDRESS.sub('', asked)}"
    group = typer.main.get_command(app)
    for verb, command in sorted(getattr(group, "commands", {}).items()):
        parts = getattr(command, "commands", {verb: command})
        for name, one in sorted(parts.items()):
            flags = sorted(flag for param in one.params for flag in param.opts)
            yield f"feastrain {verb}{'' if name == verb else f' {name}'}: {' '.join(flags)}"
    for kind in (Settings, Cluster):
        prefix = kind.model_config["env_prefix"]
        yield from (f"{prefix}{name.upper()}" for name in sorted(kind.model_fields))
    for code, error in sorted(errors.BY_CODE.items()):
        yield f"exit code {code}: {error.__name__}"


def test_public_names_are_those_that_were_promised() -> None:
    """A name that is gone, or takes something else, is a breaking change: say so, or keep it."""
    told = "".join(f"{line}\n" for line in public())
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(told)
    assert GOLDEN.read_text() == told
