"""A listening socket: opened, shared evenly by several processes, and left without a reset.

Of several processes whoever wakes first takes what waits, so that one of them can end up with all
the connections that clients keep open. Here each knows how many the others hold, and leaves a
connection to whoever holds fewer; if none of them takes it within a few milliseconds, it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from feastrain.errors import FeastrainError

if TYPE_CHECKING:
    from collections.abc import MutableSequence

    from feastrain.settings import Settings

BACKLOG = 2048
"""Connections that may wait to be accepted."""
PATIENCE_SECONDS = 0.005
PAUSE_SECONDS = 0.0002
ABSENT = 1 << 30
"""What stands for a process that does not accept."""
_SO_ATTACH_FILTER = 26
_NO_SYN = struct.pack(
    "HBBIHBBIHBBIHBBI", *(0x30, 0, 0, 13), *(0x45, 0, 1, 2), *(6, 0, 0, 0), *(6, 0, 0, 2**32 - 1)
)
"""Classic BPF: load the flags of the TCP header, and drop the packet if it opens a connection."""


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens at the host and port of `settings`.

    Raises:
        FeastrainError: the port is taken, or the address is not one of this machine.
    """
    where = f"port {settings.port} on {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        message = f"{where} is not an address of this machine ({error.strerror}): mend --host"
        raise FeastrainError(message) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"{where} is in use by another program: choose another with --port"
        else:
            message = f"{where} cannot be listened on ({error.strerror}): mend --host or --port"
        raise FeastrainError(message) from error
    return listener


def turn_away(listener: socket.socket) -> None:
    """Let no further connection be opened; those that wait to be accepted, or nearly, go on.

    A client that comes now hears nothing until the socket is closed, and then that it is refused.
    Only Linux can; elsewhere a connection opened at the very moment of closing is reset.
    """
    program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    pointer = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


def address_of(listener: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class SharedListener(socket.socket):
    """A listener as one of several processes has it."""

    def __init__(self, fileno: int, held: MutableSequence[int], place: int) -> None:
        """Take a socket over.

        Args:
            fileno: a listening socket, which is this object's from now on.
            held: shared by the processes: how many connections each holds.
            place: this process's among them.
        """
        super().__init__(fileno=fileno)
        self._held = held
        self._place = place
        self._since = self._last = 0.0

    def holds(self, connections: int) -> None:
        """Say how many connections this process holds."""
        self._held[self._place] = connections

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection that waits.

        Raises:
            BlockingIOError: none waits, or another process should have it.
        """
        if self._held[self._place] > min(self._held) and self._waits():
            time.sleep(PAUSE_SECONDS)
            raise BlockingIOError
        accepted = super().accept()
        self._held[self._place] += 1
        self._last = 0.0
        return accepted

    def listen(self, _: int = BACKLOG, /) -> None:
        """Keep the queue as long as it is: a server asks for one as short as its appetite."""
        super().listen(BACKLOG)

    def _waits(self) -> bool:
        """Tell whether to leave the connection to others for a little longer."""
        now = time.monotonic()
        if now - self._last > PATIENCE_SECONDS:
            self._since = now  # another connection than the one that was left last
        self._last = now
        return now - self._since < PATIENCE_SECONDS
