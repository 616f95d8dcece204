"""Routes: which platform serves an app. Written by dispatch alone, at start and at reload."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.figures import COUNTED_MAX, DueFigures, Figures
from kmp_smsd.storage.outbox import DUE, Outbox
from kmp_smsd.storage.wanting import Want

# Each platform is looked for behind the one before, since an index may hold millions of due rows of one.
_NAMES = f"""
WITH RECURSIVE owed (name) AS (
  SELECT '' UNION ALL
  SELECT (SELECT min(platform) FROM outbox WHERE platform > name AND {DUE}) FROM owed WHERE name IS NOT NULL)
SELECT name FROM owed WHERE name IS NOT NULL UNION SELECT platform FROM routes UNION SELECT name FROM platforms
UNION SELECT platform FROM outbox WHERE wanted_version = rejected_version ORDER BY 1"""


@dataclass(frozen=True, slots=True)
class PlatformState:
    """What dispatch last saw of a platform. Times in Unix milliseconds."""

    name: str
    last_success_at: int | None = None
    last_error: str | None = None
    last_error_at: int | None = None
    next_try_at: int | None = None
    paused: bool = False


class Routes:
    """Where each app's deliveries go, and what became of each platform."""

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

    def all(self) -> dict[str, str]:
        return dict(self._database.rows("SELECT app, platform FROM routes"))

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

        yield from Outbox(self._database).walk(follow, now, wants_per_row=2)
        with self._database.transaction() as connection:
            connection.executemany("UPDATE routes SET moving = 0 WHERE app = ? AND platform = ?", list(moving.items()))

    def wish_forgotten(self, name: str, now: int) -> None:
        """Have dispatch drop what it has of a platform that is gone, as soon as it runs without a file of it."""
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO platforms (name, forgotten_at) VALUES (?, ?)
                   ON CONFLICT (name) DO UPDATE SET forgotten_at = excluded.forgotten_at""",
                (name, now),
            )

    def is_to_be_forgotten(self, name: str) -> bool:
        """Whether that wish still stands."""
        wished = self._database.rows("SELECT 1 FROM platforms WHERE name = ? AND forgotten_at IS NOT NULL", (name,))
        return bool(wished)

    def keep(self, served: Collection[str]) -> None:
        """Platforms that have a file are not forgotten, whatever was wished before it came back."""
        if self._database.rows("SELECT 1 FROM platforms WHERE forgotten_at IS NOT NULL"):
            with self._database.transaction() as connection:
                connection.executemany(
                    "UPDATE platforms SET forgotten_at = NULL WHERE name = ?", [(name,) for name in served]
                )

    def to_forget(self, served: Collection[str]) -> list[str]:
        """The platforms that a person wishes forgotten, and that are not among those `served`."""
        wished = self._database.rows("SELECT name FROM platforms WHERE forgotten_at IS NOT NULL ORDER BY name")
        return [row[0] for row in wished if row[0] not in served]

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

        yield from Outbox(self._database).walk(drop, now, wants_per_row=2)
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM platforms WHERE name = ?", [(name,) for name in names])
            connection.execute("DELETE FROM routes WHERE platform = '' AND moving = 0")

    def report(self, state: PlatformState) -> None:
        """Keep what happened to a platform for people to see."""
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO platforms (name, last_success_at, last_error, last_error_at, next_try_at, paused)
                   VALUES (?, ?, ?, ?, ?, ?)
                   ON CONFLICT (name) DO UPDATE SET
                     last_success_at = coalesce(excluded.last_success_at, last_success_at),
                     last_error = excluded.last_error, last_error_at = excluded.last_error_at,
                     next_try_at = excluded.next_try_at, paused = excluded.paused""",
                (
                    state.name,
                    state.last_success_at,
                    state.last_error,
                    state.last_error_at,
                    state.next_try_at,
                    state.paused,
                ),
            )

    def state(self, name: str) -> PlatformState:
        """What was reported of a platform; of one that nobody ever saw, its name alone."""
        seen = self._database.rows(
            """SELECT last_success_at, last_error, last_error_at, next_try_at, paused FROM platforms WHERE name = ?""",
            (name,),
        )
        if not seen:
            return PlatformState(name)
        last_success_at, last_error, last_error_at, next_try_at, paused = seen[0]
        return PlatformState(name, last_success_at, last_error, last_error_at, next_try_at, bool(paused))

    def hurried(self) -> dict[str, int]:
        """When a person last wished that a platform is tried at once, in Unix milliseconds."""
        return dict(self._database.rows("SELECT name, hurried_at FROM platforms WHERE hurried_at IS NOT NULL"))

    def names(self) -> list[str]:
        """Each platform that is routed to, was ever seen or has not confirmed all, and the empty name of none."""
        return [row[0] for row in self._database.rows(_NAMES)]

    def platforms(self, *, at_most: int = COUNTED_MAX) -> list[dict[str, Any]]:
        """What is due at each of these (`names`), of which `at_most` are counted, and what happened there last."""
        figures = Figures(self._database)
        rejected = figures.rejected(at_most=sys.maxsize)  # few, and each asks for a person
        return [self._platform(name, figures.due(name, at_most=at_most), rejected[name]) for name in self.names()]

    def _platform(self, name: str, due: DueFigures, rejected: int) -> dict[str, Any]:
        apps = [
            row[0] for row in self._database.rows("SELECT app FROM routes WHERE platform = ? ORDER BY app", (name,))
        ]
        state = asdict(self.state(name))
        del state["name"]
        forgotten = self._database.rows("SELECT forgotten_at FROM platforms WHERE name = ?", (name,))
        return {
            "platform": name,
            "apps": apps,
            "due": due.count,
            "due_more": due.more,
            "oldest_due_at": due.oldest_at,
            "rejected": rejected,
            **state,
            "forgotten_at": forgotten[0][0] if forgotten else None,
        }


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
