"""How another thread ends an attempt to connect."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Cancel:
    """Ends what is connecting, from any thread, for good: the attempt under way and those after it.

    What has been connected by then goes on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connecting: socket.socket | None = None
        self.requested = False

    def request(self) -> None:
        """Cancel; does not block."""
        with self._lock:
            self.requested = True
            if self._connecting is not None:
                _hang_up(self._connecting)

    @contextmanager
    def ends(self, connection: socket.socket) -> Iterator[None]:
        """Around all that is done to connect with `connection`: a request hangs it up, and every wait on it ends."""
        with self._lock:
            self._connecting = connection
            if self.requested:
                _hang_up(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connecting = None


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # not connected, or not any more
        connection.shutdown(socket.SHUT_RDWR)
