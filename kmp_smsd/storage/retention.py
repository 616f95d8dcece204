"""What goes when it is old: journal entries, tallies and ended bindings, in small steps between the batches of intake.

A step that has found something old, and has not looked at all that there is, is not `done`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmp_smsd.domain.spans import HOUR_MS
from kmp_smsd.storage.database import Database

RETENTION_ROWS = 1_000  # that one step looks at: a batch of messages may be waiting for its end

# The newest entry stays, whatever its age: no number is given twice.
_JOURNAL = """
SELECT id, at < ? FROM journal WHERE id > ? AND id < (SELECT max(id) FROM journal) ORDER BY id LIMIT ?"""

_TALLIES = "SELECT hour, link, outcome, sender FROM tallies WHERE hour < ? ORDER BY hour LIMIT ?"

# An ended binding stays
# * where a newer one of its key does not say that the key has been bound: the newest tells, and gives no number twice;
# * as evidence of a hold, or as what a standing hold of the same key, MDN and app is judged by;
# * while a platform may hold its key: `keys destroy` finds by it where to look.
_NEEDLESS = """b.state <> 'bound' AND b.ended_at < ?
  AND (EXISTS (SELECT 1 FROM bindings n WHERE n.key = b.key AND n.state = 'bound')
       OR EXISTS (SELECT 1 FROM bindings n WHERE n.key = b.key AND n.state <> 'bound' AND n.id > b.id))
  AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.elsewhere = b.id)
  AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.occupant = b.id)
  AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.key = b.key AND h.subscriber = b.subscriber AND h.app = b.app
                    AND h.state IN ('open', 'refused'))
  AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.subscriber = b.subscriber AND o.app = b.app
                    AND o.wanted_version <> o.confirmed_version)"""

_BINDINGS = f"""
SELECT b.id, {_NEEDLESS}
FROM (SELECT * FROM bindings WHERE id > ? ORDER BY id LIMIT ?) b"""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to: how many rows it deleted, and whether nothing is left for another one now."""

    deleted: int
    done: bool


class Retention:
    """Takes one step at a time. `before` is Unix milliseconds: what is as old as that, or younger, stays."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._walked = 0  # the binding up to which the walk has come
        self._passed = 0  # the entry of the journal up to which its walk has come

    def journal(self, before: int) -> Step:
        """Delete the oldest entries of the journal, which are the first ones.

        Entries that seem to come from the future, since the clock was wrong, stay and hold up no others: where the
        first ones are not all old, the step looks at some more, in a walk over all that begins again.
        """
        rows = self._database.rows(_JOURNAL, (before, 0, RETENTION_ROWS))
        looked_at_all = len(rows) < RETENTION_ROWS
        if not looked_at_all and not all(is_old for _, is_old in rows):
            more = self._database.rows(_JOURNAL, (before, max(self._passed, rows[-1][0]), RETENTION_ROWS))
            looked_at_all = len(more) < RETENTION_ROWS
            self._passed = 0 if looked_at_all else more[-1][0]
            rows += more
        found = [(number,) for number, is_old in rows if is_old]
        if found:
            with self._database.transaction() as connection:
                connection.executemany("DELETE FROM journal WHERE id = ?", found)
        return Step(len(found), looked_at_all or not found)

    def tallies(self, before: int) -> Step:
        """Delete the tallies of hours that were over by then."""
        found = self._database.rows(_TALLIES, (before // HOUR_MS, RETENTION_ROWS))
        if found:
            with self._database.transaction() as connection:
                connection.executemany(
                    "DELETE FROM tallies WHERE hour = ? AND link = ? AND outcome = ? AND sender = ?", found
                )
        return Step(len(found), len(found) < RETENTION_ROWS)

    def ended_bindings(self, before: int) -> Step:
        """Delete bindings that ended earlier and that nothing needs. One step of a walk over all, which begins again.

        `before` must lie so far back that no request can still come whose lateness they tell.
        """
        rows = self._database.rows(_BINDINGS, (before, self._walked, RETENTION_ROWS))
        self._walked = rows[-1][0] if len(rows) == RETENTION_ROWS else 0
        found = [(number,) for number, needless in rows if needless]
        deleted = 0
        if found:
            with self._database.transaction() as connection:
                for number in found:  # since then a hold may have taken one as evidence, or a platform been told
                    deleted += connection.execute(
                        f"""DELETE FROM bindings WHERE id = (
                              SELECT b.id FROM bindings b WHERE b.id = ? AND {_NEEDLESS})""",
                        (*number, before),
                    ).rowcount
        return Step(deleted, True)
