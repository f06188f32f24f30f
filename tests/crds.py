"""Kubernetes objects checked as an API server would: real CRDs with their CEL rules, core schemas.

The CRDs are found in the folder that FEASTRAIN_CRDS names, or in ../shared/crds; a test that needs
them skips without.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import cel
import jsonschema
import kubernetes_validate
import pytest
import yaml

FOLDER = Path(os.environ.get("FEASTRAIN_CRDS") or Path(__file__).parents[2] / "shared" / "crds")
KUBERNETES = "1.34"


def require_crds() -> None:
    if not any(FOLDER.glob("*.yaml")):
        pytest.skip("Kubeflow's CRDs are absent: set FEASTRAIN_CRDS to their folder")


def faults(thing: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    """Return what an API server would refuse of an object that is made, or changed.

    Where CRDs are absent, nothing of what they define.
    """
    kind = thing["apiVersion"], thing["kind"]
    if kind not in _schemas():
        try:
            kubernetes_validate.validate(thing, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [f"{'.'.join(map(str, error.path))}: {error.message}"]
        except kubernetes_validate.SchemaNotFoundError:
            if _schemas():
                raise
        return []
    found = [
        f"{'.'.join(map(str, error.path))}: {error.message}"
        for error in _validator(kind).iter_errors(thing)
    ]
    return found or list(_broken_rules(_schemas()[kind], thing, before, ""))


def defaulted(thing: dict[str, Any]) -> dict[str, Any]:
    """Return an object as an API server keeps it: what its CRD gives by default is filled in."""
    filled: dict[str, Any] = _filled(
        _schemas().get((thing["apiVersion"], thing["kind"]), {}), thing
    )
    return filled


def _filled(schema: dict[str, Any], value: Any) -> Any:
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        given = {name: one["default"] for name, one in properties.items() if "default" in one}
        return {name: _filled(inner, one) for name, inner, one in _parts(schema, given | value)}
    if isinstance(value, list):
        return [_filled(inner, one) for _, inner, one in _parts(schema, value)]
    return value


@cache
def _schemas() -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for path in FOLDER.glob("*.yaml"):
        for crd in yaml.load_all(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
            for version in crd["spec"]["versions"]:
                schema = version["schema"]["openAPIV3Schema"]
                found[f"{group}/{version['name']}", kind] = schema
    return found


@cache
def _validator(kind: tuple[str, str]) -> Any:
    return jsonschema.Draft202012Validator(_strict(_schemas()[kind], root=True))


def _strict(schema: dict[str, Any], *, root: bool = False) -> dict[str, Any]:  # noqa: C901
    """Return a structural schema as JSON Schema that refuses unknown fields."""
    made = {
        key: value
        for key, value in schema.items()
        if not key.startswith("x-") and key not in {"nullable", "format", "default", "description"}
    }
    if "properties" in schema:
        made["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
    if root:
        made["properties"]["metadata"] = {"type": "object"}
    if isinstance(schema.get("items"), dict):
        made["items"] = _strict(schema["items"])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:  # they only narrow what the properties say
            made[key] = [{k: v for k, v in one.items() if k != "format"} for one in schema[key]]
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        made["additionalProperties"] = _strict(more)
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable"):
        return {"anyOf": [made, {"type": "null"}]}
    return made


def _broken_rules(schema: dict[str, Any], value: Any, before: Any, path: str) -> Any:
    """Yield the CEL rules that a value breaks; one on a change, where there was a value before."""
    for rule in schema.get("x-kubernetes-validations", ()):
        on_change = "oldSelf" in rule["rule"]
        known = {"self": value} | ({"oldSelf": before} if on_change else {})
        skipped = on_change and before is None
        if not skipped and cel.evaluate(rule["rule"], known) is not True:
            yield f"{path}: {rule.get('message') or rule['rule']}"
    for name, inner, one in _parts(schema, value):
        was = before.get(name) if isinstance(before, dict) else None
        yield from _broken_rules(inner, one, was, f"{path}.{name}")


def _parts(schema: dict[str, Any], value: Any) -> Any:
    """Yield the name, schema and value of each field or item."""
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        rest = more if isinstance(more, dict) else {}
        yield from ((name, properties.get(name, rest), one) for name, one in value.items())
    if isinstance(value, list):
        yield from ((place, schema.get("items", {}), one) for place, one in enumerate(value))
