"""Requests that wait for what is still missing: kept and removed by decisions, marked by what arrives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from kmp_smsd.domain.facts import Decision, Facts
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.domain.waiting import again_at, waits
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.replying import dump_reply_to
from kmp_smsd.storage.rows import STEP_ROWS, delete_some
from kmp_smsd.storage.subscribers import hear
from kmp_smsd.storage.waking import AT_ONCE

# Of an MDN the newest stay, but those for keys that nobody imported give way first: who has one SIM, or forges one
# number, and invents key IDs pushes out nothing that waits for a key that exists.
# Of a key the first stay, so that who forges senders for its ID pushes out nobody; MDNs with a registration are counted
# apart from those without, so that strangers keep none of them from waiting.
KEPT_PER_MDN = 32
KEPT_PER_KEY = 8

Waiter = tuple[int, str]  # subscriber number, key ID


def read_waiters(database: Database, subscribers: Iterable[int]) -> set[Waiter]:
    """The requests of `subscribers` that wait."""
    return {
        (subscriber, key_id)
        for subscriber, key_id in database.rows(
            "SELECT w.subscriber, w.key_id FROM json_each(?) j CROSS JOIN waiting w ON w.subscriber = j.value",
            (json.dumps(list(subscribers)),),
        )
    }


def said(request: SyncRequest) -> tuple[Any, ...]:
    """What a request that is kept said: key ID, app, counter and tag of its proof, link, and when it was received."""
    proof = request.proof
    counter, tag = (proof.counter, proof.tag) if proof else (None, None)
    return request.key_id, request.app_id, counter, tag, request.link, request.received_at


def write_waiting(connection: Any, facts: Facts, waiters: set[Waiter], decisions: Sequence[Decision | Unfit]) -> None:
    """Keep the last request per MDN and key that waits, and remove what any other outcome ended.

    Runs inside the caller's transaction. `waiters` are those of these MDNs before.
    """
    if not waiters and not any(not isinstance(one, Unfit) and waits(one, facts) for one in decisions):
        return
    last: dict[tuple[str, str], Decision] = {}
    ended: set[Waiter] = set()
    for one in decisions:
        if isinstance(one, Unfit) or (one.request.approved_hold is not None and waits(one, facts)):
            continue  # an approval that cannot be fulfilled stands in its hold
        earlier = last.setdefault((one.request.mdn, one.request.key_id), one)
        is_older = one.request.received_at < earlier.request.received_at
        if not (is_older and waits(one, facts) and waits(earlier, facts)):
            last[one.request.mdn, one.request.key_id] = one
        if not waits(one, facts) and one.request.mdn in facts.subscribers:
            ended.add((facts.subscribers[one.request.mdn], one.request.key_id))
    ended &= waiters
    if ended:  # first: what waits again after that may be older
        connection.executemany("DELETE FROM waiting WHERE subscriber = ? AND key_id = ?", list(ended))
    standing = waiters - ended
    grown: set[int] = set()
    for (mdn, key_id), decision in last.items():
        if not waits(decision, facts):
            continue
        subscriber = facts.subscribers.get(mdn)
        waited = subscriber is not None and (subscriber, key_id) in standing
        if not waited and not _has_room(connection, key_id, registered=subscriber in facts.registrations):
            continue
        if subscriber is None:
            subscriber = facts.subscribers[mdn] = hear(connection, mdn, facts.now)
        _keep(connection, subscriber, decision, again_at(decision, facts))
        if not waited:
            grown.add(subscriber)
    for subscriber in grown:  # last: what is pushed out now may have come again in this batch
        _keep_newest(connection, subscriber)


def _keep(connection: Any, subscriber: int, decision: Decision, again: int | None) -> None:
    request = decision.request
    connection.execute(
        """INSERT INTO waiting (subscriber, key_id, app, counter, tag, link, received_at, outcome, again_at, reply_to)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
           ON CONFLICT DO UPDATE SET app = excluded.app, counter = excluded.counter, tag = excluded.tag,
             link = excluded.link, received_at = excluded.received_at, outcome = excluded.outcome,
             again_at = excluded.again_at, reply_to = excluded.reply_to
           WHERE excluded.received_at >= received_at""",
        (subscriber, *said(request), decision.outcome.value, again, dump_reply_to(request.reply_to)),
    )


def _has_room(connection: Any, key_id: str, *, registered: bool) -> bool:
    """Whether the key may have one more, of an MDN with a registration or of one without."""
    (standing,) = connection.execute(
        """SELECT count(*) FROM waiting w WHERE w.key_id = ?
             AND EXISTS (SELECT 1 FROM registrations r WHERE r.subscriber = w.subscriber) = ?""",
        (key_id, registered),
    ).fetchone()
    return bool(standing < KEPT_PER_KEY)


def _keep_newest(connection: Any, subscriber: int) -> None:
    connection.execute(
        """DELETE FROM waiting WHERE (subscriber, key_id) IN (
             SELECT subscriber, key_id FROM waiting WHERE subscriber = ?
             ORDER BY outcome = 'unknown_key', received_at DESC, key_id LIMIT -1 OFFSET ?)""",
        (subscriber, KEPT_PER_MDN),
    )


def follow(connection: Any, old: int, new: int) -> None:
    """Let what waits at subscriber `old` wait at `new`, and have all that waits there decided again.

    Runs inside the caller's transaction. Where a key waits at both, the last request counts. What was to be told to the
    old number is not told.
    """
    connection.execute(
        """INSERT INTO waiting (subscriber, key_id, app, counter, tag, link, received_at, outcome)
           SELECT ?, key_id, app, counter, tag, link, received_at, outcome FROM waiting WHERE subscriber = ?
           ON CONFLICT DO UPDATE SET app = excluded.app, counter = excluded.counter, tag = excluded.tag,
             link = excluded.link, received_at = excluded.received_at, outcome = excluded.outcome, reply_to = NULL
           WHERE excluded.received_at > received_at""",
        (new, old),
    )
    connection.execute("DELETE FROM waiting WHERE subscriber = ?", (old,))
    _keep_newest(connection, new)
    connection.execute("UPDATE waiting SET again_at = ? WHERE subscriber = ?", (AT_ONCE, new))


class Waiting:
    """Waiting requests, for intake and for people."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recalling: tuple[list[int], Waiter] | None = None  # the imports, and how far the walk has come

    def recall(self) -> None:
        """Mark what waits for keys of imports that went live: one step of a walk, which the next call goes on with.

        `recalling` says whether there is more of it. A walk that is broken off begins again: marking twice is harmless.
        """
        if self._recalling is None:
            live = self._database.rows("SELECT id FROM imports WHERE recalled = 0 AND live_at IS NOT NULL")
            if not live:
                return
            self._recalling = [row[0] for row in live], (0, "")
        imports, after = self._recalling
        with self._database.transaction() as connection:
            last = connection.execute(
                """SELECT subscriber, key_id FROM waiting WHERE (subscriber, key_id) > (?, ?)
                   ORDER BY subscriber, key_id LIMIT 1 OFFSET ?""",
                (*after, STEP_ROWS - 1),
            ).fetchone()
            connection.execute(
                """UPDATE waiting SET again_at = ?
                   WHERE (subscriber, key_id) > (?, ?) AND (? IS NULL OR (subscriber, key_id) <= (?, ?))
                     AND outcome = 'unknown_key' AND EXISTS (
                       SELECT 1 FROM keys k JOIN imports i ON i.id = k.import
                       WHERE k.key_id = waiting.key_id AND i.live_at IS NOT NULL)""",
                (AT_ONCE, *after, last and last[0], *(last or (None, None))),
            )
            if last is None:
                connection.executemany("UPDATE imports SET recalled = 1 WHERE id = ?", [(one,) for one in imports])
        self._recalling = (imports, last) if last is not None else None

    @property
    def recalling(self) -> bool:
        """Whether a walk of `recall` is under way."""
        return self._recalling is not None

    def expire(self, before: int) -> int:
        """Forget what was received before that time, in Unix milliseconds; how many, at most STEP_ROWS a call."""
        return delete_some(self._database, "waiting", "subscriber, key_id", "received_at < ?", before)

    def listing(self, *, mdn: str | None = None, after: tuple[int, str] = (0, ""), limit: int) -> list[dict[str, Any]]:
        """Waiting requests, those of one number together, behind the place `after`: (subscriber, key ID)."""
        columns = (
            "mdn", "key_id", "app_id", "outcome", "received_at", "link", "proof_counter", "again_at", "subscriber",
        )  # fmt: skip
        condition, parameters = "(w.subscriber, w.key_id) > (?, ?)", [*after]
        if mdn is not None:
            condition += " AND w.subscriber = (SELECT number FROM subscribers WHERE mdn = ?)"
            parameters.append(mdn)
        return self._database.records(
            columns,
            f"""SELECT s.mdn, w.key_id, w.app, w.outcome, w.received_at, w.link, w.counter, w.again_at, w.subscriber
                FROM waiting w JOIN subscribers s ON s.number = w.subscriber
                WHERE {condition} ORDER BY w.subscriber, w.key_id LIMIT ?""",
            (*parameters, limit),
        )
