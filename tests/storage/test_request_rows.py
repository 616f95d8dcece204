"""What requests change in SQLite, and what they leave there."""

from __future__ import annotations

from kmp_smsd.storage import Store, open_store
from kmp_smsd.storage.requests import Add, Renumber
from kmp_smsd.storage.rows import STEP_ROWS
from tests.storage.contract.test_requests import asked
from tests.storage.stock import NOW, A, B


def test_no_transaction_changes_more_rows_than_it_may(store: Store) -> None:
    changed: list[int] = []
    apps = tuple(f"app-{number}" for number in range(100))
    wishes = [asked(str(number), Add(f"86139{number:08}", apps)) for number in range(100)]
    wishes += [asked(f"r{number}", Renumber(f"86139{number:08}", f"86138{number:08}")) for number in range(100)]
    before = store._database.connection.total_changes
    while wishes:
        wishes = wishes[len(store.requests.apply(wishes, NOW)) :]
        changed.append(store._database.connection.total_changes - before)
        before += changed[-1]
    assert STEP_ROWS <= max(changed) <= STEP_ROWS + 2_000


def test_numbers_are_not_in_what_is_remembered(store: Store) -> None:
    wishes = [asked("1", Add(A, ("meter",))), asked("2", Renumber(A, B)), asked("3", Renumber(A, B))]
    store.requests.apply(wishes, NOW)
    kept = store._database.rows("SELECT id, digest, result FROM requests")
    assert len(kept) == len(wishes)
    assert not any(mdn[-8:] in repr(row) for row in kept for mdn in (A, B))


def test_result_that_is_only_repeated_is_committed_again(store: Store) -> None:
    """Who got no result before, because the command was killed in the sync of its commit, may get it unsynced now."""
    wishes = [asked("1", Add(A, ("meter",))), asked("2", Renumber(B, A))]
    first = store.requests.apply(wishes, NOW)
    with open_store(store._database.path) as other:
        before = other.data_version()
        assert store.requests.apply(wishes, NOW) == first
        assert other.data_version() != before
    assert store._database.rows("PRAGMA synchronous") == [(2,)]  # FULL: a commit syncs all of the log
