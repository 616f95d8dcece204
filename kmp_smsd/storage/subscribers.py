"""Subscribers, and the apps that they registered for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kmp_smsd.storage.bindings import close_holds, end_bindings
from kmp_smsd.storage.database import STEP_ROWS, Database
from kmp_smsd.storage.waking import wake_mdns


@dataclass(frozen=True, slots=True)
class Registration:
    """`mdn`, canonical, may be bound to a key of `app_id`."""

    mdn: str
    app_id: str


def hear(connection: Any, mdn: str, now: int) -> int:
    """The number of a subscriber that may be new, heard of at `now`; in the caller's transaction."""
    (number,) = connection.execute(
        """INSERT INTO subscribers (mdn, last_heard) VALUES (?, ?)
           ON CONFLICT (mdn) DO UPDATE SET last_heard = excluded.last_heard RETURNING number""",
        (mdn, now),
    ).fetchone()
    return int(number)


class Registrations:
    """Who may be bound to what. Adding needs no decision; removing ends the binding."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, registrations: Sequence[Registration], now: int) -> int:
        """Register; returns how many were new. In steps of at most 5,000."""
        new = 0
        for start in range(0, len(registrations), STEP_ROWS):
            step = registrations[start : start + STEP_ROWS]
            with self._database.transaction() as connection:
                connection.executemany(
                    "INSERT INTO subscribers (mdn, last_heard) VALUES (?, ?) ON CONFLICT DO NOTHING",
                    [(one.mdn, now) for one in step],
                )
                new += connection.executemany(
                    """INSERT INTO registrations (subscriber, app, registered_at)
                       SELECT number, ?, ? FROM subscribers WHERE mdn = ? ON CONFLICT DO NOTHING""",
                    [(one.app_id, now, one.mdn) for one in step],
                ).rowcount
                wake_mdns(connection, [one.mdn for one in step], now)
        return new

    def remove(self, mdn: str, app_ids: Sequence[str], now: int) -> list[str]:
        """Remove registrations, end their bindings and want nothing there, in one transaction; the apps removed."""
        removed = []
        with self._database.transaction() as connection:
            for app_id in app_ids:
                found = connection.execute(
                    """DELETE FROM registrations
                       WHERE subscriber = (SELECT number FROM subscribers WHERE mdn = ?) AND app = ?
                       RETURNING subscriber""",
                    (mdn, app_id),
                ).fetchall()
                for (subscriber,) in found:
                    removed.append(app_id)
                    end_bindings(connection, "registration removed", now, subscriber=subscriber, app_id=app_id)
                    close_holds(connection, now, subscriber=subscriber, app_id=app_id)
                    connection.execute("UPDATE subscribers SET last_heard = ? WHERE number = ?", (now, subscriber))
            wake_mdns(connection, [mdn] if removed else [], now)
        return removed

    def existing(self, registrations: Sequence[Registration]) -> set[Registration]:
        """Which of `registrations` stand already."""
        standing = set()
        for one in registrations:
            if self._database.rows(
                """SELECT 1 FROM registrations r JOIN subscribers s ON s.number = r.subscriber
                   WHERE s.mdn = ? AND r.app = ?""",
                (one.mdn, one.app_id),
            ):
                standing.add(one)
        return standing

    def listing(
        self, *, mdn: str | None = None, app_id: str | None = None, after: tuple[str, str] = ("", ""), limit: int
    ) -> list[dict[str, Any]]:
        """Registrations in the order of their MDN and app, behind the place `after`."""
        return self._database.records(
            ("mdn", "app_id", "registered_at"),
            """SELECT s.mdn, r.app, r.registered_at
                   FROM subscribers s JOIN registrations r ON r.subscriber = s.number
                   WHERE s.mdn >= ? AND s.mdn <= coalesce(?, '~') AND (s.mdn, r.app) > (?, ?)
                     AND (? IS NULL OR r.app = ?)
                   ORDER BY s.mdn, r.app LIMIT ?""",
            (max(after[0], mdn or ""), mdn, *after, app_id, app_id, limit),
        )
