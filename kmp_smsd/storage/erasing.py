"""Erasing subscribers: what hangs on one goes, its keys are withdrawn, and in the end its MDN is blanked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kmp_smsd.storage.bindings import close_holds, end_bindings
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.rows import STEP_ROWS
from kmp_smsd.storage.subscribers import all_apps

#: What a subscriber has that is deleted with it. Ended bindings, settled holds and the journal know its number alone;
#: so do replies that ended, which count for what their link may cost in a day.
DELETED = ("registrations", "waiting", "submissions")
_DELETE_REPLIES = "DELETE FROM replies WHERE subscriber = ? AND state IN ('waiting', 'sending')"

SWEEP_ROWS = 2_000  # subscribers that one step of a sweep, or of a look at those being erased, goes through
BLANK_ROWS = STEP_ROWS  # rows that one transaction of blanking changes, before it takes no further subscriber

_UNCONFIRMED = """
SELECT 1 FROM outbox o WHERE o.subscriber = s.number AND o.wanted_version <> o.confirmed_version"""

# All its platforms have confirmed that they hold nothing for it.
_LET_GO = f"s.erasing_at IS NOT NULL AND NOT EXISTS ({_UNCONFIRMED})"

# What nobody needs: heard of long ago, and nothing hangs on it.
_NEEDLESS = f"""s.mdn IS NOT NULL AND s.last_heard < ?
  AND NOT EXISTS (SELECT 1 FROM registrations r WHERE r.subscriber = s.number)
  AND NOT EXISTS (SELECT 1 FROM bound b WHERE b.subscriber = s.number)
  AND NOT EXISTS (SELECT 1 FROM waiting w WHERE w.subscriber = s.number)
  AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.subscriber = s.number AND h.state IN ('open', 'refused'))
  AND NOT EXISTS (SELECT 1 FROM submissions u WHERE u.subscriber = s.number AND u.outcome IS NULL)
  AND NOT EXISTS ({_UNCONFIRMED})"""


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A platform that may still hold a key for an app of a subscriber that is erased."""

    app_id: str
    platform: str
    rejected: bool


@dataclass(frozen=True, slots=True)
class Erased:
    """How far an erasure has come: `known` until the MDN is blanked."""

    known: bool
    blanked: bool
    unconfirmed: tuple[Unconfirmed, ...] = ()


