"""Which pages others change, as who looks through the file is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import Store, open_store
from kmp_smsd.storage.changes import Changes
from kmp_smsd.storage.checkpoint import PASSIVE, in_log, move_log, pages_in_log
from kmp_smsd.storage.connection import PAGE_OCTETS
from tests.storage.stock import A, B, register


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


@pytest.fixture
def changes(path: Path, store: Store) -> Iterator[Changes]:
    """From an empty log on."""
    with closing(Changes(store._database.connection, path)) as changes:
        changes.let_move()
        assert changes.end() is None  # not known before
        with store._database.alone():
            assert store._database.empty_log()
            changes.begin()
        yield changes


def test_all_pages_that_were_changed_are_told_once(path: Path, store: Store, changes: Changes) -> None:
    register(store, A, "meter")
    register(store, B, "meter")
    _, frames, _ = in_log(store._database.connection)
    assert 0 < len(pages_in_log(path, frames, PAGE_OCTETS)) < frames
    offsets = [(page - 1) * PAGE_OCTETS for page in sorted(pages_in_log(path, frames, PAGE_OCTETS))]
    assert changes.end() == offsets
    assert changes.end() is None


def test_none_are_known_once_it_is_closed(store: Store, changes: Changes) -> None:
    register(store, A, "meter")
    changes.close()
    assert changes.end() is None


class Failing:
    """A connection that cannot begin to read."""

    closed = False

    def execute(self, _sql: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    def close(self) -> None:
        self.closed = True


def test_beginning_that_fails_leaves_what_was_begun_before(
    store: Store, changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, A, "meter")
    failing = Failing()
    monkeypatch.setattr("kmp_smsd.storage.changes.connect", lambda _: failing)
    with pytest.raises(sqlite3.OperationalError):
        changes.begin()
    assert failing.closed
    assert changes.end()


def test_log_is_whole_and_the_file_as_it_was_until_both_may_change(path: Path, store: Store, changes: Changes) -> None:
    before = path.read_bytes()
    register(store, A, "meter")
    move_log(store._database.connection, path, PASSIVE)
    assert in_log(store._database.connection)[2] == 0
    assert path.read_bytes() == before
    changes.let_move()
    move_log(store._database.connection, path, PASSIVE)
    _, pages, moved = in_log(store._database.connection)
    assert pages == moved > 0
    with store._database.alone():
        assert not store._database.empty_log()  # which would forget what was changed
    assert changes.end() != []
    with store._database.alone():
        assert store._database.empty_log()
