"""Whether the database is whole, and whether what it says is true of all its rows. Reads in steps, and writes nothing.

While a step reads, the write-ahead log cannot begin anew: it grows by what others write meanwhile. Intake does not wait
for it. The longest step is SQLite's own check of the largest table; all other steps end after a thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import StoreBusy, StoreError
from kmp_smsd.storage.locks import ImportLock
from kmp_smsd.storage.rows import READ_ROWS

FAULTS_MAX = 20  # that are named; the others are counted

_AT_THIS_PLACE = "SELECT 1 FROM outbox o WHERE o.subscriber = r.subscriber AND o.app = r.app"


@dataclass(frozen=True, slots=True)
class Invariant:
    """What is true of every row `r` of a table at every commit: `broken` is SQL that is true of one that is not."""

    name: str
    says: str
    table: str
    place: tuple[str, ...]  # the columns that tell of it, the primary key first
    broken: str


INVARIANTS = (
    Invariant(
        "imported_is_there",
        "each import has the keys that it brought",
        "imports",
        ("id",),
        "r.live_at IS NOT NULL AND r.keys <> (SELECT count(*) FROM keys k WHERE k.import = r.id)",
    ),
    Invariant(
        "bound_is_wanted",
        "each key that is bound is wanted at one platform",
        "bindings",
        ("id",),
        f"r.state = 'bound' AND (SELECT count(*) FROM ({_AT_THIS_PLACE} AND o.key = r.key)) <> 1",
    ),
    Invariant(
        "bound_is_registered",
        "each binding has its registration",
        "bindings",
        ("id",),
        """r.state = 'bound' AND NOT EXISTS (
             SELECT 1 FROM registrations g WHERE g.subscriber = r.subscriber AND g.app = r.app)""",
    ),
    Invariant(
        "bound_key_is_good",
        "each key that is bound was imported, and is neither revoked nor destroyed",
        "bindings",
        ("id",),
        """r.state = 'bound' AND NOT EXISTS (
             SELECT 1 FROM keys k JOIN imports i ON i.id = k.import
             WHERE k.id = r.key AND k.state IN ('live', 'suspended') AND i.live_at IS NOT NULL)""",
    ),
    Invariant(
        "wanted_is_bound",
        "each key that is wanted is bound there",
        "outbox",
        ("id", "subscriber", "app", "platform"),
        """r.key IS NOT NULL AND NOT EXISTS (
             SELECT 1 FROM bindings b
             WHERE b.key = r.key AND b.state = 'bound' AND b.subscriber = r.subscriber AND b.app = r.app)""",
    ),
    Invariant(
        "one_key_wanted",
        "no MDN and app want a key at two platforms",
        "outbox",
        ("id", "subscriber", "app", "platform"),
        f"r.key IS NOT NULL AND EXISTS ({_AT_THIS_PLACE} AND o.platform <> r.platform AND o.key IS NOT NULL)",
    ),
    Invariant(
        "key_has_the_last_word",
        "no withdrawal has a higher version than the key that is wanted",
        "outbox",
        ("id", "subscriber", "app", "platform"),
        f"r.key IS NOT NULL AND EXISTS ({_AT_THIS_PLACE} AND o.wanted_version > r.wanted_version)",
    ),
    Invariant(
        "versions_in_order",
        "nothing was confirmed or rejected at a version that was never wanted",
        "outbox",
        ("id", "subscriber", "app", "platform"),
        "max(r.confirmed_version, r.rejected_version) > r.wanted_version",
    ),
    Invariant(
        "wanted_has_a_number",
        "whatever is wanted is wanted for a number that is not erased",
        "outbox",
        ("id", "subscriber", "app", "platform"),
        "NOT EXISTS (SELECT 1 FROM subscribers s WHERE s.number = r.subscriber AND s.mdn IS NOT NULL)",
    ),
    Invariant(
        "erased_has_nothing",
        "nothing hangs on a number that is erased",
        "subscribers",
        ("number",),
        """r.mdn IS NULL AND (EXISTS (SELECT 1 FROM registrations g WHERE g.subscriber = r.number)
             OR EXISTS (SELECT 1 FROM waiting w WHERE w.subscriber = r.number)
             OR EXISTS (SELECT 1 FROM bound b WHERE b.subscriber = r.number))""",
    ),
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one check. `faults` are the first of `count` faults, in words; `rows` were looked at."""

    name: str
    says: str
    rows: int | None = None
    faults: tuple[str, ...] = ()
    count: int = 0


