"""What a query in PromQL asks for: metrics, and the labels by which it picks and sums them.

No parser: Prometheus's own, promtool, says whether a query is one.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from feastrain.catalogue import catalogue

MONITORING = Path(__file__).parents[1] / "deploy" / "monitoring"
TARGET = {"namespace", "pod", "job", "instance", "container", "endpoint"}
"""Labels that Prometheus gives to all that it scrapes in a cluster."""
PUSHED = {"verb", "recipe", "run", "skew", "drift"}
"""Labels of the groups that are pushed."""
WORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan", "by", "without", "on", "ignoring"}
WORDS |= {"group_left", "group_right"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\s*(\{[^{}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@cache
def known() -> dict[str, set[str]]:
    """Return the labels of every metric that there is: ours, others', and those of rules."""
    found: dict[str, set[str]] = {}
    for entry in catalogue():
        pushed = PUSHED if entry.stage in {"drift", "skew", "stage", "training"} else set()
        labels = TARGET | pushed | set(entry.labels)
        if entry.kind == "histogram":
            found |= {f"{entry.name}_{part}": labels for part in ("count", "sum")}
            found[f"{entry.name}_bucket"] = labels | {"le"}
        else:
            found[entry.name] = labels
    others = yaml.safe_load((MONITORING / "others.yaml").read_text())
    found |= {name: TARGET | set(labels) for name, labels in others.items()}
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        found |= {rule["record"]: {"namespace"} for rule in group["rules"] if "record" in rule}
    return found


def faults(query: str) -> list[str]:
    """Return what a query asks for that is not there: metrics, and labels of those it asks for."""
    found, labels = [], set()
    for name, matched in _selectors(query):
        names = [one for one in known() if re.fullmatch(name, one)]
        if not names:
            found.append(f"no metric {name}")
        for one in names:
            labels |= known()[one]
            found += [f"{one} has no label {label}" for label in matched - known()[one]]
    grouped = {label.strip() for group in GROUPING.findall(query) for label in group.split(",")}
    return found + [f"nothing has a label {label}" for label in grouped - labels - {""}]


def _selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric's name, or a pattern of names, and the labels that pick of it."""
    plain = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", "", GROUPING.sub("", query))
    for match in SELECTOR.finditer(plain):
        name, braces = match.groups()
        if not name and not braces:
            continue
        matchers = dict(MATCHER.findall(braces or ""))
        pattern = matchers.pop("__name__", f'"{name}"').strip('"')
        called = plain[match.end() :].lstrip().startswith("(")
        if not called and (braces or name.lower() not in WORDS):
            yield pattern, set(matchers)
