"""From an outbox row to a delivery: the only place where a key is in clear, and what is checked before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence

from kmp_smsd.channels.protocol import Bind, Delivery, Withdraw
from kmp_smsd.storage.outbox import OutboxRow, WrappedKey
from kmp_smsd.vault.algorithms import kcv
from kmp_smsd.vault.data_key import AlteredKey, DataKey, Wrapped
from kmp_smsd.vault.master_key import MasterKey, WrongMasterKey

SealedDataKeys = Callable[[Sequence[str]], dict[str, bytes]]


class DataKeys:
    """The opened data keys. One per import, so few; shared by all worker threads."""

    def __init__(self, master_key: MasterKey) -> None:
        self._master_key = master_key
        self._opened: dict[str, DataKey] = {}
        self._lock = threading.Lock()

    def get(self, data_key_id: str, sealed: SealedDataKeys) -> DataKey:
        """The data key of this ID; raises WrongMasterKey where ours does not open it, KeyError where there is none."""
        with self._lock:
            if data_key_id not in self._opened:
                self._opened[data_key_id] = self._master_key.open(data_key_id, sealed([data_key_id])[data_key_id])
            return self._opened[data_key_id]


class Unsendable(Exception):
    """This row must not be sent; the text says why, without a key."""


class Preparer:
    """Makes deliveries for one platform."""

    def __init__(self, platform: str, apps: Collection[str], data_keys: DataKeys) -> None:
        self._platform = platform
        self._apps = frozenset(apps)
        self._data_keys = data_keys

    def prepare(self, row: OutboxRow, sealed: SealedDataKeys) -> Delivery:
        """Return what the platform is told; raises Unsendable.

        Whoever stole intake can write the database. What holds against that is checked here: the app is named in this
        platform's own file, and the reservation is authenticated together with the key.
        """
        if row.key is None:
            return Withdraw(mdn=row.mdn, app_id=row.app_id, version=row.version)
        if row.app_id not in self._apps:
            raise Unsendable(f"app {row.app_id} is not among the apps of platform {self._platform}")
        if row.key.state != "live":
            raise Unsendable(f"key {row.key.key_id} is {row.key.state}")
        if row.key.app_id is not None and row.key.app_id != row.app_id:
            raise Unsendable(f"key {row.key.key_id} is reserved for app {row.key.app_id}")
        key = self._unwrap(row.key, sealed)
        if kcv(row.key.algorithm, key) != row.key.kcv:
            raise Unsendable(f"the KCV of key {row.key.key_id} in the database is not the key's")
        return Bind(
            mdn=row.mdn,
            app_id=row.app_id,
            version=row.version,
            key_id=row.key.key_id,
            algorithm=row.key.algorithm,
            kcv=row.key.kcv,
            key=key,
        )

    def _unwrap(self, key: WrappedKey, sealed: SealedDataKeys) -> bytes:
        if key.nonce is None or key.ciphertext is None:
            raise Unsendable(f"key {key.key_id} is destroyed")
        try:
            data_key = self._data_keys.get(key.data_key_id, sealed)
            return data_key.unwrap(Wrapped(key.nonce, key.ciphertext), key.key_id, key.algorithm, key.app_id)
        except (WrongMasterKey, AlteredKey) as error:
            raise Unsendable(str(error)) from None
        except KeyError:
            raise Unsendable(f"the data key {key.data_key_id} of key {key.key_id} is gone: restore a backup") from None
