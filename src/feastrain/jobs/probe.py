"""What the kubelet runs in a training pod: `python -m feastrain.jobs.probe live` (or `ready`).

Rank 0 alone has a port with the run's health. The other nodes are well as long as their ranks
run: those find by themselves that rank 0 is gone, or stands still.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException

from feastrain.settings import load_settings
from feastrain.telemetry import say

SECONDS = 5.0


def probe(what: str) -> bool:
    """Tell whether the run is `live` or `ready`, as rank 0 says of itself; say why it is not.

    Raises:
        UsageError: a setting holds what it cannot be.
    """
    settings = load_settings()
    if settings.node_rank or settings.metrics_port is None:
        return True
    connection = HTTPConnection("127.0.0.1", settings.metrics_port, timeout=SECONDS)
    try:
        connection.request("GET", f"/healthz/{what}")
        answer = connection.getresponse()
        told = answer.read().decode().strip()
    except (OSError, HTTPException) as error:
        say(f"rank 0 does not answer: {error}")
        return False
    finally:
        connection.close()
    if answer.status != 200:
        say(told)
    return answer.status == 200


if __name__ == "__main__":
    sys.exit(not probe(sys.argv[1]))
