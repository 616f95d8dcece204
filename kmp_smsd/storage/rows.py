"""Many rows: how many at a time, and written in few statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from kmp_smsd.storage.database import Database

Row = TypeVar("Row")

#: Who writes many rows writes so many in a transaction at most: each may be on pages of its own, and others wait.
#: What a platform has confirmed lies together: of that more is written (SETTLE_ROWS of service/delivering.py).
STEP_ROWS = 1_000
#: Of one statement that only reads: until its end the log cannot begin anew. Dispatch looks up more, in up to 0.3 s.
READ_ROWS = 1_000
ROWS_MAX = 128  # that one statement writes


def in_steps(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """All of `rows`, so many at a time; they are taken as the steps are."""
    left = iter(rows)
    while step := list(islice(left, size)):
        yield step


def delete_some(database: Database, table: str, key: str, condition: str, *parameters: Any) -> int:
    """Delete at most STEP_ROWS rows of `table` of which `condition` is true, found again by `key`; how many.

    Where there is none, nothing is written, and nobody waits for the write lock.
    """
    if not database.rows(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1", parameters):
        return 0
    with database.transaction() as connection:
        return int(
            connection.execute(
                f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {condition} LIMIT ?)",
                (*parameters, STEP_ROWS),
            ).rowcount
        )


def write_rows(connection: Any, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Execute `statement`, in which ``VALUES {rows}`` stands for `rows`, all of one length.

    As executemany does, but with many rows at a time, which takes a third less: each execution lets another thread of
    Python run, and waits for it. The rows of one execution do not see what the others write.
    """
    for start, end in _portions(len(rows)):
        connection.execute(
            _with_rows(statement, end - start, len(rows[0])), [value for row in rows[start:end] for value in row]
        )


def _portions(count: int) -> Iterator[tuple[int, int]]:
    """Powers of two: of each statement only few different ones are prepared."""
    start = 0
    while start < count:
        end = start + min(ROWS_MAX, 1 << (count - start).bit_length() - 1)
        yield start, end
        start = end


@cache
def _with_rows(statement: str, count: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return statement.format(rows=", ".join([row] * count))
