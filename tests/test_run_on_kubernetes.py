"""The page that takes a cluster from nothing to forecasts names what there is, and all of it."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from feastrain.errors import UsageError
from feastrain.jobs.overlay import render_overlay
from pages import DOCS

PAGE = (DOCS / "how-to" / "run-on-kubernetes.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
KINDS = {"cluster": "Cluster", "cronjob": "CronJob", "deployment": "Deployment"}
KINDS |= {"statefulset": "StatefulSet", "job": "Job"}


@pytest.fixture(scope="module")
def things() -> list[dict[str, Any]]:
    """All objects of the overlay that the page applies."""
    (overlay,) = (
        words[3] for words in COMMANDS if words[:3] == ["feastrain", "render", "--overlay"]
    )
    try:
        return list(yaml.safe_load_all(render_overlay(overlay)))
    except UsageError as error:
        pytest.skip(str(error))


def namespace_of(words: list[str]) -> str:
    return words[words.index("-n") + 1]


def parts(thing: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within an object, itself included."""
    if isinstance(thing, dict):
        yield thing
        thing = list(thing.values())
    if isinstance(thing, list):
        for one in thing:
            yield from parts(one)


def test_every_object_that_a_command_names_is_there(things: list[dict[str, Any]]) -> None:
    """In its namespace; jobs are those that an earlier command makes of a CronJob."""
    there = {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in things
    }
    named = set()
    for words in COMMANDS:
        if words[:1] != ["kubectl"] or "-n" not in words:
            continue
        if words[3:5] == ["create", "job"]:
            there.add(("Job", namespace_of(words), words[5]))
        for word in words:
            kind, slash, name = word.removeprefix("--from=").partition("/")
            if slash and kind in KINDS:
                named.add((KINDS[kind], namespace_of(words), name))
    assert len(named) == 7
    assert set() == named - there


def test_every_secret_is_made(things: list[dict[str, Any]]) -> None:
    """By a command, with its keys, or by cert-manager; and no other is."""
    made = {
        (namespace_of(words), words[6]): {
            word.partition("=")[2].partition("=")[0] for word in words if word.startswith("--from-")
        }
        for words in COMMANDS
        if words[3:6] == ["create", "secret", "generic"]
    }
    certificates = {
        (one["metadata"]["namespace"], one["spec"]["secretName"])
        for one in things
        if one["kind"] == "Certificate"
    }
    asked: dict[tuple[str, str], set[str]] = {}
    for one in things:
        for part in parts(one):
            for what, told in part.items():
                if not re.search("[sS]ecret|accessKeyId", what):
                    continue
                name, key = (
                    (told.get("name"), told.get("key")) if isinstance(told, dict) else (told, None)
                )
                issued = one["kind"] in {"Certificate", "ClusterIssuer", "Ingress"}
                if what == "secretName" and issued:
                    continue
                if name:
                    where = one["metadata"]["namespace"], name.rpartition("/")[2]  # an annotation's
                    keys = asked.setdefault(where, set())
                    keys |= {key} - {None}
    ours = {where: keys for where, keys in asked.items() if where not in certificates}
    assert ours.keys() == made.keys()
    assert {} == {where: keys - made[where] for where, keys in ours.items() if keys - made[where]}


def test_every_image_is_built(things: list[dict[str, Any]]) -> None:
    """By a stage of the Containerfile, under the name that the manifests have."""
    built = {words[words.index("-t") + 1]: words for words in COMMANDS if words[0] == "docker"}
    ours = {
        part["image"]
        for one in things
        for part in parts(one)
        if str(part.get("image", "")).startswith("ghcr.io/feastrain/")
    }
    assert ours == built.keys()
    stages = re.findall(
        r"^FROM \S+ AS (\S+)$", (DOCS.parent / "deploy" / "Containerfile").read_text(), re.MULTILINE
    )
    assert {words[words.index("--target") + 1] for words in built.values()} <= {*stages}
    namespaces = {one["metadata"].get("namespace") for one in things} - {None, "cert-manager"}
    assert namespaces == {words[3] for words in COMMANDS if words[1:3] == ["create", "namespace"]}
