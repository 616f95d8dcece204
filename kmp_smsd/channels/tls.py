"""To a receiver behind TLS: TCP, handshake, server key. Nothing is sent before the server key is right."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cryptography.exceptions import UnsupportedAlgorithm

from kmp_smsd.channels.cancel import Cancel, closing_at
from kmp_smsd.channels.certificate import public_key_of
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown, WrongKey
from kmp_smsd.channels.tcp import connect
from kmp_smsd.channels.tls_connection import TlsConnection, tls_reason
from kmp_smsd.channels.tls_identity import TlsIdentity
from kmp_smsd.channels.tls_options import ServerKey, TlsOptions
from kmp_smsd.channels.tls_stream import TlsStream


@contextmanager
def negotiated(
    host: Host, context: ssl.SSLContext, within_s: float, cancel: Cancel | None = None
) -> Iterator[tuple[TlsConnection, bytes]]:
    """A connection to `host` after its handshake, and its public key in DER, not yet judged; closed after `within_s`.

    Leave the context once connected: the time limit and `cancel` end with it. Raises ChannelDown, then the connection
    is closed.
    """
    cancel = cancel or Cancel()
    deadline = time.monotonic() + within_s
    tcp = connect(host, deadline, cancel)
    try:
        with ExitStack() as on_failure, cancel.ends(tcp):
            on_failure.callback(tcp.close)
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # a burst is complete: its end would wait
            connection = TlsConnection(tcp, context, host.name)
            on_failure.callback(connection.close)
            connection.handshake(deadline)
            with closing_at(deadline, connection.close):  # what follows has time limits of its own
                yield connection, public_key_of(connection.certificate)
            on_failure.pop_all()
    except (OSError, ValueError, UnsupportedAlgorithm, ChannelDown) as error:
        if cancel.requested:
            raise ChannelDown(f"{host}: connecting was cancelled") from None
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:  # whoever noticed it first
            raise ChannelDown(f"{host}: not connected within {within_s:g} s") from None
        if isinstance(error, ChannelDown):
            raise
        raise ChannelDown(f"{host}: {_why(error)}") from None


def _why(error: Exception) -> str:
    if not isinstance(error, OSError):
        return "its certificate is one that we cannot read"
    if isinstance(error, ssl.SSLError):
        return f"no handshake of TLS 1.3: {tls_reason(error)}"
    return error.strerror or "the host closed the connection"


@contextmanager
def connected(options: TlsOptions, identity: TlsIdentity, cancel: Cancel, host: Host) -> Iterator[TlsStream]:
    """The receiver on `host`; leave the context once it has answered. Raises ChannelDown."""
    with negotiated(host, identity.context, options.connect_within_s, cancel) as (connection, public_key):
        shown = ServerKey.of(public_key)
        if all(shown.digest != pinned.digest for pinned in options.pinned_for(host)):
            raise WrongKey(
                f"{host}: the server key is not one of server_keys: it is {shown.fingerprint}. "
                "Either the host was set up anew or somebody stands in between; nothing was sent"
            )
        yield TlsStream(host, connection, shown.fingerprint, identity, options.max_line_octets)
