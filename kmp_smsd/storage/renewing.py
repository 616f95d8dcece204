"""What lies in the outbox is made due at once, or wanted again at a new version: retry, resync, and walks along it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.due import BEHIND, DUE, DUE_PLATFORMS, REJECTED, REJECTING_PLATFORMS
from kmp_smsd.storage.rows import STEP_ROWS
from kmp_smsd.storage.wanting import Want, want


class Renewing:
    """What people and dispatch wish of rows that are there already, one transaction a step."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def retry(self, now: int, *, platform: str | None = None, mdn: str | None = None) -> int:
        """Make due rows due at once, and want rejected ones again at a new version; the number of rows."""
        self._hurry(now, platform, mdn)
        if mdn is not None:
            return self._retry_one(now, platform, mdn)
        waiting = sum(self.hasten(self._names(DUE_PLATFORMS, platform), now))
        rejecting = self._names(REJECTING_PLATFORMS, platform)
        return waiting + sum(retried for name in rejecting for retried in self._retry_rejected(name, 0, now))

    def _names(self, query: str, platform: str | None) -> list[str]:
        """Those that `query` finds, or the one that is asked for."""
        return [name for (name,) in self._database.rows(query) if name] if platform is None else [platform]

    def _retry_one(self, now: int, platform: str | None, mdn: str) -> int:
        """What `retry` does, for one number: its few rows are found by their places."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                f"""SELECT id, subscriber, app, key, platform, {REJECTED} FROM outbox
                    WHERE subscriber = (SELECT number FROM subscribers WHERE mdn = ?) AND platform <> ''
                      AND platform = ifnull(?, platform) AND ({REJECTED} OR {DUE} AND try_at > ?)""",
                (mdn, platform, now),
            ).fetchall()
            connection.executemany(
                "UPDATE outbox SET try_at = ?, attempts = 0 WHERE id = ?",
                [(now, row[0]) for row in rows if not row[-1]],
            )
            want(connection, [Want(*row[1:-1]) for row in rows if row[-1]], now)
        return len(rows)

    def hasten(self, platforms: Iterable[str], now: int) -> Iterator[int]:
        """Make due at once, step by step, what waits at `platforms`; yields the rows of each step.

        It failed, or was wanted by a clock that has been set back.
        """
        for platform in platforms:
            yield from self._hasten(platform, now)

    def _hurry(self, now: int, platform: str | None, mdn: str | None) -> None:
        """Wish that dispatch does not wait before it tries these platforms again."""
        if platform is not None:
            names, parameters = "SELECT ?", [platform]
        elif mdn is not None:
            names = """SELECT platform FROM outbox
                       WHERE platform <> '' AND subscriber = (SELECT number FROM subscribers WHERE mdn = ?)"""
            parameters = [mdn]
        else:
            names, parameters = "SELECT platform FROM routes", []
        with self._database.transaction() as connection:
            connection.execute(
                f"""INSERT INTO platforms (name, hurried_at) SELECT DISTINCT *, ? FROM ({names}) WHERE true
                    ON CONFLICT (name) DO UPDATE SET hurried_at = excluded.hurried_at""",
                (now, *parameters),
            )

    def _hasten(self, platform: str, now: int) -> Iterator[int]:
        """Make due at once what waits at `platform`, one transaction a step; yields the rows of each.

        A walk along the index, from row to row: what its platform puts off again meanwhile stays put off.
        """
        after = (now, sys.maxsize)
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(
                    f"SELECT try_at, id FROM ({BEHIND})", (platform, *after, STEP_ROWS)
                ).fetchall()
                connection.executemany(
                    "UPDATE outbox SET try_at = ?, attempts = 0 WHERE id = ?", [(now, row) for _, row in rows]
                )
            if rows:
                yield len(rows)
            if len(rows) < STEP_ROWS:
                return
            after = rows[-1]

    def _retry_rejected(self, platform: str, since: int, now: int) -> Iterator[int]:
        """Want again what `platform` rejected at `since` (Unix milliseconds) or later and what is still rejected.

        As `_hasten` walks: what is rejected again meanwhile stays rejected.
        """
        after = 0
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(
                    f"""SELECT id, subscriber, app, key, platform FROM outbox INDEXED BY outbox_rejected
                        WHERE platform = ? AND {REJECTED} AND try_at >= ? AND id > ? ORDER BY id LIMIT ?""",
                    (platform, since, after, STEP_ROWS // 2),  # each may want another row again above it
                ).fetchall()
                want(connection, [Want(*wanted) for _, *wanted in rows], now)
            if rows:
                yield len(rows)
            if len(rows) < STEP_ROWS // 2:
                return
            after = rows[-1][0]

    def want_again(self, now: int, *, platform: str | None = None, step_rows: int | None = None) -> int:
        """Want every row (of `platform`) again at a new version: the platform, or our own store, was restored.

        In steps of STEP_ROWS wants, so that intake goes on, or of `step_rows` where nobody waits. Rows that change
        meanwhile have a new version anyway. Returns how many.
        """

        def renew(_: Any, rows: list[Any]) -> list[Want]:
            return [Want(subscriber, app, key, at) for subscriber, app, at, key in rows if platform in (None, at)]

        return sum(self.walk(renew, now, step_rows=step_rows))

    def walk(
        self, wants_of: Callable[[Any, list[Any]], list[Want]], now: int, *, step_rows: int | None = None
    ) -> Iterator[int]:
        """Walk the outbox as it is now, one transaction a step; yields how much was wanted in each, after its commit.

        `wants_of` is given the transaction's connection and (subscriber, app, platform, key) rows. Each of them may
        come to two wants, of which `step_rows` (STEP_ROWS where it is None) make a step.
        """
        step_rows = (step_rows or STEP_ROWS) // 2
        after = 0
        ((last,),) = self._database.rows("SELECT max(id) FROM outbox")  # what is wanted meanwhile comes behind it
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(
                    """SELECT id, subscriber, app, platform, key FROM outbox WHERE id > ? AND id <= ?
                       ORDER BY id LIMIT ?""",
                    (after, last, step_rows),
                ).fetchall()
                wants = wants_of(connection, [row[1:] for row in rows])
                want(connection, wants, now)
            yield len(wants)
            if len(rows) < step_rows:
                return
            after = rows[-1][0]

    def again(self, platform: str, since: int, now: int) -> None:
        """Want again what `platform` rejected at `since` (Unix milliseconds) or later and what is still rejected."""
        for _ in self._retry_rejected(platform, since, now):
            pass
