"""Finding what a file says twice, in constant memory: a sort in a private temporary file that has no name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Final, Self

_BATCH: Final = 5000


class Repeated:
    """Remembers identifiers by their lines, then tells which are equal and which differ only in case.

    Never give it a key. SQLite removes the file's name at once and its octets when it is closed. Raises OSError where
    the temporary directory is full.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            """
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_size = -16384;
            CREATE TABLE seen (line INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
            CREATE TABLE again (folded TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
            BEGIN;
            """
        )
        self._batch: list[tuple[int, str]] = []
        self._any_again: bool | None = None  # None: not looked yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._database.close()

    def add(self, line: int, text: str) -> None:
        """Remember that `text` (ASCII) is on `line`. Each line has one."""
        self._any_again = None
        self._batch.append((line, text))
        if len(self._batch) >= _BATCH:
            self._flush()

    def equal(self) -> Iterator[tuple[int, int]]:
        """Each line whose text was there before, and the line where it was first."""
        return self._lines("text", "line > first")

    def differing_in_case(self) -> Iterator[tuple[int, int]]:
        """Each line whose text was there before in another case, and the first line of all its cases."""
        return self._lines("lower(text)", "text <> first_text AND line > first")

    def _lines(self, same: str, condition: str) -> Iterator[tuple[int, int]]:
        query = f"""
            SELECT line, first FROM (
                SELECT line, text, first_value(line) OVER same AS first, first_value(text) OVER same AS first_text
                FROM seen WHERE lower(text) IN again WINDOW same AS (PARTITION BY {same} ORDER BY line)
            ) WHERE {condition}
        """
        with _faults():
            self._flush()
            if self._any_again is None:
                self._any_again = self._find_again()
            if not self._any_again:
                return
            with closing(self._database.execute(query)) as cursor:
                yield from cursor

    def _find_again(self) -> bool:
        """Whether anything is there twice, in whatever case: one cheap sort, after which most files need no other."""
        self._database.execute(
            "INSERT OR IGNORE INTO again SELECT lower(text) FROM seen GROUP BY lower(text) HAVING count(*) > 1"
        )
        return self._database.execute("SELECT 1 FROM again").fetchone() is not None

    def _flush(self) -> None:
        with _faults():
            self._database.executemany("INSERT INTO seen VALUES (?, ?)", self._batch)
        self._batch.clear()


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"the temporary directory has no room to sort the file's identifiers: {error}") from error
