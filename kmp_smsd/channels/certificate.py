"""The public key in a certificate, octet for octet as it stands there: what a pin is the digest of.

x509 would write some keys in another form than they have, and refuses certificates for what is not asked here.
"""

from __future__ import annotations

from typing import Annotated

from cryptography.hazmat import asn1


@asn1.sequence
class _PublicKey:
    algorithm: asn1.TLV
    key: asn1.BitString


@asn1.sequence
class _Contents:
    version: Annotated[int | None, asn1.Explicit(0)]
    serial_number: int
    signature: asn1.TLV
    issuer: asn1.TLV
    validity: asn1.TLV
    subject: asn1.TLV
    public_key: _PublicKey
    issuer_id: Annotated[asn1.BitString | None, asn1.Implicit(1)]
    subject_id: Annotated[asn1.BitString | None, asn1.Implicit(2)]
    extensions: Annotated[list[asn1.TLV] | None, asn1.Explicit(3)]


@asn1.sequence
class _Certificate:
    """RFC 5280, section 4.1."""

    contents: _Contents
    algorithm: asn1.TLV
    signature: asn1.BitString


def public_key_of(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of `certificate`, both in DER. Raises ValueError."""
    return asn1.encode_der(asn1.decode_der(_Certificate, certificate).contents.public_key)
