"""Keys and their states. No key is in clear here: the store has them wrapped."""

from __future__ import annotations

from typing import Any

from kmp_smsd.domain.shown import NO_PLATFORM
from kmp_smsd.storage.bindings import close_holds, end_bindings
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.due import DUE
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.waking import wake_key

# pre-active until the first binding, active from then on
_SHOWN_STATE = """iif(k.state <> 'live', k.state, iif(EXISTS (
  SELECT 1 FROM bindings b WHERE b.key = k.id AND b.state = 'bound' UNION ALL
  SELECT 1 FROM bindings b WHERE b.key = k.id AND b.state <> 'bound'), 'active', 'pre-active'))"""


class Keys:
    """What people wish of keys: suspend, resume, revoke, destroy."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def suspend(self, key_id: str, reason: str | None) -> None:
        """No new binding from now on; nothing is withdrawn."""
        with self._database.transaction() as connection:
            _set_state(connection, key_id, "suspended", ("live",), reason)

    def resume(self, key_id: str, now: int) -> None:
        """May be bound again; deliveries and requests that waited for it are tried at once."""
        with self._database.transaction() as connection:
            key = _set_state(connection, key_id, "live", ("suspended",), None)
            _retry_deliveries(connection, key, now)
            wake_key(connection, key)

    def revoke(self, key_id: str, reason: str | None, now: int, *, compromised: bool) -> int:
        """End the key for good and withdraw it where it is bound; how many bindings ended (0 or 1)."""
        with self._database.transaction() as connection:
            state = "compromised" if compromised else "deactivated"
            key = _set_state(connection, key_id, state, ("live", "suspended", "deactivated"), reason)
            close_holds(connection, now, key=key)
            return end_bindings(connection, f"key revoked ({state})", now, key=key)

    def destroy(self, key_id: str, now: int) -> None:
        """Delete the wrapped key. Copies stay in the files until `Erasing.clear`.

        Only where it is bound nowhere and no platform may still hold it: every outbox row of every MDN + app that it
        was ever bound to is confirmed at its wanted version.
        """
        with self._database.transaction() as connection:
            key = _set_state(connection, key_id, "destroyed", ("live", "suspended", "deactivated", "compromised"), None)
            if connection.execute("SELECT 1 FROM bindings WHERE key = ? AND state = 'bound'", (key,)).fetchone():
                raise NotPossible(f"key {key_id} is bound: revoke it first ('kmp-smsd keys revoke {key_id}')")
            unconfirmed = connection.execute(
                """SELECT s.mdn, o.app, o.platform FROM bindings b
                    JOIN outbox o ON o.subscriber = b.subscriber AND o.app = b.app
                    JOIN subscribers s ON s.number = o.subscriber
                    WHERE b.key = ? AND b.state <> 'bound'
                      AND (o.wanted_version <> o.confirmed_version OR o.key = b.key) LIMIT 1""",
                (key,),
            ).fetchone()
            if unconfirmed:
                mdn, app_id, platform = unconfirmed
                raise NotPossible(
                    f"key {key_id} may still be held: platform {platform or NO_PLATFORM} has not confirmed"
                    f" {mdn} {app_id} ('kmp-smsd outbox list')"
                )
            connection.execute("UPDATE keys SET nonce = NULL, ciphertext = NULL WHERE id = ?", (key,))
            connection.execute("UPDATE store SET erase_log = erase_log + 1")
            close_holds(connection, now, key=key)

    def get(self, key_id: str) -> dict[str, Any] | None:
        found = self._listing("k.key_id = ?", (key_id,), 1)
        return found[0] if found else None

    def listing(
        self, *, vendor: str | None = None, serial: str | None = None, after: str = "", limit: int
    ) -> list[dict[str, Any]]:
        """Keys in the order of their IDs, behind the key ID `after`; where `vendor` alone is given, as imported."""
        if serial is not None:
            return self._listing(
                "k.serial = ? AND (? IS NULL OR i.vendor = ?) AND k.key_id > ?", (serial, vendor, vendor, after), limit
            )
        if vendor is None:
            return self._listing("k.key_id > ?", (after,), limit)
        # Of the key IDs of millions, those of one vendor may be few. One import comes after another: so do their rows.
        return self._listing(
            "i.vendor = ? AND k.id > ifnull((SELECT id FROM keys WHERE key_id = ?), 0)",
            (vendor, after),
            limit,
            tables="imports i CROSS JOIN keys k ON k.import = i.id",
            order="i.id, k.id",
        )

    def _listing(
        self,
        condition: str,
        parameters: tuple[Any, ...],
        limit: int,
        *,
        tables: str = "keys k JOIN imports i ON i.id = k.import",
        order: str = "k.key_id",
    ) -> list[dict[str, Any]]:
        columns = (
            "key_id", "vendor", "serial", "app_id", "algorithm", "kcv", "state", "reason", "valid_from", "valid_until",
            "import", "imported_at", "mdn", "bound_app_id",
        )  # fmt: skip
        return self._database.records(
            columns,
            f"""SELECT k.key_id, i.vendor, k.serial, k.app, k.algorithm, k.kcv, {_SHOWN_STATE}, k.reason,
                      k.valid_from, k.valid_until, i.id, i.live_at, s.mdn, b.app
                    FROM {tables}
                    LEFT JOIN bindings b ON b.key = k.id AND b.state = 'bound'
                    LEFT JOIN subscribers s ON s.number = b.subscriber
                    WHERE i.live_at IS NOT NULL AND {condition} ORDER BY {order} LIMIT ?""",
            (*parameters, limit),
        )


def _set_state(connection: Any, key_id: str, state: str, allowed: tuple[str, ...], reason: str | None) -> int:
    found = connection.execute(
        """SELECT k.id, k.state, k.reason FROM keys k JOIN imports i ON i.id = k.import
           WHERE k.key_id = ? AND i.live_at IS NOT NULL""",
        (key_id,),
    ).fetchone()
    if found is None:
        raise NotPossible(f"no key {key_id}: see 'kmp-smsd keys list'")
    key, present, past_reason = found
    if present == state:
        done = "not suspended: there is nothing to resume" if state == "live" else f"{state} already"
        raise NotPossible(f"key {key_id} is {done}")
    if present not in allowed:
        raise NotPossible(f"key {key_id} is {present} and cannot become {'active again' if state == 'live' else state}")
    if state == "destroyed":
        reason = past_reason  # why it was revoked
    connection.execute("UPDATE keys SET state = ?, reason = ? WHERE id = ?", (state, reason, key))
    return int(key)


def _retry_deliveries(connection: Any, key: int, now: int) -> None:
    connection.execute(
        f"""UPDATE outbox SET try_at = ?, attempts = 0
            WHERE (subscriber, app) = (SELECT subscriber, app FROM bindings WHERE key = ? AND state = 'bound')
              AND {DUE}""",
        (now, key),
    )
