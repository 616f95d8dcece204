"""`db check`: a database that went through everything is true, and each untruth and damage is found."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.storage import Store, checking, open_store
from kmp_smsd.storage.checking import INVARIANTS, Checked
from tests.storage.fresh import new_database
from tests.storage.stock import (
    LATER,
    MOVING,
    NOW,
    A,
    B,
    C,
    begin_import,
    confirm_all,
    import_keys,
    register,
    settle,
    staged,
    sync,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database in which keys were bound, moved, withdrawn and erased, and an app changed its platform."""
    path = tmp_path / "kmp.db"
    new_database(path)
    with open_store(path, MOVING) as store:
        store.routes.set({"meter": "metering", "tracker": "fleet"})
        import_keys(store, "k1", "k2", "k3", "k4")
        for mdn in (A, B, C):
            register(store, mdn, "meter", "tracker")
        settle(store, sync(A, "k1", "meter"), sync(B, "k1", "meter", received_at=NOW + 1), sync(C, "k2", "tracker"))
        store.holds.listing(limit=1)
        store.bindings.withdraw(C, "tracker", NOW + 2)
        settle(store, sync(A, "k3", "tracker", received_at=NOW + 3), sync(C, "k4", "meter", received_at=NOW + 3))
        confirm_all(store)
        store.routes.set({"meter": "fleet"})
        list(store.routes.move(NOW + 4))
        confirm_all(store, "fleet", LATER)
        confirm_all(store, "metering", LATER)
        store.erasing.erase(C, NOW + 5)
        confirm_all(store, "fleet", LATER)
        store.erasing.finish()
    return path


def faults(path: Path) -> dict[str, tuple[str, ...]]:
    with open_store(path) as store:
        return {one.name: one.faults for one in store.checking.check() if one.count}


def sabotage(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_database_that_went_through_everything_is_true(path: Path) -> None:
    assert faults(path) == {}


def test_every_row_is_looked_at_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path) as store:
        whole = list(store.checking.check())
        monkeypatch.setattr(checking, "READ_ROWS", 2)
        assert list(store.checking.check()) == whole
        assert len(whole) == store.checking.steps()
        ((bindings,),) = store._database.rows("SELECT count(*) FROM bindings")
    assert {one.name: one.rows for one in whole}["bound_is_wanted"] == bindings > 4


UNTRUE = {
    "imported_is_there": ["DELETE FROM keys WHERE key_id = 'k1'"],
    "bound_is_wanted": ["UPDATE outbox SET key = NULL WHERE key = (SELECT id FROM keys WHERE key_id = 'k1')"],
    "bound_is_registered": ["DELETE FROM registrations"],
    "bound_key_is_good": ["UPDATE keys SET state = 'compromised'"],
    "wanted_is_bound": ["UPDATE bindings SET state = 'withdrawn', ended_at = 1 WHERE state = 'bound'"],
    "one_key_wanted": [
        "UPDATE outbox SET key = (SELECT max(key) FROM outbox o WHERE o.subscriber = outbox.subscriber)"
    ],
    "key_has_the_last_word": ["UPDATE outbox SET wanted_version = wanted_version * 2 WHERE key IS NULL"],
    "versions_in_order": ["UPDATE outbox SET confirmed_version = wanted_version + 1"],
    "wanted_has_a_number": ["UPDATE subscribers SET mdn = NULL"],
    "erased_has_nothing": ["UPDATE subscribers SET mdn = NULL"],
    "references": ["PRAGMA foreign_keys = OFF", "DELETE FROM imports"],
}


@pytest.mark.parametrize("name", UNTRUE)
def test_what_is_untrue_is_found(path: Path, name: str) -> None:
    sabotage(path, *UNTRUE[name])
    assert name in faults(path)


def test_each_invariant_has_a_test_that_breaks_it() -> None:
    assert {one.name for one in INVARIANTS} <= set(UNTRUE)


def test_faults_are_named_by_numbers_and_counted_beyond_the_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "FAULTS_MAX", 1)
    sabotage(path, *UNTRUE["versions_in_order"])
    with open_store(path) as store:
        (found,) = [one for one in store.checking.check() if one.name == "versions_in_order"]
        ((rows,),) = store._database.rows("SELECT count(*) FROM outbox")
    assert (found.count, found.faults) == (rows, ("outbox: id 1 subscriber 1 app meter platform metering",))
    assert A not in str(found)


def test_damage_is_found_and_nothing_else_is_asked_then(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'ended_bindings'").fetchone()
        (octets,) = connection.execute("PRAGMA page_size").fetchone()
    with open(path, "r+b") as file:
        file.seek((root - 1) * octets + 8)
        file.write(b"\xff" * 64)
    with open_store(path) as store:
        found = list(store.checking.check())
    assert [one.name for one in found if one.count] == ["whole_bindings"]
    assert all(one.name.startswith("whole_") for one in found)


def test_import_that_was_broken_off_is_told_and_one_that_runs_is_not(path: Path) -> None:
    with open_store(path) as store:
        number = begin_import(store)
        store.imports.stage(number, [staged("half")])
        assert faults(path) == {}
    assert faults(path) == {"staged": (f"import {number} of keys.csv was broken off",)}


def test_nothing_is_written_while_it_checks_and_again_afterwards(path: Path) -> None:
    with open_store(path) as store:
        steps = store.checking.check()
        assert isinstance(next(steps), Checked)
        with pytest.raises(Exception, match="readonly"):
            _write(store)
        steps.close()
        _write(store)


def _write(store: Store) -> None:
    with store._database.transaction() as connection:
        connection.execute("UPDATE store SET erase_log = 0")


def test_intake_writes_on_while_another_process_checks(path: Path) -> None:
    with open_store(path) as store, open_store(path, MOVING) as intake:
        for one in store.checking.check():
            assert not one.count
            settle(intake, sync(A, "k1", "meter", received_at=NOW + 9), now=NOW + 9)
