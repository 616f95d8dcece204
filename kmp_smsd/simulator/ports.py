"""Loopback ports for servers that cannot be asked which one the kernel gave them."""

from __future__ import annotations

import socket
import weakref


class ReservedPort:
    """A loopback port that the kernel gives to nobody else while this is there, whether or not anybody listens.

    Who names it may listen there all the same, with SO_REUSEADDR, as servers do.
    """

    def __init__(self) -> None:
        reserved = socket.socket()
        weakref.finalize(self, reserved.close)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        self.number: int = reserved.getsockname()[1]
