"""A vendor whose keys are really wrapped and sealed, and what terminals then make due at a platform."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from kmp_smsd.domain.key import StagedKey
from kmp_smsd.service.preparing import DataKeys
from kmp_smsd.storage import Store
from kmp_smsd.storage.outbox import WrappedKey
from kmp_smsd.vault import master_key
from kmp_smsd.vault.algorithms import kcv
from kmp_smsd.vault.data_key import DataKey
from kmp_smsd.vault.master_key import MasterKey, PublicKey
from tests.storage.stock import NOW, register, sync


class Vendor:
    """One import: a data key of its own, sealed to a master key of its own."""

    def __init__(self) -> None:
        self.private, self.public = master_key.create()
        self.master_key = MasterKey.parse(self.private, "the master key")
        self.public_key = PublicKey(base64.urlsafe_b64decode(self.public.split()[2]))
        self.data_key = DataKey.new()

    def sealed(self, data_key_ids: Any) -> dict[str, bytes]:
        """What the store says about data keys."""
        return {one: self.public_key.seal(self.data_key) for one in data_key_ids if one == self.data_key.id}

    def data_keys(self) -> DataKeys:
        return DataKeys(self.master_key)

    def wrap(self, key_id: str, app_id: str | None = None, **changed: Any) -> WrappedKey:
        """A key as the store has it, with `changed` by somebody who can write there."""
        wrapped = self.data_key.wrap(clear(key_id), key_id, "aes", app_id)
        values = {
            "key_id": key_id,
            "algorithm": "aes",
            "kcv": kcv("aes", clear(key_id)),
            "app_id": app_id,
            "state": "live",
            "data_key_id": self.data_key.id,
            "nonce": wrapped.nonce,
            "ciphertext": wrapped.ciphertext,
        }
        return WrappedKey(**{**values, **changed})

    def import_into(self, store: Store, *keys: tuple[str, str | None]) -> None:
        """Import (key ID, reserved app) with wrapped keys."""
        number = store.imports.begin(
            vendor="acme",
            file_name="keys.csv",
            data_key_id=self.data_key.id,
            sealed=self.public_key.seal(self.data_key),
            fingerprint=self.public_key.fingerprint,
            now=NOW,
        )
        staged = []
        for key_id, app_id in keys:
            key = self.wrap(key_id, app_id)
            assert key.nonce is not None
            assert key.ciphertext is not None
            staged.append(
                StagedKey(key_id, None, app_id, key.algorithm, key.kcv, key.nonce, key.ciphertext, None, None)
            )
        assert store.imports.stage(number, staged) == []
        store.imports.publish(number, "00" * 32, NOW)


def clear(key_id: str) -> bytes:
    """The key of this ID."""
    return hashlib.sha256(key_id.encode()).digest()[:16]


def mdn(number: int) -> str:
    return f"8613{number:09d}"


def make_due(store: Store, *numbers: int, app_id: str = "meter", now: int = NOW) -> None:
    """Let the terminals of these numbers report their keys: KEY-1 at mdn(1), and so on; the first is due first."""
    for number in numbers:
        register(store, mdn(number), app_id, now=now)
        store.settle([sync(mdn(number), f"KEY-{number}", received_at=now)], now)
