from __future__ import annotations

import errno

import pytest

from kmp_smsd.storage import StoreUnavailable, figures, open_files, open_store
from kmp_smsd.storage.figures import DueFigures, RejectedFigures
from kmp_smsd.storage.migrations import known
from tests.storage.fresh import new_database
from tests.storage.stock import NOW


@pytest.fixture
def store(tmp_path):
    new_database(tmp_path / "kmp.db")
    with open_store(tmp_path / "kmp.db") as opened:
        yield opened


def fill(store, count, platform="metering", *, first=1, rejected=False):
    """Rows that are due, or rejected; each tried again later than the one before it, and wished for earlier."""
    with store._database.transaction() as connection:
        connection.executemany(
            """INSERT INTO outbox (subscriber, app, platform, key, wanted_version, rejected_version, wanted_at, try_at)
               VALUES (?, 'meter', ?, 1, 7, ?, ?, ?)""",
            [(n, platform, 7 if rejected else 0, NOW - n, NOW + n) for n in range(first, first + count)],
        )


def test_an_empty_store_has_a_size_and_nothing_else(store):
    found = store.figures.store()
    assert (found.schema, found.journal_head) == (len(known()), 0)
    assert found.octets > 0
    assert store.figures.due("metering") == DueFigures(0, False, None)
    assert store.figures.rejected("metering") == RejectedFigures(0, False)


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_file_that_is_gone_is_told_with_what_to_do(store, tmp_path, suffix):
    (tmp_path / f"kmp.db{suffix}").unlink()
    with pytest.raises(StoreUnavailable, match="was removed or replaced under us: stop both roles"):
        store.figures.store()


def test_a_directory_that_was_closed_to_a_role_is_told_with_what_opens_it(store, monkeypatch):
    def closed(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(open_files, "_identity", closed)  # root, who runs this, sees into every directory
    with pytest.raises(StoreUnavailable) as caught:
        store.figures.store()
    assert str(caught.value).endswith(
        "kmp.db: Permission denied: owners and modes have to be as 'systemd-tmpfiles --create kmp-smsd.conf' sets them"
    )


@pytest.mark.parametrize("step_rows", [1, 2, 5, 100])
def test_due_rows_are_counted_whatever_the_steps(store, monkeypatch, step_rows):
    monkeypatch.setattr(figures, "READ_ROWS", step_rows)
    fill(store, 5)
    fill(store, 3, "fleet", first=10)
    fill(store, 2, first=20, rejected=True)
    fill(store, 4, "fleet", first=30, rejected=True)
    assert store.figures.due("metering") == DueFigures(5, False, NOW - 5)
    assert store.figures.due("fleet") == DueFigures(3, False, NOW - 12)
    assert [store.figures.rejected(name).count for name in ("metering", "fleet", "north")] == [2, 4, 0]


def test_counting_ends_where_it_would_take_too_long(store):
    fill(store, 5)
    assert store.figures.due("metering", at_most=5) == DueFigures(5, False, NOW - 5)
    assert store.figures.due("metering", at_most=3) == DueFigures(3, True, NOW - 4)
    fill(store, 5, first=10, rejected=True)
    assert store.figures.rejected("metering", at_most=5) == RejectedFigures(5, False)
    assert store.figures.rejected("metering", at_most=3) == RejectedFigures(3, True)


def test_rows_of_one_time_are_each_counted_once(store, monkeypatch):
    monkeypatch.setattr(figures, "READ_ROWS", 2)
    fill(store, 5)
    with store._database.transaction() as connection:
        connection.execute("UPDATE outbox SET try_at = 1")
    assert store.figures.due("metering").count == 5


def test_a_probe_is_a_commit_that_others_see(store, tmp_path):
    with open_store(tmp_path / "kmp.db") as other:
        before = other.data_version()
        store.figures.probe()
        assert other.data_version() != before


def test_a_probe_of_a_database_that_was_replaced_fails(store, tmp_path):
    (tmp_path / "kmp.db").rename(tmp_path / "aside.db")
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.figures.probe()


def test_the_size_of_a_database_that_is_gone_is_a_fault_of_the_store(store, tmp_path):
    (tmp_path / "kmp.db").rename(tmp_path / "aside.db")
    with pytest.raises(StoreUnavailable):
        store.figures.store()


def test_counting_uses_the_indexes(store):
    plans = []
    rows = store._database.rows

    def explained(sql, parameters=()):
        plans.extend(row[3] for row in rows(f"EXPLAIN QUERY PLAN {sql}", parameters))
        return rows(sql, parameters)

    store._database.rows = explained
    store.figures.due("metering")
    store.figures.rejected("metering")
    assert [step for step in plans if "outbox" in step] == [
        "SEARCH outbox USING INDEX outbox_due (platform=? AND try_at=? AND rowid>?)",
        "SEARCH outbox USING INDEX outbox_due (platform=? AND try_at>?)",
        "SEARCH outbox USING INDEX outbox_rejected (platform=? AND id>?)",
    ]
