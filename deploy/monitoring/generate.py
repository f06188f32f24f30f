"""Writes what is made from rules.yaml and dashboards.py: `python deploy/monitoring/generate.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from dashboards import DASHBOARDS, dashboard

HERE = Path(__file__).parent
FIRST = "# Made from rules.yaml by generate.py: change that one.\n"


def generated() -> dict[str, str]:
    """Return what each file that is made should hold, by its path below this folder."""
    files = {
        f"dashboards/{name}.json": json.dumps(dashboard(name), indent=2) + "\n"
        for name in DASHBOARDS
    }
    text = yaml.dump(_prometheus_rule(), Dumper=_Dumper, sort_keys=False, width=1000)
    return files | {"prometheusrule.yaml": FIRST + text}


def _prometheus_rule() -> dict[str, Any]:
    """Return the rules as Prometheus's operator takes them."""
    rules = yaml.safe_load((HERE / "rules.yaml").read_text())
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "feastrain",
            "namespace": "feastrain",
            "labels": {
                "app.kubernetes.io/name": "feastrain",
                "app.kubernetes.io/component": "monitoring",
            },
        },
        "spec": {"groups": rules["groups"]},
    }


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

if __name__ == "__main__":
    for name, text in generated().items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(text)
