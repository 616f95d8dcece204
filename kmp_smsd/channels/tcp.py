"""To a host's TCP port."""

from __future__ import annotations

import socket
import time

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown


def connect(host: Host, deadline: float, cancel: Cancel) -> socket.socket:
    """A TCP connection to the first address of `host` that takes one, until `deadline` (monotonic seconds).

    Each address gets its share of the time that is left: one that never answers leaves some to those behind it.
    Looking up the name cannot be cancelled. Raises ChannelDown.
    """
    try:
        return _connect(host, deadline, cancel)
    except OSError as error:
        why = "connecting was cancelled" if cancel.requested else error.strerror or error
        raise ChannelDown(f"{host}: {why}") from None


def _connect(host: Host, deadline: float, cancel: Cancel) -> socket.socket:
    fault = OSError("no time is left")
    addresses = socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        remaining = deadline - time.monotonic()
        if remaining <= 0 or cancel.requested:
            break
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(remaining / (len(addresses) - tried))
            with cancel.ends(connection):
                connection.connect(address)
        except OSError as error:
            connection.close()
            fault = error
        else:
            return connection
    raise fault
