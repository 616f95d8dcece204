"""A data key wraps the keys of one import. It is in clear only in memory, while they are wrapped or unwrapped."""

from __future__ import annotations

import os
import secrets
from typing import Final, NamedTuple, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATA_KEY_OCTETS: Final = 32
NONCE_OCTETS: Final = 12


class AlteredKey(Exception):
    """The wrapped key is not what was wrapped under these IDs: altered, or moved to another row. Deliver nothing."""


class Wrapped(NamedTuple):
    """A wrapped key: a nonce of 12 octets and a ciphertext of the key's length and a tag of 16."""

    nonce: bytes
    ciphertext: bytes


@final
class DataKey:
    """A key of AES-256-GCM and its ID. `repr` shows the ID only; the octets are for PublicKey.seal.

    Nonces are random: up to 2^32 keys may be wrapped under one data key (NIST SP 800-38D, section 8.3).
    """

    __slots__ = ("_aead", "_prefix", "id", "octets")

    def __init__(self, data_key_id: str, octets: bytes) -> None:
        """Raises ValueError unless `octets` are 32."""
        if len(octets) != DATA_KEY_OCTETS:
            raise ValueError(f"a data key has {DATA_KEY_OCTETS} octets, not {len(octets)}")
        self.id = data_key_id
        self.octets = octets
        self._aead = AESGCM(octets)
        self._prefix = f"{len(data_key_id)}:{data_key_id}"

    @classmethod
    def new(cls) -> DataKey:
        """A fresh data key under a fresh random ID of 32 hexadecimal digits."""
        return cls(secrets.token_hex(16), secrets.token_bytes(DATA_KEY_OCTETS))

    def wrap(self, key: bytes, key_id: str, algorithm: str, reserved_app: str | None) -> Wrapped:
        """Encrypt `key`, authenticating its ID, its algorithm and the app that it is reserved for (None for no app)."""
        nonce = os.urandom(NONCE_OCTETS)
        return Wrapped(nonce, self._aead.encrypt(nonce, key, self._associated(key_id, algorithm, reserved_app)))

    def unwrap(self, wrapped: Wrapped, key_id: str, algorithm: str, reserved_app: str | None) -> bytes:
        """The key in clear. Keep it for as short as possible. Raises AlteredKey unless everything is as wrapped."""
        try:
            return self._aead.decrypt(*wrapped, self._associated(key_id, algorithm, reserved_app))
        except (InvalidTag, ValueError):  # ValueError: a nonce or ciphertext of an impossible length
            raise AlteredKey(f"key {key_id} is not as it was imported; import it again under another key ID") from None

    def _associated(self, key_id: str, algorithm: str, reserved_app: str | None) -> bytes:
        app = reserved_app or ""
        # Each text behind its length, so that joined they can be read in one way only.
        return f"{self._prefix}{len(key_id)}:{key_id}{len(algorithm)}:{algorithm}{len(app)}:{app}".encode()

    def __repr__(self) -> str:
        return f"<DataKey {self.id}>"
