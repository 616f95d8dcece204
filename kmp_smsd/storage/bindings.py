"""Bindings: which key is bound to which MDN and app, and how a binding ends without a message."""

from __future__ import annotations

from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.wanting import Want, want


def end_bindings(
    connection: Any,
    why: str,
    now: int,
    *,
    subscriber: int | None = None,
    app_id: str | None = None,
    key: int | None = None,
) -> int:
    """Withdraw the active binding of a place or of a key and want nothing there.

    Runs inside the caller's transaction; returns how many bindings ended.
    """
    condition, parameters = _of(subscriber, app_id, key)
    bound = "bindings WHERE state = 'bound' AND" if key is not None else "bound WHERE"
    ended = connection.execute(
        f"""UPDATE bindings SET state = 'withdrawn', ended_at = ?, why = ?
            WHERE id IN (SELECT id FROM {bound} {condition}) RETURNING subscriber, app""",
        (now, why, *parameters),
    ).fetchall()
    for subscriber, app in ended:
        # While its app moves to another platform, the key may still be wanted at the old one.
        wanted = connection.execute(
            "SELECT platform FROM outbox WHERE subscriber = ? AND app = ? AND key IS NOT NULL", (subscriber, app)
        ).fetchall()
        want(connection, [Want(subscriber, app, None, platform) for (platform,) in wanted], now)
    return len(ended)


def close_holds(
    connection: Any, now: int, *, subscriber: int | None = None, app_id: str | None = None, key: int | None = None
) -> None:
    """Close the holds of a place whose registration ended, or of a key that did; in the caller's transaction."""
    condition, parameters = _of(subscriber, app_id, key)
    connection.execute(
        f"""UPDATE holds SET state = 'closed', settled_at = ?, marked = 0
            WHERE {condition} AND state IN ('open', 'refused')""",
        (now, *parameters),
    )


def _of(subscriber: int | None, app_id: str | None, key: int | None) -> tuple[str, tuple[int | str | None, ...]]:
    return ("key = ?", (key,)) if key is not None else ("subscriber = ? AND app = ?", (subscriber, app_id))


class Bindings:
    """The bindings, for people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def withdraw(self, mdn: str, app_id: str, now: int) -> str:
        """End the binding of `mdn` and `app_id`; the ID of its key. What is held stays held.

        Raises NotPossible where none stands.
        """
        with self._database.transaction() as connection:
            found = connection.execute(
                """SELECT b.subscriber, k.key_id
                   FROM subscribers s CROSS JOIN bound b ON b.subscriber = s.number JOIN keys k ON k.id = b.key
                   WHERE s.mdn = ? AND b.app = ?""",
                (mdn, app_id),
            ).fetchone()
            if found is None:
                raise NotPossible(f"{mdn} has no binding for {app_id}: see 'kmp-smsd bindings show {mdn}'")
            subscriber, key_id = found
            end_bindings(connection, "withdrawn by command", now, subscriber=subscriber, app_id=app_id)
            # The terminal's next message binds again, and none that came before.
            connection.execute("DELETE FROM waiting WHERE subscriber = ? AND key_id = ?", (subscriber, key_id))
            return str(key_id)

    def of(self, mdn: str) -> list[dict[str, Any]]:
        """Every binding that `mdn` has or had, the newest first, with what its platform confirmed."""
        condition = """b.id IN (
          SELECT id FROM bound WHERE subscriber = (SELECT number FROM subscribers WHERE mdn = ?)
          UNION ALL
          SELECT id FROM bindings WHERE subscriber = (SELECT number FROM subscribers WHERE mdn = ?) AND state <> 'bound'
        )"""  # one way for each half
        return self._listing(condition, (mdn, mdn), "b.id DESC", 10_000)

    def active(self, *, app_id: str | None = None, after: int = 0, limit: int) -> list[dict[str, Any]]:
        """Active bindings in the order in which they were made, from number `after` on.

        Those of `app_id` in the order in which their subscribers became known.
        """
        if app_id is None:
            return self._listing("b.state = 'bound' AND b.id > ?", (after,), "b.id", limit)
        of_app = """b.id IN (
          SELECT bound.id FROM registrations r CROSS JOIN bound ON bound.subscriber = r.subscriber AND bound.app = r.app
          WHERE r.app = ? AND r.subscriber > ifnull((SELECT subscriber FROM bindings WHERE id = ?), 0)
          ORDER BY r.subscriber LIMIT ?
        )"""
        return self._listing(of_app, (app_id, after, limit), "b.subscriber", limit)

    def _listing(self, condition: str, parameters: tuple[Any, ...], order: str, limit: int) -> list[dict[str, Any]]:
        columns = (
            "id", "mdn", "app_id", "key_id", "kcv", "state", "received_at", "bound_at", "ended_at", "why",
            "platform", "wanted_version", "confirmed_version", "rejected_version", "error",
        )  # fmt: skip
        return self._database.records(
            columns,
            f"""SELECT b.id, s.mdn, b.app, k.key_id, k.kcv, b.state, b.received_at, b.bound_at, b.ended_at, b.why,
                      o.platform, o.wanted_version, o.confirmed_version, o.rejected_version, o.error
                    FROM bindings b JOIN subscribers s ON s.number = b.subscriber JOIN keys k ON k.id = b.key
                    LEFT JOIN outbox o ON b.state = 'bound' AND o.subscriber = b.subscriber AND o.app = b.app
                      AND o.key = b.key
                    WHERE {condition} ORDER BY {order} LIMIT ?""",
            (*parameters, limit),
        )
