"""Rows are written in few statements: all of them, once, and in order where the order matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage.rows import ROWS_MAX, write_rows


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, name TEXT)")
        yield connection


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, ROWS_MAX, ROWS_MAX + 1, 3 * ROWS_MAX + 77])
def test_all_rows_are_written(connection: sqlite3.Connection, count: int) -> None:
    rows = [(number, f"{number}'") for number in range(count)]
    write_rows(connection, "INSERT INTO t VALUES {rows}", rows)
    assert connection.execute("SELECT number, name FROM t ORDER BY number").fetchall() == rows


def test_batches_of_all_sizes_need_few_different_statements(connection: sqlite3.Connection) -> None:
    seen: set[str] = set()
    connection.set_trace_callback(lambda statement: seen.add(statement.replace("NULL", "?")))
    for count in range(1, 2 * ROWS_MAX):
        write_rows(connection, "INSERT INTO t (name) VALUES {rows}", [(None,)] * count)
    assert len(seen) == ROWS_MAX.bit_length()
