"""Apps over fakes that a test serves from processes of their own; a worker imports them by name."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from fakes import fake_forecaster
from feastrain.errors import DataError, FeastrainError
from feastrain.serving import server, supervisor
from feastrain.serving.api import create_app, listen, serve
from feastrain.settings import Settings, load_settings
from feastrain.stores.online_rows import OnlineRows

LEVELS: dict[tuple[object, ...], float] = {(1, "b"): 100.0, (1, "c"): 200.0}


def serve_fakes(
    read_seconds: float,
    settings: Settings,
    listener: socket.socket,
    started: Callable[[], None] | None = None,
) -> None:
    """Serve fakes whose source takes so long to read."""
    forecaster, source, history = fake_forecaster(LEVELS)
    read = source.read

    def slow(series: pa.Table) -> OnlineRows:
        time.sleep(read_seconds)
        return read(series)

    source.read = slow  # type: ignore[method-assign]
    app = create_app(forecaster, history, settings)

    @app.get("/pid")
    async def pid() -> dict[str, int]:
        return {"pid": os.getpid()}

    serve(app, settings, listener, started)


def cannot_serve(*_: Any) -> None:
    """Fail as a damaged bundle does."""
    message = "the bundle is damaged: train it again"
    raise DataError(message)


def main() -> None:
    """Serve at a port, as `feastrain serve` does, by one process or several."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--read-seconds", type=float, default=0.0)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--hung-seconds", type=float, default=supervisor.HUNG_SECONDS)
    parser.add_argument("--last-words", type=float, default=server.LAST_WORDS_SECONDS)
    asked = parser.parse_args()
    supervisor.HUNG_SECONDS = asked.hung_seconds
    server.LAST_WORDS_SECONDS = asked.last_words
    settings = load_settings().model_copy(update={"port": asked.port})
    work = cannot_serve if asked.broken else partial(serve_fakes, asked.read_seconds)
    try:
        with listen(settings) as listener:
            if settings.serve_workers == 1:
                work(settings, listener)
            else:
                supervisor.supervise(work, settings, listener)
    except FeastrainError as error:
        print(error, flush=True)  # noqa: T201
        sys.exit(error.exit_code)
    print("returned", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
