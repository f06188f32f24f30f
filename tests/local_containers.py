# ruff: noqa: ARG002, FBT002, PLR0917 - the methods of an interface are theirs
"""Containers for Kubeflow's client that are plain processes: each runs the very command it gets."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubeflow.trainer.backends.container.adapters.base import BaseContainerClientAdapter

from gangs import free_port


class LocalContainers(BaseContainerClientAdapter):
    """An adapter as those of Docker and Podman; what a container has for itself lies in a folder.

    Args:
        folder: where.
    """

    _runtime_type = "docker"

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.asked: list[dict[str, Any]] = []
        """What each container was made of."""
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.networks: dict[str, dict[str, str]] = {}

    def ping(self) -> None:
        """Be there."""

    def create_network(self, name: str, labels: dict[str, str]) -> str:
        self.networks[name] = labels
        return name

    def delete_network(self, network_id: str) -> None:
        del self.networks[network_id]

    def get_network(self, network_id: str) -> dict[str, Any] | None:
        return {"id": network_id, "labels": self.networks[network_id]}

    def create_and_start_container(
        self,
        image: str,
        command: list[str],
        name: str,
        network_id: str,
        environment: dict[str, str],
        labels: dict[str, str],
        volumes: dict[str, dict[str, str]],
        working_dir: str,
    ) -> str:
        ((workdir, bound),) = volumes.items()
        self.asked.append({"image": image, "command": command, "environment": environment})
        bash, _, script = command
        first = f"{name.rpartition('-')[0]}-0:29500"
        for word, ours in {
            bound["bind"]: workdir,
            "/tmp/train.py": str(self.folder / f"{name}.py"),
            first: f"127.0.0.1:{self.port}",
        }.items():
            script = script.replace(word, ours)
        path = [str(Path(sys.executable).parent), os.environ["PATH"]]
        given = {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **environment,
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [bash, "-c", script], env=given, stdout=log, stderr=log, start_new_session=True
            )
        self.asked[-1]["labels"] = labels
        return name

    def get_container(self, container_id: str) -> str:
        return container_id

    def container_logs(self, container_id: str, follow: bool) -> Iterator[str]:
        if follow:
            self.running[container_id].wait()
        yield (self.folder / f"{container_id}.log").read_text()

    def stop_container(self, container_id: str, timeout: int = 10) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[container_id].pid, signal.SIGKILL)
        self.running[container_id].wait()

    def remove_container(self, container_id: str, force: bool = True) -> None:
        del self.running[container_id]

    def pull_image(self, image: str) -> None:
        raise AssertionError(image)

    def image_exists(self, image: str) -> bool:
        return True

    def run_oneoff_container(self, image: str, command: list[str]) -> str:
        raise AssertionError(image)

    def container_status(self, container_id: str) -> tuple[str, int | None]:
        code = self.running[container_id].poll()
        return ("running", None) if code is None else ("exited", code)

    def get_container_ip(self, container_id: str, network_id: str) -> str | None:
        return None

    def wait_for_container(self, container_id: str, timeout: int | None = None) -> int:
        return self.running[container_id].wait(timeout)

    def list_containers(self, filters: dict[str, list[str]] | None = None) -> list[dict[str, Any]]:
        return [
            {"id": name, "name": name, "labels": asked["labels"], "status": "", "created": ""}
            for name, asked in zip(self.running, self.asked[-len(self.running) :], strict=True)
        ]
