"""A real Prometheus, with the real rules in the time of a test, and a real Pushgateway."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from promql import MONITORING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
EVERY = "250ms"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def hastened(rules: dict[str, Any], times: float) -> dict[str, Any]:
    """Return rules whose windows and waits are so many times shorter; thresholds stay."""

    def shorter(match: re.Match[str]) -> str:
        return f"{round(int(match[1]) * SECONDS[match[2]] / times * 1000)}ms"

    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"(?<=\[)(\d+)([smhd])(?=\])", shorter, rule["expr"])
            rule["expr"] = re.sub(r"(?<=offset )(\d+)([smhd])", shorter, rule["expr"])
            if "for" in rule:
                rule["for"] = re.sub(r"(\d+)([smhd])", shorter, rule["for"])
    return rules


class Prometheus:
    """A Prometheus at a port, which scrapes and evaluates four times a second."""

    def __init__(self, folder: Path, jobs: list[dict[str, Any]], times: float) -> None:
        rules = hastened(yaml.safe_load((MONITORING / "rules.yaml").read_text()), times)
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        config = {
            "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY},
            "rule_files": ["rules.yaml"],
            "scrape_configs": jobs,
        }
        config["global"]["evaluation_interval"] = EVERY
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = subprocess.Popen(
            [
                require("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=warn",
            ],
            stderr=(folder / "prometheus.log").open("w"),
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def query(self, query: str) -> list[dict[str, Any]]:
        """Return the samples that a query answers with, none while Prometheus starts."""
        try:
            answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query})
        except httpx.TransportError:
            return []
        found: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.is_success else []
        return found

    def firing(self) -> set[str]:
        """Return the alerts that fire now."""
        return {one["metric"]["alertname"] for one in self.query('ALERTS{alertstate="firing"}')}

    def fired(self) -> dict[str, set[str]]:
        """Return the alerts that fired so far, each with the pods or recipes it was of."""
        found: dict[str, set[str]] = {}
        for one in self.query('max_over_time(ALERTS{alertstate="firing"}[10m])'):
            labels = one["metric"]
            about = labels.get("pod") or labels.get("recipe") or labels.get("feature") or ""
            found.setdefault(labels["alertname"], set()).add(about)
        return found

    def wait_for(self, alerts: set[str], seconds: float) -> dict[str, set[str]]:
        """Wait until each of these alerts has fired or fires, and return what did."""
        deadline = time.monotonic() + seconds
        while not alerts <= self.fired().keys() and time.monotonic() < deadline:
            time.sleep(0.2)
        return self.fired()

    def wait_until_firing(self, alert: str, seconds: float) -> None:
        """Wait until an alert fires."""
        deadline = time.monotonic() + seconds
        while alert not in self.firing():
            assert time.monotonic() < deadline, f"{alert} does not fire"
            time.sleep(0.2)

    def wait_until_scraped(self, targets: int) -> None:
        """Wait until so many targets answer."""
        deadline = time.monotonic() + 60
        while len(self.query("up == 1")) < targets:
            assert time.monotonic() < deadline, Counter(map(str, self.query("up")))
            time.sleep(0.1)


@contextlib.contextmanager
def pushgateway(folder: Path) -> Iterator[str]:
    """Serve a Pushgateway at an address."""
    address = f"127.0.0.1:{free_port()}"
    with (folder / "pushgateway.log").open("w") as log:
        process = subprocess.Popen(
            [require("prometheus-pushgateway"), f"--web.listen-address={address}"], stderr=log
        )
        try:
            yield f"http://{address}"
        finally:
            process.kill()
            process.wait()


def require(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is absent: install Debian's {program} to see alerts fire")
    return found
