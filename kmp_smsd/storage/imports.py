"""Vendors' imports: staged in steps, live at once, gone when abandoned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kmp_smsd.domain.key import StagedKey
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.locks import ImportLock
from kmp_smsd.storage.room import leaving_room
from kmp_smsd.storage.rows import STEP_ROWS, write_rows


class Imports:
    """Staged keys lie in `keys` under their import's number and exist once it is live; every read of a key joins it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock: ImportLock | None = None
        self._fingerprint = ""
        self._last: int | None = None

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_master_key(self, fingerprint: str) -> None:
        """Raise NotPossible where this database's keys are sealed to another master key."""
        ((known,),) = self._database.rows("SELECT master_key FROM store")
        if known is not None and known != fingerprint:
            raise NotPossible(
                f"the keys in this database are sealed to master key {known}, the configured public half is"
                f" {fingerprint}: correct [secrets] public_key"
            )

    def vendors(self) -> list[str]:
        """Whose keys were imported."""
        rows = self._database.rows("SELECT DISTINCT vendor FROM imports WHERE live_at IS NOT NULL ORDER BY vendor")
        return [vendor for (vendor,) in rows]

    def begin(self, *, vendor: str, file_name: str, data_key_id: str, sealed: bytes, fingerprint: str, now: int) -> int:
        """Begin an import at `now`, Unix milliseconds, and remove abandoned ones; its number.

        Raises NotPossible where `fingerprint` is not that of the database's master key, and StoreBusy while another
        import is under way.
        """
        self.close()
        self._lock = ImportLock(self._database.path)
        try:
            return self._begin(vendor, file_name, data_key_id, sealed, fingerprint, now)
        except BaseException:  # an interrupt too: the lock must not outlive the attempt
            self.close()
            raise

    def _begin(self, vendor: str, file_name: str, data_key_id: str, sealed: bytes, fingerprint: str, now: int) -> int:
        self.check_master_key(fingerprint)
        self._fingerprint = fingerprint
        for (abandoned,) in self._database.rows("SELECT id FROM imports WHERE live_at IS NULL"):
            self._delete(abandoned)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO data_keys (id, sealed, created_at) VALUES (?, ?, ?)", (data_key_id, sealed, now)
            )
            (number,) = connection.execute(
                """INSERT INTO imports (vendor, file_name, digest, data_key, started_at) VALUES (?, ?, '', ?, ?)
                   RETURNING id""",  # the digest is known when all of the file has been read
                (vendor, file_name, data_key_id, now),
            ).fetchone()
            self._last = number
        return int(number)

    def stage(self, import_id: int, rows: Sequence[StagedKey]) -> list[str]:
        """Stage at most STEP_ROWS keys; returns the key IDs that other imports have, whose keys are left out.

        Of keys with one ID in this import, the first is staged: whoever read the file knows of the others.
        Raises NoRoom where the volume would have too little left.
        """
        with leaving_room(self._database) as connection:
            before = connection.total_changes
            write_rows(
                connection,
                """INSERT INTO keys
                     (import, key_id, serial, app, algorithm, kcv, nonce, ciphertext, valid_from, valid_until)
                   VALUES {rows} ON CONFLICT (key_id) DO NOTHING""",
                [(import_id, *row) for row in rows],
            )
            staged = connection.total_changes - before
            connection.execute("UPDATE imports SET keys = keys + ? WHERE id = ?", (staged, import_id))
            if staged == len(rows):
                return []
            return [
                key_id
                for (key_id,) in connection.execute(
                    """SELECT k.key_id FROM json_each(?) j CROSS JOIN keys k ON k.key_id = j.value
                       WHERE k.import <> ?""",
                    (json.dumps([row.key_id for row in rows]), import_id),
                )
            ]

    def publish(self, import_id: int, digest: str, now: int) -> None:
        """Make the staged keys exist, all at once, at `now`. The first ones tie the database to their master key.

        `digest` is the SHA-256 of their file, in hexadecimal.
        """
        with self._database.transaction() as connection:
            connection.execute("UPDATE store SET master_key = ? WHERE master_key IS NULL", (self._fingerprint,))
            connection.execute("UPDATE imports SET live_at = ?, digest = ? WHERE id = ?", (now, digest, import_id))
        self.close()

    def is_live(self, import_id: int) -> bool:
        """Whether the keys of the import exist."""
        return bool(self._database.rows("SELECT 1 FROM imports WHERE id = ? AND live_at IS NOT NULL", (import_id,)))

    @property
    def last_is_live(self) -> bool:
        """Whether the keys of the import that was begun last exist."""
        return self._last is not None and self.is_live(self._last)

    def discard(self, import_id: int) -> None:
        """Delete what was staged; a published import stays. Raises StoreUnavailable: then the next import does that."""
        try:
            if not self.is_live(import_id):
                self._delete(import_id)
        finally:
            self.close()

    def listing(self, *, after: int = 0, limit: int) -> list[dict[str, Any]]:
        """Imports in their order, from `after` on, staged ones too."""
        columns = ("import", "vendor", "file", "digest", "keys", "started_at", "imported_at")
        return self._database.records(
            columns,
            """SELECT id, vendor, file_name, nullif(digest, ''), keys, started_at, live_at
               FROM imports WHERE id > ? ORDER BY id LIMIT ?""",
            (after, limit),
        )

    def _delete(self, import_id: int) -> None:
        deleted = STEP_ROWS
        while deleted == STEP_ROWS:
            # Staging left all of it, so that there is room for this.
            with self._database.unreferenced(), leaving_room(self._database, 0.5) as connection:
                deleted = connection.execute(
                    "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE import = ? LIMIT ?)",
                    (import_id, STEP_ROWS),
                ).rowcount
        with self._database.transaction() as connection:
            found = connection.execute("DELETE FROM imports WHERE id = ? RETURNING data_key", (import_id,)).fetchone()
            if found:
                connection.execute("DELETE FROM data_keys WHERE id = ?", found)
