"""To a receiver behind TLS: TCP, handshake, server key. Nothing is sent before the server key is right."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.tcp import connect
from kmp_smsd.channels.tls_connection import TlsConnection, tls_reason
from kmp_smsd.channels.tls_options import ServerKey, TlsOptions
from kmp_smsd.channels.tls_stream import TlsStream


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What we show of ourselves: our certificate, of whose public key this is the fingerprint, and its last moment."""

    context: ssl.SSLContext
    fingerprint: str
    valid_until: datetime


def load_identity(secret: bytes) -> TlsIdentity:
    """The certificate and the private key in `secret`. Raises ChannelDown; its text tells nothing of the key."""
    try:
        certificate, *_ = x509.load_pem_x509_certificates(secret)
        fingerprint = server_key(certificate).fingerprint
    except (ValueError, UnsupportedAlgorithm):
        raise ChannelDown("the TLS identity has no certificate in PEM: it stands beside its private key") from None
    try:
        load_pem_private_key(secret, password=None)
    except TypeError:
        raise ChannelDown("the TLS identity is encrypted; a daemon has nobody to ask for its passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ChannelDown("the TLS identity has no private key in PEM beside its certificate") from None
    context = client_context()
    try:
        _load_chain(context, secret)
    except ssl.SSLError as error:
        raise ChannelDown(f"the TLS identity cannot be used: {tls_reason(error)}") from None
    return TlsIdentity(context, fingerprint, certificate.not_valid_after_utc)


def client_context() -> ssl.SSLContext:
    """TLS 1.3, whoever the server is: its key is compared with the pinned ones, and no certificate is believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # a connection that was cut has not ended
    return context


def _load_chain(context: ssl.SSLContext, secret: bytes) -> None:
    """The ssl module reads keys from files alone: this one is in memory, has no name, and is gone at once."""
    descriptor = os.memfd_create("tls-identity")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(secret + b"\n")
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")  # else it asks at the terminal
    finally:
        os.close(descriptor)


def server_key(certificate: x509.Certificate, host: Host | None = None) -> ServerKey:
    """What pins the key of `certificate`. Raises ValueError or UnsupportedAlgorithm."""
    return ServerKey.of(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), host)


@contextmanager
def negotiated(
    host: Host, context: ssl.SSLContext, within_s: float, cancel: Cancel | None = None
) -> Iterator[tuple[TlsConnection, x509.Certificate]]:
    """A connection to `host` after its handshake, and the certificate that it showed, which is not yet judged.

    Leave the context once connected: `cancel` ends with it. Raises ChannelDown, then the connection is closed.
    """
    cancel = cancel or Cancel()
    deadline = time.monotonic() + within_s
    connected = connect(host, deadline, cancel)
    try:
        with cancel.ends(connected):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # a burst is complete: its end waits
            connection = TlsConnection(connected, context, host.name)
            try:
                connection.handshake(deadline)
                yield connection, x509.load_der_x509_certificate(connection.certificate)
            except BaseException:  # an interrupt too: no connection may be left open
                connection.close()
                raise
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
def connected(
    options: TlsOptions, identity: TlsIdentity, host: Host, _name: str, cancel: Cancel
) -> Iterator[TlsStream]:
    """The receiver on `host`; leave the context once it has answered. Raises ChannelDown."""
    with negotiated(host, identity.context, options.connect_within_s, cancel) as (connection, certificate):
        shown = server_key(certificate)
        if all(shown.digest != pinned.digest for pinned in options.pinned_for(host)):
            raise ChannelDown(
                f"{host}: the server key is not one of server_keys: it is {shown.fingerprint}. "
                "Either the host was set up anew or somebody stands in between; nothing was sent"
            )
        yield TlsStream(host, connection, shown.fingerprint, identity.fingerprint, options.max_line_octets)
