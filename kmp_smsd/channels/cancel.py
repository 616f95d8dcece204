"""How another thread ends an attempt to connect: at a request, or when its time is over."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
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


@contextmanager
def closing_at(deadline: float, close: Callable[[], object]) -> Iterator[None]:
    """Calls `close` at `deadline` (monotonic seconds), in another thread, unless the context has been left."""
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # not connected, or not any more
        connection.shutdown(socket.SHUT_RDWR)