class Erasing:
    """Erases subscribers: by command, when the last platform has confirmed, and when nobody needs a number."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._swept = 0  # the number up to which the sweep has come
        self.sweeping = False
        self._looked = 0  # likewise the look at those being erased

    def erase(self, mdn: str, now: int, *, at_once: bool = False) -> Erased:
        """Remove all that hangs on `mdn` and want nothing at its platforms, in one transaction.

        It is blanked once they have confirmed that, or `at_once`: then nobody tells those in `unconfirmed` any more.
        Copies stay in the files until `clear`. To erase again is harmless. Raises NotPossible, before anything is
        changed, where that is too much for one transaction.
        """
        with self._database.transaction() as connection:
            found = connection.execute("SELECT number FROM subscribers WHERE mdn = ?", (mdn,)).fetchone()
            if found is None:
                return Erased(known=False, blanked=False)
            (number,) = found
            _remove_all(connection, number, now)
            unconfirmed = _unconfirmed(connection, number)
            blanked = at_once or not unconfirmed
            if blanked:
                _blank(connection, number)
        return Erased(True, blanked, unconfirmed)

    def clear(self) -> bool:
        """See that what was erased is in no file of the database any more; False where somebody reads it."""
        ((asked,),) = self._database.rows("SELECT erase_log FROM store")
        return not asked or self._database.scrubber.scrub()

    def finish(self) -> bool:
        """Blank whom all platforms have let go; whether there are others still. One step of a walk over them."""
        rows = self._database.rows(
            f"""SELECT s.number, {_LET_GO} FROM subscribers s
                WHERE s.erasing_at IS NOT NULL AND s.number > ? ORDER BY s.number LIMIT ?""",
            (self._looked, SWEEP_ROWS),
        )
        began, self._looked = self._looked, rows[-1][0] if len(rows) == SWEEP_ROWS else 0
        rest = [number for number, confirmed in reversed(rows) if confirmed]
        blanked = 0
        while rest:
            blanked += self._blank_some(rest, _LET_GO)
        return began > 0 or self._looked > 0 or blanked < len(rows)

    def sweep(self, heard_before: int) -> int:
        """Blank numbers that nobody needs, last heard before that time (Unix milliseconds); how many.

        One step of a walk over all subscribers, which begins again at its end; one transaction at most, and only where
        it found some. `sweeping` says whether it found more than that.
        """
        rows = self._database.rows(
            f"""SELECT s.number, {_NEEDLESS}
                FROM (SELECT * FROM subscribers WHERE number > ? ORDER BY number LIMIT ?) s""",
            (heard_before, self._swept, SWEEP_ROWS),
        )
        rest = [number for number, needless in reversed(rows) if needless]
        blanked = self._blank_some(rest, _NEEDLESS, heard_before) if rest else 0
        self.sweeping = bool(rest)
        if rest:
            self._swept = rest[-1] - 1
        else:
            self._swept = rows[-1][0] if len(rows) == SWEEP_ROWS else 0
        return blanked

    def _blank_some(self, rest: list[int], condition: str, *parameters: int) -> int:
        """Take from the end of `rest`, and blank where `condition` is still true, as many as a step may; how many.

        Since they were looked up, a message may have come, or a platform's keys may be wanted again.
        """
        blanked = 0
        with self._database.transaction() as connection:
            began = connection.total_changes
            while rest and connection.total_changes - began < BLANK_ROWS:
                number = rest.pop()
                if connection.execute(
                    f"SELECT 1 FROM subscribers s WHERE s.number = ? AND {condition}", (number, *parameters)
                ).fetchone():
                    _blank(connection, number)
                    blanked += 1
        return blanked

    def show(self, mdn: str) -> dict[str, Any] | None:
        """What is known of `mdn`; None where nothing is."""
        rows = self._database.rows
        found = rows("SELECT number, last_heard, erasing_at FROM subscribers WHERE mdn = ?", (mdn,))
        if not found:
            return None
        number, last_heard, erasing_at = found[0]
        registered = rows("SELECT app FROM registrations WHERE subscriber = ? ORDER BY app", (number,))
        columns = ("app_id", "platform", "key_id", "wanted_version", "confirmed_version", "rejected_version", "error")
        return {
            "mdn": mdn,
            "subscriber": number,
            "last_heard_at": None if registered else last_heard,  # not kept while it is registered
            "erasing_at": erasing_at,
            "registered": [app_id for (app_id,) in registered],
            "bound": self._database.records(
                ("app_id", "key_id"),
                """SELECT b.app, k.key_id FROM bound b JOIN keys k ON k.id = b.key
                   WHERE b.subscriber = ? ORDER BY b.app""",
                (number,),
            ),
            "ended_bindings": rows(
                "SELECT count(*) FROM bindings WHERE subscriber = ? AND state <> 'bound'", (number,)
            )[0][0],
            "holds": rows(
                "SELECT count(*) FROM holds WHERE subscriber = ? AND state IN ('open', 'refused')", (number,)
            )[0][0],
            "waiting": rows("SELECT count(*) FROM waiting WHERE subscriber = ?", (number,))[0][0],
            "unconfirmed": self._database.records(
                columns,
                """SELECT o.app, o.platform, k.key_id, o.wanted_version, o.confirmed_version, o.rejected_version,
                     o.error
                   FROM outbox o LEFT JOIN keys k ON k.id = o.key
                   WHERE o.subscriber = ? AND o.wanted_version <> o.confirmed_version ORDER BY o.app, o.platform""",
                (number,),
            ),
        }


def _remove_all(connection: Any, number: int, now: int) -> None:
    all_apps(connection, number)
    for (app_id,) in connection.execute("SELECT app FROM bound WHERE subscriber = ?", (number,)).fetchall():
        end_bindings(connection, "subscriber erased", now, subscriber=number, app_id=app_id)
    for (app_id,) in connection.execute(
        "SELECT DISTINCT app FROM holds WHERE subscriber = ? AND state IN ('open', 'refused')", (number,)
    ).fetchall():
        close_holds(connection, now, subscriber=number, app_id=app_id)
    for table in DELETED:
        connection.execute(f"DELETE FROM {table} WHERE subscriber = ?", (number,))
    connection.execute(_DELETE_REPLIES, (number,))
    connection.execute("UPDATE subscribers SET erasing_at = ? WHERE number = ? AND erasing_at IS NULL", (now, number))


def _unconfirmed(connection: Any, number: int) -> tuple[Unconfirmed, ...]:
    return tuple(
        Unconfirmed(app_id, platform, bool(rejected))
        for app_id, platform, rejected in connection.execute(
            """SELECT app, platform, wanted_version = rejected_version FROM outbox
               WHERE subscriber = ? AND wanted_version <> confirmed_version ORDER BY app, platform""",
            (number,),
        )
    )


def _blank(connection: Any, number: int) -> None:
    """Forget the MDN of this subscriber. Without one nothing can be delivered or decided, so that goes too.

    The highest version of all is kept: a platform that keeps it for the MDN accepts only a higher one, should the MDN
    come again as a new subscriber.
    """
    connection.execute(
        """UPDATE store SET blanked_version = highest
           FROM (SELECT max(max(wanted_version, confirmed_version)) AS highest FROM outbox WHERE subscriber = ?)
           WHERE highest > blanked_version""",
        (number,),
    )
    for table in ("outbox", "submissions"):
        connection.execute(f"DELETE FROM {table} WHERE subscriber = ?", (number,))
    connection.execute(_DELETE_REPLIES, (number,))
    connection.execute("UPDATE subscribers SET mdn = NULL, erasing_at = NULL WHERE number = ?", (number,))
    connection.execute("UPDATE store SET erase_log = erase_log + 1")
