"""Finding what a file says twice, in constant memory: a sort in a private temporary file that has no name."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kmp_smsd.storage.volume import free_octets, reserve_octets

_BATCH: Final = 5000
_CACHE_KIB: Final = 16_384
# What sorting takes beside it, of what was remembered (measured: 1.8 to 2.4, and 3.4 where each is there twice), where
# that is more octets than are sorted in memory.
_SORTED: Final = (2.5, 16 << 20)
_SORTED_AGAIN: Final = (3.5, 6 << 20)


class Repeated:
    """Remembers identifiers by their lines, then tells which are equal and which differ only in case.

    Never give it a key. SQLite removes the file's name at once and its octets when it is closed. Raises OSError where
    the temporary directory is full.
    """

    def __init__(self) -> None:
        self._directory = temporary_directory()
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            f"""
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_size = -{_CACHE_KIB};
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
        return self._lines("lower(text)", "text <> first_text")

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
            self._leave_room(*_SORTED_AGAIN)
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
            self._leave_room(*_SORTED)
            self._database.executemany("INSERT INTO seen VALUES (?, ?)", self._batch)
        self._batch.clear()

    def _leave_room(self, times: float, in_memory: int) -> None:
        """Raise OSError where there is no room for so many times what is remembered, if that is more than `in_memory`.

        The database and its messages may be on that volume, so a part is left of it.
        """
        ((octets,),) = self._database.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        free, wanted = free_octets(self._directory), int(octets * times)
        if octets > in_memory and free < wanted + reserve_octets(self._directory):
            raise OSError(
                f"{self._directory} has {free // 1_000_000:,} MB left, and to sort the file's identifiers there takes"
                f" {wanted // 1_000_000:,} MB besides what stays free: make room there, or name another directory in"
                " TMPDIR"
            )


def temporary_directory() -> Path:
    """Where SQLite has its files without a name (https://sqlite.org/tempfiles.html, section 5)."""
    named = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
    for one in (*named, "/var/tmp", "/usr/tmp", "/tmp"):
        if one and os.path.isdir(one) and os.access(one, os.W_OK | os.X_OK):
            return Path(one)
    return Path()


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        room = f"{temporary_directory()}, where the file's identifiers are sorted"
        raise OSError(f"{room}: {error}: make room there, or name another directory in TMPDIR") from error
