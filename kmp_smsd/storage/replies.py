"""Replies on their way: taken when they are due, on disk before they leave, and never sent twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kmp_smsd.domain.reply import Reply, ReplyResult, ReplyState
from kmp_smsd.domain.spans import DAY_MS, HOUR_MS
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.replying import load_reply_to
from kmp_smsd.storage.rows import STEP_ROWS, delete_some

LOOKED_THROUGH = 1_000  # waiting replies of one link in one look
NO_ANSWER_MS = HOUR_MS  # a reply that nobody has in hand any more
TAKEN_MAX = 500  # replies in one transaction

# Said once the platform has confirmed what is wanted there, and that is this key. What the version is does not matter:
# a delivery that was repeated, or an app that has moved to another platform, is confirmed at a later one.
_CONFIRMED = """EXISTS (
  SELECT 1 FROM outbox o WHERE o.subscriber = r.subscriber AND o.app = r.app AND o.key = r.key
    AND o.confirmed_version >= o.wanted_version)"""

_LOOK = f"""
SELECT w.id, {_CONFIRMED.replace("r.", "w.")} FROM (
  SELECT id, subscriber, app, key FROM replies
  WHERE link = ? AND state = 'waiting' AND id > ? ORDER BY id LIMIT ?) w"""

_ANY_EXPIRED = "SELECT EXISTS (SELECT 1 FROM replies WHERE state = 'waiting' AND expires_at <= ?)"

_TAKE = f"""
UPDATE replies AS r SET state = 'sending', sent_at = ?, command_status = NULL
WHERE r.id = ? AND r.state = 'waiting' AND r.expires_at > ? AND {_CONFIRMED}
RETURNING id, link, (SELECT key_id FROM keys WHERE keys.id = replies.key), app, reply_to, expires_at"""

# Not taken: it waits again, unless a newer one has taken its place meanwhile.
_WAIT_AGAIN = """
UPDATE replies SET state = 'waiting', sent_at = NULL, command_status = ?
WHERE id = ? AND state = 'sending' AND NOT EXISTS (
  SELECT 1 FROM replies n WHERE n.subscriber = replies.subscriber AND n.app = replies.app AND n.state = 'waiting')"""

_END = """
UPDATE replies SET state = ?, ended_at = ?, command_status = ?, message_id = ?, reply_to = NULL
WHERE id = ? AND state = 'sending'"""


class Replies:
    """The replies of one store, for intake and for people."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked: dict[str, int] = {}  # how far through each link's waiting replies

    def exchange(self, results: Sequence[ReplyResult], room: Mapping[str, int], now: int) -> list[Reply]:
        """Write what became of replies, and take those that are due: up to `room` of each link.

        What is taken is on disk as being sent before this returns, and is never given again unless a result says
        WAITING. Where there is nothing to do this reads a little and writes nothing. Raises StoreUnavailable; the
        same results may then be given again. `now` in Unix milliseconds.
        """
        due = [number for link, most in room.items() for number in self._due(link, most)][:TAKEN_MAX]
        if not (results or due or self._database.rows(_ANY_EXPIRED, (now,))[0][0]):
            return []
        with self._database.transaction() as connection:
            for one in results:
                if one.state is ReplyState.WAITING:
                    if not connection.execute(_WAIT_AGAIN, (one.command_status, one.number)).rowcount:
                        connection.execute("DELETE FROM replies WHERE id = ? AND state = 'sending'", (one.number,))
                else:
                    ended = (one.state.value, now, one.command_status, one.message_id or None, one.number)
                    connection.execute(_END, ended)
            connection.execute(
                """UPDATE replies SET state = 'expired', ended_at = ?, reply_to = NULL WHERE id IN (
                     SELECT id FROM replies WHERE state = 'waiting' AND expires_at <= ? LIMIT ?)""",
                (now, now, TAKEN_MAX),
            )
            rows = [row for number in due for row in connection.execute(_TAKE, (now, number, now)).fetchall()]
        return [_reply(*row) for row in rows]

    def _due(self, link: str, most: int) -> list[int]:
        """Up to `most` replies of `link` that can be sent, the oldest first; goes on behind where it last ended.

        Many may wait for a platform that is down: they are looked through in steps, round and round.
        """
        rows = self._database.rows(_LOOK, (link, self._looked.get(link, 0), LOOKED_THROUGH))
        found: list[int] = []
        for number, confirmed in rows:
            if confirmed:
                if len(found) == most:
                    return found
                found.append(number)
            self._looked[link] = number
        if len(rows) < LOOKED_THROUGH:
            self._looked.pop(link, None)
        return found

    def sent_in_a_day(self, link: str, now: int) -> int:
        """How many replies left by `link` in the 24 hours before `now`, and were not certainly refused a place."""
        ((count,),) = self._database.rows(
            "SELECT count(*) FROM replies WHERE link = ? AND sent_at > ?", (link, now - DAY_MS)
        )
        return int(count)

    def recover(self, now: int) -> None:
        """After a start: what was being sent may have been taken, and is not sent again."""
        self._give_up(now, "state = 'sending'")

    def sweep(self, now: int) -> None:
        """Give up what nobody has in hand any more."""
        self._give_up(now, "state = 'sending' AND sent_at < ?", now - NO_ANSWER_MS)

    def expire(self, before: int) -> int:
        """Delete what ended before that time, in Unix milliseconds; how many, at most STEP_ROWS a call."""
        return delete_some(self._database, "replies", "id", "ended_at < ?", before)

    def abandon(self, now: int) -> None:
        """After a backup was restored: what it calls waiting may have been sent since."""
        self._give_up(now, "state IN ('waiting', 'sending')")

    def _give_up(self, now: int, which: str, *parameters: int) -> None:
        while self._database.rows(f"SELECT EXISTS (SELECT 1 FROM replies WHERE {which})", parameters)[0][0]:
            with self._database.transaction() as connection:
                connection.execute(
                    f"""UPDATE replies SET state = 'unknown', ended_at = ?, reply_to = NULL WHERE id IN (
                          SELECT id FROM replies WHERE {which} LIMIT ?)""",
                    (now, *parameters, STEP_ROWS),
                )

    def listing(self, *, mdn: str | None = None, after: int = 0, limit: int) -> list[dict[str, Any]]:
        """Replies for people, from number `after` on; a waiting one was told `command_status` when it was last sent."""
        condition = "r.id > ?"
        parameters: list[Any] = [after]
        if mdn is not None:
            condition += " AND r.subscriber = (SELECT number FROM subscribers WHERE mdn = ?)"
            parameters.append(mdn)
        return self._database.records(
            (
                *("reply", "mdn", "app_id", "key_id", "link", "state", "wanted_at", "expires_at", "sent_at"),
                *("ended_at", "command_status", "message_id"),
            ),
            f"""SELECT r.id, s.mdn, r.app, k.key_id, r.link, r.state, r.wanted_at, r.expires_at, r.sent_at,
                 r.ended_at, r.command_status, r.message_id
               FROM replies r JOIN subscribers s ON s.number = r.subscriber JOIN keys k ON k.id = r.key
               WHERE {condition} ORDER BY r.id LIMIT ?""",
            (*parameters, limit),
        )


def _reply(number: int, link: str, key_id: str, app: str, reply_to: str, expires_at: int) -> Reply:
    to = load_reply_to(reply_to)
    assert to is not None
    return Reply(number=number, link=link, key_id=key_id, app_id=app, to=to, expires_at=expires_at)
