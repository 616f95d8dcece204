"""The master key: an HPKE key pair (RFC 9180) of ML-KEM-768 with X25519, HKDF-SHA256 and AES-256-GCM.

Whoever imports needs the public half, only dispatch needs the private one. Each half is a file of one line:

    kmp-smsd-master-key-public-v1 FINGERPRINT BASE64URL

The fingerprint is the public half's in both, so that people can match the two and a damaged file is noticed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from pathlib import Path
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from kmp_smsd.vault.data_key import DATA_KEY_OCTETS, DataKey

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_SEED_OCTETS: Final = 64
_MLKEM_PUBLIC_OCTETS: Final = 1184
_X25519_OCTETS: Final = 32
_PRIVATE_OCTETS: Final = _MLKEM_SEED_OCTETS + _X25519_OCTETS
_PUBLIC_OCTETS: Final = _MLKEM_PUBLIC_OCTETS + _X25519_OCTETS
_FINGERPRINT_DIGITS: Final = 32
_FILE_OCTETS: Final = 4096  # more than either half needs

_PREFIX: Final = "kmp-smsd-master-key-"
_PRIVATE: Final = "kmp-smsd-master-key-private-v1"
_PUBLIC: Final = "kmp-smsd-master-key-public-v1"


class WrongMasterKey(Exception):
    """This private half did not seal that data key: it is not this database's master key. Exit with 77."""


class MasterKeyFileFault(ValueError):
    """The file does not hold the half that is needed. The text says what it holds instead, never its octets."""


@final
class PublicKey:
    """The public half: seals data keys. `fingerprint` is 32 digits of SHA-256 in hexadecimal."""

    __slots__ = ("_key", "fingerprint")

    def __init__(self, octets: bytes) -> None:
        """`octets`: 1,184 of ML-KEM-768, then 32 of X25519. Raises ValueError where they are no public key."""
        mlkem, x25519 = octets[:_MLKEM_PUBLIC_OCTETS], octets[_MLKEM_PUBLIC_OCTETS:]
        self.fingerprint = hashlib.sha256(octets).hexdigest()[:_FINGERPRINT_DIGITS]
        self._key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(mlkem), X25519PublicKey.from_public_bytes(x25519)
        )

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """Read the public half. Raises MasterKeyFileFault and OSError."""
        fingerprint, octets = _parse(_head(path), str(path), _PUBLIC, _PUBLIC_OCTETS)
        try:
            key = cls(octets)
        except ValueError:
            raise _damaged(str(path)) from None
        if key.fingerprint != fingerprint:
            raise _damaged(str(path))
        return key

    def seal(self, data_key: DataKey) -> bytes:
        """Encrypt a data key so that only the private half can open it, under its own ID: 1,168 octets."""
        return _SUITE.encrypt(data_key.octets, self._key, _info(data_key.id))

    def __repr__(self) -> str:
        return f"<PublicKey {self.fingerprint}>"


@final
class MasterKey:
    """The private half: opens data keys. `fingerprint` is that of the public half; `repr` shows nothing else."""

    __slots__ = ("_key", "fingerprint")

    def __init__(self, octets: bytes) -> None:
        """`octets`: 64 of ML-KEM seed, then 32 of X25519. Raises ValueError where they are no private key."""
        mlkem = MLKEM768PrivateKey.from_seed_bytes(octets[:_MLKEM_SEED_OCTETS])
        x25519 = X25519PrivateKey.from_private_bytes(octets[_MLKEM_SEED_OCTETS:])
        self.fingerprint = PublicKey(_public_octets(mlkem, x25519)).fingerprint
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)

    @classmethod
    def load(cls, path: Path) -> MasterKey:
        """Read the private half. Raises MasterKeyFileFault and OSError."""
        return cls.parse(_head(path), str(path))

    @classmethod
    def parse(cls, content: bytes, source: str) -> MasterKey:
        """The private half from what a file or credential holds. Raises MasterKeyFileFault, which names `source`."""
        fingerprint, octets = _parse(content, source, _PRIVATE, _PRIVATE_OCTETS)
        key = cls(octets)
        if key.fingerprint != fingerprint:
            raise _damaged(source)
        return key

    def open(self, data_key_id: str, sealed: bytes) -> DataKey:
        """Open a sealed data key. Raises WrongMasterKey where it was sealed to another half or under another ID."""
        try:
            octets = _SUITE.decrypt(sealed, self._key, _info(data_key_id))
        except InvalidTag:
            octets = b""
        if len(octets) != DATA_KEY_OCTETS:
            raise WrongMasterKey(f"data key {data_key_id} was not sealed to master key {self.fingerprint}")
        return DataKey(data_key_id, octets)

    def __repr__(self) -> str:
        return f"<MasterKey {self.fingerprint}>"


def create() -> tuple[bytes, bytes]:
    """A new master key: the private and the public half, each as its file holds it. See key_files for writing them."""
    seed, x25519_octets = secrets.token_bytes(_MLKEM_SEED_OCTETS), secrets.token_bytes(_X25519_OCTETS)
    public = _public_octets(
        MLKEM768PrivateKey.from_seed_bytes(seed), X25519PrivateKey.from_private_bytes(x25519_octets)
    )
    fingerprint = PublicKey(public).fingerprint
    return _armour(_PRIVATE, fingerprint, seed + x25519_octets), _armour(_PUBLIC, fingerprint, public)


def _public_octets(mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> bytes:
    return mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def _info(data_key_id: str) -> bytes:
    return b"kmp-smsd data key v1\0" + data_key_id.encode()


def _armour(kind: str, fingerprint: str, octets: bytes) -> bytes:
    return f"{kind} {fingerprint} {base64.urlsafe_b64encode(octets).decode('ascii')}\n".encode("ascii")


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_FILE_OCTETS)


def _parse(content: bytes, source: str, kind: str, size: int) -> tuple[str, bytes]:
    """The fingerprint and the octets in `content`, which must be of that kind and size."""
    words = content.decode("ascii", "replace").split()
    found = words[0] if words else ""
    if found != kind:
        raise MasterKeyFileFault(f"{source}: {_what_else(found, kind)}")
    if len(words) != 3:
        raise _damaged(source)
    try:
        octets = base64.b64decode(words[2], altchars=b"-_", validate=True)
    except binascii.Error:
        octets = b""
    if len(octets) != size:
        raise _damaged(source)
    return words[1], octets


def _what_else(found: str, needed: str) -> str:
    if found == _PUBLIC:
        return "this is the public half of a master key; the private half is needed here"
    if found == _PRIVATE:
        return (
            "this is the private half of a master key; the public half is needed here, "
            "and only dispatch may read the private one"
        )
    if found.startswith(_PREFIX):
        return f"this is a master key file of another version of kmp-smsd; this one reads {needed}"
    return (
        "this is not a master key; restore the file from its copy, or, where no key was imported yet, move it away and"
        " let `kmp-smsd master-key create` make one"
    )


def _damaged(source: str) -> MasterKeyFileFault:
    return MasterKeyFileFault(f"{source}: the master key in this file is damaged; restore the file from its copy")
