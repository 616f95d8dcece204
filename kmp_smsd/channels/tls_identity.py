"""What a platform behind TLS knows us by: a certificate of our own making, and its private key."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from kmp_smsd.channels.certificate import public_key_of
from kmp_smsd.channels.protocol import UnfitIdentity
from kmp_smsd.channels.tls_connection import tls_reason
from kmp_smsd.channels.tls_options import ServerKey

_WHY_NOT_LOADED = {
    "KEY_VALUES_MISMATCH": "its first certificate is not that of its private key",
    None: "each of its BEGIN and END lines has to be a line of its own",  # OpenSSL finds nothing where we did
}


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Our certificate and its private key, which `context` has; `fingerprint` is that of the public key."""

    context: ssl.SSLContext
    fingerprint: str
    valid_until: datetime


def load_identity(secret: bytes) -> TlsIdentity:
    """The certificate and the private key in `secret`. Raises UnfitIdentity."""
    try:
        certificate, *_ = x509.load_pem_x509_certificates(secret)
        fingerprint = ServerKey.of(public_key_of(certificate.public_bytes(Encoding.DER))).fingerprint
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise UnfitIdentity("the TLS identity has no certificate in PEM: it stands beside its private key") from None
    try:
        load_pem_private_key(secret, password=None)
    except TypeError:
        raise UnfitIdentity("the TLS identity is encrypted; a daemon has nobody to ask for its passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnfitIdentity("the TLS identity has no private key in PEM beside its certificate") from None
    context = client_context()
    try:
        _load_chain(context, secret)
    except ssl.SSLError as error:
        why = _WHY_NOT_LOADED.get(error.reason) or tls_reason(error)
        raise UnfitIdentity(f"the TLS identity cannot be used: {why}") from None
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
