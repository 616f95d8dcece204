"""The outbox: what each platform is to hold, at which version, and what it has confirmed."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.due import (
    BEHIND,
    DUE,
    DUE_PLATFORMS,
    REJECTED,
    REJECTED_BEHIND,
    REJECTING_PLATFORMS,
    TRY_WITHIN_MS,
    has_come,
)
from kmp_smsd.storage.rows import READ_ROWS, STEP_ROWS, in_steps
from kmp_smsd.storage.wanting import Want, want

# The row is found by its number, without the index of places: rows that are due together lie together. That it is still
# of that place is asked all the same, because a number may come again where a row was dropped.
_THIS_ROW = "id = ? AND subscriber = ? AND app = ? AND platform = ?"
_CONFIRM = f"""
UPDATE outbox SET confirmed_version = max(confirmed_version, ?),
  rejected_version = iif(rejected_version = ?, 0, rejected_version),
  attempts = iif(wanted_version = ?, 0, attempts), error = iif(wanted_version = ?, NULL, error)
WHERE {_THIS_ROW}"""


class WrappedKey(NamedTuple):
    """A key as it lies in the store, with all that unwrapping and authenticating it needs.

    A tuple, as OutboxRow is: one of each is made for every delivery, and a frozen dataclass takes three times as long.
    """

    key_id: str
    algorithm: str
    kcv: str
    app_id: str | None  # the reservation, authenticated together with the key
    state: str
    data_key_id: str
    nonce: bytes | None
    ciphertext: bytes | None

    def __repr__(self) -> str:
        return f"<WrappedKey {self.key_id} kcv={self.kcv}>"


class OutboxRow(NamedTuple):
    """One due row: deliver `key` (None: withdraw) at `version`."""

    id: int
    subscriber: int
    mdn: str
    app_id: str
    version: int
    attempts: int
    key: WrappedKey | None


@dataclass(frozen=True, slots=True)
class Confirm:
    row: OutboxRow


@dataclass(frozen=True, slots=True)
class Postpone:
    """Try `row` again at `try_at` (Unix milliseconds); `reason` is shown by ``outbox list``."""

    row: OutboxRow
    try_at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """`row` was rejected at `at` (Unix milliseconds), which is its `try_at` from now on; it is not tried again."""

    row: OutboxRow
    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Outbid:
    """The platform holds the higher version `held`: want the same above it, unless something else is wanted by now.

    But where nothing is wanted, and another platform was told just that for this MDN + app, the two are one receiver
    that heard of the move in the other order: then this one has let go already.

    It is tried at `try_at` (Unix milliseconds), counts as an attempt and is as old as before, and ``outbox list`` shows
    `reason`: a platform may answer so for ever.
    """

    row: OutboxRow
    held: int
    try_at: int
    reason: str


Settlement = Confirm | Postpone | Reject | Outbid


class Outbox:
    """The dispatcher's side of the outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, platform: str, now: int, limit: int) -> list[OutboxRow]:
        """Return the rows of `platform` that are due for longest (see `has_come`), at most `limit`.

        Those that failed before come last, since one of them may bring the platform down. Else they are in the order of
        MDNs: places that follow one another are on fewer pages of the platform's store.
        """
        return [
            OutboxRow(row, subscriber, mdn, app_id, version, attempts, WrappedKey(*key) if key[0] is not None else None)
            for row, subscriber, mdn, app_id, version, attempts, *key in self._database.rows(
                f"""SELECT o.id, o.subscriber, s.mdn, o.app, o.wanted_version, o.attempts, k.key_id,
                      k.algorithm, k.kcv, k.app, k.state, i.data_key, k.nonce, k.ciphertext
                    FROM (SELECT * FROM (SELECT * FROM outbox WHERE platform = ?1 AND try_at <= ?2 AND {DUE}
                                         ORDER BY try_at LIMIT ?4)
                          UNION ALL
                          SELECT * FROM (SELECT * FROM outbox WHERE platform = ?1 AND try_at > ?3 AND {DUE}
                                         ORDER BY try_at LIMIT ?4)
                          LIMIT ?4) o
                    JOIN subscribers s ON s.number = o.subscriber
                    LEFT JOIN keys k ON k.id = o.key LEFT JOIN imports i ON i.id = k.import
                    ORDER BY o.attempts, s.mdn""",
                (platform, now, now + TRY_WITHIN_MS, limit),
            )
        ]

    def next_try(self, platform: str, now: int) -> int | None:
        """When the next row of `platform` comes due, in Unix milliseconds; None where nothing is due at all."""
        seek = f"SELECT try_at FROM outbox WHERE platform = ? AND {DUE} ORDER BY try_at"
        ((first, last),) = self._database.rows(f"SELECT ({seek} LIMIT 1), ({seek} DESC LIMIT 1)", (platform, platform))
        at: int | None = last if first is not None and not has_come(first, now) and has_come(last, now) else first
        return at

    def settle(self, platform: str, settlements: Sequence[Settlement], now: int) -> None:
        """Write what became of deliveries to `platform`: in one transaction, but what is outbid in steps.

        That takes ten times as long, and each may want another row again above it.
        """
        confirmed, postponed, rejected, outbid = [], [], [], []
        for settlement in settlements:
            row = settlement.row
            this_row = (row.id, row.subscriber, row.app_id, platform)
            match settlement:
                case Confirm():
                    confirmed.append((row.version,) * 4 + this_row)
                case Postpone():
                    postponed.append((settlement.try_at, settlement.reason, *this_row, row.version))
                case Reject():
                    rejected.append((row.version, settlement.at, settlement.reason, *this_row, row.version))
                case Outbid():
                    outbid.append(settlement)
        with self._database.transaction() as connection:
            connection.executemany(_CONFIRM, confirmed)
            connection.executemany(
                f"""UPDATE outbox SET try_at = ?, error = ?, attempts = attempts + 1
                    WHERE {_THIS_ROW} AND wanted_version = ?""",
                postponed,
            )
            connection.executemany(
                f"""UPDATE outbox SET rejected_version = ?, try_at = ?, error = ?, attempts = attempts + 1
                    WHERE {_THIS_ROW} AND wanted_version = ? AND wanted_version <> confirmed_version""",
                rejected,
            )
        for step in in_steps(outbid, STEP_ROWS // 2):
            with self._database.transaction() as connection:
                for settlement in step:
                    _answer_stale(connection, settlement, platform, now)

    def count(self, platform: str) -> int:
        """How many rows `platform` has: what a resync of it wants again."""
        return int(self._database.rows("SELECT count(*) FROM outbox WHERE platform = ?", (platform,))[0][0])

    def count_held(self, platform: str) -> tuple[int, int]:
        """How many keys are wanted at `platform`, and how many rows of it want nothing and are not confirmed."""
        ((wanted, unconfirmed),) = self._database.rows(
            """SELECT count(key), count(*) FILTER (WHERE key IS NULL AND wanted_version <> confirmed_version)
               FROM outbox WHERE platform = ?""",
            (platform,),
        )
        return wanted, unconfirmed

    def unconfirmed(self, platform: str | None = None) -> Iterator[list[dict[str, Any]]]:
        """Pages of rows for people: of each platform what is due, by the time of its next try, then what it rejected.

        They are the rows and the order of the moment in which a platform's turn comes, without what is confirmed since.
        """
        names = {name for query in (DUE_PLATFORMS, REJECTING_PLATFORMS) for (name,) in self._database.rows(query)}
        for name in sorted(names) if platform is None else [platform]:
            for step in in_steps(array("q", self._unconfirmed_at(name)), READ_ROWS):
                page = self._listing(  # the platform again, as for _THIS_ROW
                    """json_each(?) j CROSS JOIN outbox o
                         ON o.id = j.value AND o.platform = ? AND o.wanted_version <> o.confirmed_version""",
                    "j.key",
                    (json.dumps(step), name),
                )
                if page:
                    yield page

    def _unconfirmed_at(self, platform: str) -> Iterator[int]:
        for behind in BEHIND, REJECTED_BEHIND:
            after = (-1, -1)
            while rows := self._database.rows(f"SELECT try_at, id FROM ({behind})", (platform, *after, READ_ROWS)):
                yield from (number for _, number in rows)
                after = rows[-1]

    def listing(
        self, *, platform: str | None = None, mdn: str | None = None, everything: bool, after: int = 0, limit: int
    ) -> list[dict[str, Any]]:
        """Rows for people: all of them, or due and rejected ones of `mdn`, behind the row whose `id` is `after`."""
        condition = "id > ?"
        parameters: list[Any] = [after]
        if mdn is not None:
            condition += " AND subscriber = (SELECT number FROM subscribers WHERE mdn = ?)"
            parameters.append(mdn)
        return self._listing(
            f"""(SELECT * FROM outbox WHERE {condition} AND (? OR wanted_version <> confirmed_version)
                   AND (? IS NULL OR platform = ?) ORDER BY id LIMIT ?) o""",
            "o.id",
            (*parameters, everything, platform, platform, limit),
        )

    def _listing(self, rows: str, order: str, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        """Rows of the outbox, which `rows` calls `o`, for people.

        A row's `subscriber` is its MDN's number here, which stays where the MDN is erased. `try_at` is that of a due
        row, `rejected_at` that of a rejected one.
        """
        columns = (
            "mdn", "app_id", "platform", "key_id", "kcv", "wanted_version", "confirmed_version", "rejected_version",
            "wanted_at", "try_at", "rejected_at", "attempts", "error", "subscriber", "id",
        )  # fmt: skip
        return self._database.records(
            columns,
            f"""SELECT s.mdn, o.app, o.platform, k.key_id, k.kcv, o.wanted_version, o.confirmed_version,
                     o.rejected_version, o.wanted_at, iif({DUE}, o.try_at, NULL),
                     iif({REJECTED}, o.try_at, NULL), o.attempts, o.error, o.subscriber, o.id
                   FROM {rows} JOIN subscribers s ON s.number = o.subscriber LEFT JOIN keys k ON k.id = o.key
                   ORDER BY {order}""",
            parameters,
        )


def _answer_stale(connection: Any, outbid: Outbid, platform: str, now: int) -> None:
    """Want the same above what the platform holds, in the caller's transaction, unless something else is wanted by now.

    Where that is what another platform's name was told for this MDN and app, both names lead to one store, and what was
    here is gone from it: the withdrawal is confirmed. A higher one would take away what was put in its place.
    """
    row = outbid.row
    this_row = (row.id, row.subscriber, row.app_id, platform)
    still = connection.execute(
        f"SELECT key, wanted_at, attempts FROM outbox WHERE {_THIS_ROW} AND wanted_version = ?",
        (*this_row, row.version),
    ).fetchone()
    if still is None:
        return
    key, wanted_at, attempts = still
    told_elsewhere = connection.execute(
        """SELECT 1 FROM outbox
           WHERE subscriber = ? AND app = ? AND platform <> ? AND ? IN (wanted_version, confirmed_version)""",
        (row.subscriber, row.app_id, platform, outbid.held),
    ).fetchone()
    if key is None and told_elsewhere:
        connection.execute(_CONFIRM, (row.version,) * 4 + this_row)
        return
    want(connection, [Want(row.subscriber, row.app_id, key, platform, outbid.held)], now)
    connection.execute(
        f"UPDATE outbox SET wanted_at = ?, try_at = ?, attempts = ?, error = ? WHERE {_THIS_ROW}",
        (wanted_at, outbid.try_at, attempts + 1, outbid.reason, *this_row),
    )
