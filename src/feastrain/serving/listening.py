"""A listening socket: opened, shared evenly by several processes, and left without a reset.

Of several processes whoever wakes first takes what waits, so that one of them can end up with all
the connections that clients keep open. Here each knows how many the others hold, and leaves a
connection to whoever holds fewer; if none of them takes it in time, it does.
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
PATIENCE_SECONDS = 0.05
"""How long a connection is left to others: as long as a busy machine may take to run them."""
PAUSE_SECONDS = 0.0002
HEARD_SECONDS = 1.0
"""After this a process that says nothing counts as hung, and nothing is left to it."""
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


class Shares:
    """How many connections each of several processes holds, and when it last said so.

    It lies in memory that they share; each writes its own two numbers alone.
    """

    def __init__(self, numbers: MutableSequence[float], place: int) -> None:
        """Take the shared numbers, two for each process, and this process's place among them."""
        self._numbers = numbers
        self._count = len(numbers) // 2
        self._place = place

    def hold(self, connections: int) -> None:
        """Say how many connections this process holds now."""
        self._numbers[self._place] = connections
        self._numbers[self._count + self._place] = time.monotonic()

    def leave(self) -> None:
        """Say that this process accepts no more."""
        self._numbers[self._count + self._place] = 0.0

    @property
    def silent_seconds(self) -> float:
        """How long ago this process said anything."""
        return time.monotonic() - self._numbers[self._count + self._place]

    def one_more(self) -> None:
        """Count a connection that was accepted."""
        self._numbers[self._place] += 1

    def another_holds_fewer(self) -> bool:
        """Tell whether a process that was heard of lately holds fewer connections than this one."""
        lately = time.monotonic() - HEARD_SECONDS
        held, heard = self._numbers[: self._count], self._numbers[self._count :]
        mine = held[self._place]
        return any(one < mine and at > lately for one, at in zip(held, heard, strict=True))


class SharedListener(socket.socket):
    """A listener as one of several processes has it."""

    def __init__(self, fileno: int, shares: Shares) -> None:
        """Take over a listening socket, which is this object's from now on."""
        super().__init__(fileno=fileno)
        self.shares = shares
        self._since = self._last = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection that waits.

        Raises:
            BlockingIOError: none waits, or another process should have it.
        """
        if self.shares.another_holds_fewer() and self._waits():
            time.sleep(PAUSE_SECONDS)
            raise BlockingIOError
        accepted = super().accept()
        self.shares.one_more()
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
