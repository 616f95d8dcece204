"""Subscribers, and the apps that they registered for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kmp_smsd.storage.bindings import close_holds, end_bindings
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.room import leaving_room
from kmp_smsd.storage.rows import STEP_ROWS, in_steps
from kmp_smsd.storage.waking import wake_mdns

APPS_AT_ONCE = 250  # of one MDN: ending or moving one touches up to eight rows, of 5,000 in a transaction


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


def being_erased(connection: Any, mdns: Iterable[str]) -> str | None:
    """One of `mdns` that is being erased, if any: nothing new may hang on it before it is blanked."""
    found = connection.execute(
        """SELECT s.mdn FROM json_each(?) j CROSS JOIN subscribers s ON s.mdn = j.value
           WHERE s.erasing_at IS NOT NULL LIMIT 1""",
        (json.dumps(list(mdns)),),
    ).fetchone()
    return found[0] if found else None


def register(connection: Any, registrations: Sequence[Registration], now: int) -> int:
    """Register at `now`, at most STEP_ROWS, in the caller's transaction; how many were new.

    Raises NotPossible, before anything is changed, where a number is being erased; the sentence does not name it.
    """
    if being_erased(connection, {one.mdn for one in registrations}):
        raise NotPossible("the number is being erased: register it when it is gone")
    connection.executemany(
        "INSERT INTO subscribers (mdn, last_heard) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(one.mdn, now) for one in registrations],
    )
    new: int = connection.executemany(
        """INSERT INTO registrations (subscriber, app, registered_at)
           SELECT number, ?, ? FROM subscribers WHERE mdn = ? ON CONFLICT DO NOTHING""",
        [(one.app_id, now, one.mdn) for one in registrations],
    ).rowcount
    wake_mdns(connection, [one.mdn for one in registrations])
    return new


@dataclass(frozen=True, slots=True)
class Removed:
    """The apps whose registrations were removed, and how many bindings ended with them."""

    app_ids: list[str]
    bindings: int


def unregister(connection: Any, mdn: str, app_ids: Sequence[str] | None, now: int) -> Removed:
    """Remove these registrations of `mdn`, or all, in the caller's transaction; what stands afterwards is not wanted.

    Raises NotPossible, before anything is changed, where all of them are too many for one transaction.
    """
    found = connection.execute("SELECT number FROM subscribers WHERE mdn = ?", (mdn,)).fetchone()
    if found is None:
        return Removed([], 0)
    removed = leave(connection, found[0], all_apps(connection, found[0]) if app_ids is None else app_ids, now)
    if removed.app_ids:
        _wake_or_forget(connection, found[0], mdn)
    return removed


def _wake_or_forget(connection: Any, subscriber: int, mdn: str) -> None:
    """Have decided again what waits; where no registration is left, the next one may be somebody else's."""
    if connection.execute("SELECT 1 FROM registrations WHERE subscriber = ? LIMIT 1", (subscriber,)).fetchone():
        wake_mdns(connection, [mdn])
    else:
        connection.execute("DELETE FROM waiting WHERE subscriber = ?", (subscriber,))
        answer_undecided(connection, subscriber)


def answer_undecided(connection: Any, subscriber: int) -> None:
    """End the submissions of a number that is given up, in the caller's transaction: the next owner's are others."""
    connection.execute(
        "UPDATE submissions SET outcome = 'not_registered' WHERE subscriber = ? AND outcome IS NULL", (subscriber,)
    )


def all_apps(connection: Any, subscriber: int) -> list[str]:
    """The apps that `subscriber` is registered for. Raises NotPossible where one transaction cannot end them all."""
    apps = connection.execute(
        "SELECT app FROM registrations WHERE subscriber = ? ORDER BY app LIMIT ?", (subscriber, APPS_AT_ONCE + 1)
    ).fetchall()
    if len(apps) > APPS_AT_ONCE:
        raise NotPossible(f"the number has more than {APPS_AT_ONCE} registrations: remove some of them by name first")
    return [app for (app,) in apps]


def leave(
    connection: Any, subscriber: int, app_ids: Sequence[str], now: int, why: str = "registration removed"
) -> Removed:
    """End registrations with their bindings and holds and want nothing there, in the caller's transaction."""
    removed, bindings = [], 0
    for app_id in app_ids:
        if connection.execute(
            "DELETE FROM registrations WHERE subscriber = ? AND app = ?", (subscriber, app_id)
        ).rowcount:
            removed.append(app_id)
            bindings += end_bindings(connection, why, now, subscriber=subscriber, app_id=app_id)
            close_holds(connection, now, subscriber=subscriber, app_id=app_id)
    if removed:
        connection.execute("UPDATE subscribers SET last_heard = ? WHERE number = ?", (now, subscriber))
    return Removed(removed, bindings)


class Registrations:
    """Who may be bound to what. Adding needs no decision; removing ends the binding."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, registrations: Sequence[Registration], now: int) -> int:
        """Register; returns how many were new. In steps of STEP_ROWS.

        Raises NotPossible where an MDN is being erased, and NoRoom where too little would be left of the volume; the
        steps before that one stand.
        """
        new = 0
        for step in in_steps(registrations, STEP_ROWS):
            with leaving_room(self._database) as connection:
                if erased := being_erased(connection, {one.mdn for one in step}):
                    raise NotPossible(
                        f"{erased} is being erased: 'kmp-smsd subscribers erase {erased}' tells what it waits for;"
                        " register it afterwards"
                    )
                new += register(connection, step, now)
        return new

    def remove(self, mdn: str, app_ids: Sequence[str], now: int) -> list[str]:
        """Remove registrations, end their bindings and want nothing there, in one transaction; the apps removed."""
        with self._database.transaction() as connection:
            return unregister(connection, mdn, app_ids, now).app_ids

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
        self,
        *,
        mdn: str | None = None,
        app_id: str | None = None,
        after: tuple[str, str, int] = ("", "", 0),
        limit: int,
    ) -> list[dict[str, Any]]:
        """Registrations in the order of their MDN and app, behind the one `after`: its MDN, app and subscriber.

        Where `app_id` alone is given, in the order in which their subscribers became known.
        """
        after_mdn, after_app, after_subscriber = after
        if mdn is None and app_id is not None:
            return self._listing(
                """registrations r CROSS JOIN subscribers s ON s.number = r.subscriber
                   WHERE r.app = ? AND r.subscriber > ? ORDER BY r.subscriber""",
                (app_id, after_subscriber, limit),
            )
        return self._listing(
            """subscribers s JOIN registrations r ON r.subscriber = s.number
               WHERE s.mdn >= ? AND s.mdn <= coalesce(?, '~') AND (s.mdn, r.app) > (?, ?)
                 AND (? IS NULL OR r.app = ?)
               ORDER BY s.mdn, r.app""",
            (max(after_mdn, mdn or ""), mdn, after_mdn, after_app, app_id, app_id, limit),
        )

    def _listing(self, found: str, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        return self._database.records(
            ("mdn", "app_id", "registered_at", "subscriber"),
            f"SELECT s.mdn, r.app, r.registered_at, r.subscriber FROM {found} LIMIT ?",
            parameters,
        )