class Checking:
    """Checks one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def steps(self) -> int:
        """How many results `check` yields where the database is whole."""
        return 2 + len(self._tables()) + len(INVARIANTS)

    def check(self) -> Iterator[Checked]:
        """Check everything; yields each result as it is there. Where a table is damaged, nothing else is asked of it.

        Raises StoreUnavailable where reading fails for another reason than damage.
        """
        self._database.connection.execute("PRAGMA query_only = ON")
        try:
            whole = True
            for table in self._tables():
                result = self._whole(table)
                whole = whole and not result.count
                yield result
            if whole:
                yield self._references()
                for invariant in INVARIANTS:
                    yield self._true(invariant)
                yield self._staged()
        finally:
            self._database.connection.execute("PRAGMA query_only = OFF")

    def _tables(self) -> list[str]:
        return [
            name
            for (name,) in self._database.rows(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
        ]

    def _whole(self, table: str) -> Checked:
        """What SQLite says of a table and its indexes."""
        name, says = f"whole_{table.strip('_')}", f"table {table} and its indexes are whole"
        try:
            said = [row[0] for row in self._database.rows(f"PRAGMA integrity_check({table})")]
        except StoreError as error:  # so damaged that it cannot even be checked
            return Checked(name, says, None, (str(error),), 1)
        faults = [] if said == ["ok"] else said
        return Checked(name, says, None, tuple(faults[:FAULTS_MAX]), len(faults))

    def _references(self) -> Checked:
        rows = [row for table in self._tables() for row in self._database.rows(f"PRAGMA foreign_key_check({table})")]
        faults = tuple(
            f"{table} row {rowid or '(no number)'} refers to no {parent}" for table, rowid, parent, _ in rows
        )
        return Checked("references", "whatever a row refers to exists", None, faults[:FAULTS_MAX], len(faults))

    def _true(self, invariant: Invariant) -> Checked:
        """Walk a table; each step sees one commit, and the rows of others as they were at it."""
        primary = invariant.place[0]
        after = rows = count = 0
        faults: list[str] = []
        while True:
            step = self._database.rows(
                f"""SELECT {", ".join(invariant.place)}, {invariant.broken} FROM (
                      SELECT * FROM {invariant.table} WHERE {primary} > ? ORDER BY {primary} LIMIT ?) r""",
                (after, READ_ROWS),
            )
            rows += len(step)
            for *where, broken in step:
                if broken:
                    count += 1
                    if len(faults) < FAULTS_MAX:
                        faults.append(_named(invariant, where))
            if len(step) < READ_ROWS:
                return Checked(invariant.name, invariant.says, rows, tuple(faults), count)
            after = step[-1][0]

    def _staged(self) -> Checked:
        """Imports that were broken off, and whose keys wait for the next import to discard them."""
        left: list[Any] = []
        with suppress(StoreBusy):  # an import is running: its keys are staged, and nothing is left over
            with closing(ImportLock(self._database.path)):
                left = self._database.rows("SELECT id, file_name FROM imports WHERE live_at IS NULL")
        faults = tuple(f"import {number} of {name} was broken off" for number, name in left)
        return Checked("staged", "no import was broken off", None, faults[:FAULTS_MAX], len(faults))


def _named(invariant: Invariant, where: list[Any]) -> str:
    """A row by its numbers: no MDN, since what is checked goes into tickets."""
    return f"{invariant.table}: " + " ".join(
        f"{name} {value or repr('')}" for name, value in zip(invariant.place, where, strict=True)
    )
