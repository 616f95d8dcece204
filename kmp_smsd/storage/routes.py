"""Routes: which platform serves an app; how deliveries follow. Written by dispatch alone, at a start or reload."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.renewing import Renewing
from kmp_smsd.storage.wanting import Want


class Routes:
    """Where each app's deliveries go."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(self, apps: Mapping[str, str]) -> list[str]:
        """Route each app to its platform; returns the apps whose rows still have to follow (`move`).

        An app that is in no file any more keeps its route: what is wanted waits there until a file names it again.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                """INSERT INTO routes (app, platform, moving) VALUES (?, ?, 1)
                   ON CONFLICT (app) DO UPDATE SET platform = excluded.platform, moving = 1
                   WHERE platform <> excluded.platform""",
                list(apps.items()),
            )
            connection.executemany(
                "INSERT INTO platforms (name) VALUES (?) ON CONFLICT DO NOTHING", [(name,) for name in apps.values()]
            )
            return [row[0] for row in connection.execute("SELECT app FROM routes WHERE moving = 1")]

    def move(self, now: int) -> Iterator[int]:
        """Let the rows of moved apps follow, step by step; yields how many wants that took in each.

        At the old platform nothing is wanted from now on, at the new one what is bound. May be stopped and begun again
        at any row.
        """
        moving = dict(self._database.rows("SELECT app, platform FROM routes WHERE moving = 1"))
        if not moving:
            return

        def follow(connection: Any, rows: list[Any]) -> list[Want]:
            wants: list[Want] = []
            for subscriber, app, platform, key in rows:
                if app in moving and platform != moving[app] and key is not None:
                    wants.append(Want(subscriber, app, None, platform))
                    wants += _bound_here(connection, subscriber, app, moving[app])
            return wants

        yield from Renewing(self._database).walk(follow, now)
        with self._database.transaction() as connection:
            connection.executemany("UPDATE routes SET moving = 0 WHERE app = ? AND platform = ?", list(moving.items()))

    def forget(self, names: Collection[str], now: int) -> Iterator[int]:
        """Drop these platforms, step by step; yields how much was wanted elsewhere in each, after its commit.

        What is wanted at one of them waits without a platform from then on, as do its apps. May be stopped and begun
        again at any row.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE routes SET platform = '', moving = 1 WHERE platform IN (SELECT value FROM json_each(?))",
                (json.dumps(list(names)),),
            )
        yield from self.move(now)

        def drop(connection: Any, rows: list[Any]) -> list[Want]:
            return [
                want
                for subscriber, app, platform, _ in rows
                if platform in names
                for want in _dropped(connection, subscriber, app, platform)
            ]

        yield from Renewing(self._database).walk(drop, now)
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM platforms WHERE name = ?", [(name,) for name in names])
            connection.execute("DELETE FROM routes WHERE platform = '' AND moving = 0")


def _bound_here(connection: Any, subscriber: int, app: str, platform: str) -> list[Want]:
    """What the new platform is to hold, unless it is wanted there already."""
    found = connection.execute(
        """SELECT b.key, o.key FROM bound b
           LEFT JOIN outbox o ON o.subscriber = b.subscriber AND o.app = b.app AND o.platform = ?
           WHERE b.subscriber = ? AND b.app = ?""",
        (platform, subscriber, app),
    ).fetchone()
    return [Want(subscriber, app, found[0], platform)] if found is not None and found[0] != found[1] else []


def _dropped(connection: Any, subscriber: int, app: str, platform: str) -> list[Want]:
    """Delete a row, at which nothing is wanted any more, and keep its version where it is the highest.

    The next version of this MDN + app must be above it: a receiver knows no other way to tell old from new. Where no
    key is wanted, it is kept without a platform, where it needs no confirmation: another platform's row would become
    due again, or come back after that platform was forgotten as well.
    """
    place = (subscriber, app, platform)
    (version,) = connection.execute(
        """DELETE FROM outbox WHERE subscriber = ? AND app = ? AND platform = ?
           RETURNING max(wanted_version, confirmed_version)""",
        place,
    ).fetchone()
    others = connection.execute(
        """SELECT max(wanted_version, confirmed_version), platform, key FROM outbox
           WHERE subscriber = ? AND app = ?""",
        (subscriber, app),
    ).fetchall()
    if any(other[0] >= version for other in others):
        return []
    key, at = next(((key, at) for _, at, key in others if key is not None), (None, ""))
    return [Want(subscriber, app, key, at, above=version)]
