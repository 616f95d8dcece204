"""Platforms that are gone, and apps that moved to another platform."""

from __future__ import annotations

from contextlib import closing

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.service import dispatch
from kmp_smsd.storage import StoreUnavailable
from tests.service.dispatch.stage import At, DelivererByHand
from tests.service.vendor import make_due, mdn
from tests.storage.stock import import_keys, routes_of, row_at

# Platforms that are gone


def test_platform_without_a_file_is_forgotten_when_somebody_wishes_so(start):
    at = start()
    at.look(3)
    at.make_due(1)
    with closing(sqlite3.connect(str(at.store._database.path), isolation_level=None)) as connection:
        connection.execute("UPDATE routes SET platform = 'gone' WHERE app = 'app-1'")
        connection.execute("UPDATE outbox SET platform = 'gone'")
    at.store.platforms.wish_forgotten("gone", at.now)
    at.store.platforms.wish_forgotten("p2", at.now)
    at.look(10)
    assert at.store.platforms.to_forget([]) == ["p2"]  # whose file was still there when dispatch began
    assert row_at(at.store, mdn(1), "app-1", "p1")["key_id"] == "KEY-1"
    assert at_platform(at, "gone") == 0
    assert at.begun() == ["p1"]


def test_platform_is_forgotten_when_nothing_is_under_way_to_it_any_more(start):
    """Its last answers would be settled where nobody knows of it, and have it known again."""
    at = start(2, due=[1])
    gone = at.by_name["p1"]
    at.reload(gone=["p1"])
    at.store.platforms.wish_forgotten("p1", at.now)
    at.look(3)
    assert at.store.platforms.to_forget([]) == ["p1"]
    at.pool.run_one(gone.run)
    at.look(3)
    assert at.store.platforms.to_forget([]) == ["p1"]
    at.pool.run_one(gone.close)
    at.look(3)
    assert at.store.platforms.to_forget([]) == []


def test_platform_whose_file_is_there_at_the_start_is_not_forgotten(tmp_path, monkeypatch):
    at = At(tmp_path / "kmp.db", monkeypatch, {"p1": DelivererByHand("p1")})
    at.store.platforms.wish_forgotten("p1", at.now)
    at.start()
    at.look(5)
    assert at.store.platforms.to_forget([]) == []
    assert routes_of(at.store) == {"app-1": "p1"}
    at.store.close()
    at.mine.close()


# Apps that moved


def moved(tmp_path, monkeypatch, step_rows=2, moves_a_look=1):
    """Ten deliveries of app-1 wait where no platform is; the file of p1 has just been written."""
    monkeypatch.setattr("kmp_smsd.storage.renewing.STEP_ROWS", 2 * step_rows)
    monkeypatch.setattr(dispatch, "MOVES_A_LOOK", moves_a_look)
    at = At(tmp_path / "kmp.db", monkeypatch, {"p1": DelivererByHand("p1"), "p2": DelivererByHand("p2")})
    import_keys(at.store, *[f"KEY-{number}" for number in range(1, 11)])
    at.store.routes.set({"app-2": "p2"})
    make_due(at.store, 10, app_id="app-2", now=at.now)
    make_due(at.store, *range(1, 10), app_id="app-1", now=at.now)
    return at


def at_platform(at, name):
    return len(at.store.outbox.listing(platform=name, everything=True, limit=100))


def test_moved_deliveries_follow_in_steps_and_nobody_waits_for_them(tmp_path, monkeypatch):
    at = moved(tmp_path, monkeypatch)
    at.start()
    seen = []
    for _ in range(10):
        seen.append((at_platform(at, "p1"), "p2" in at.begun()))
        at.look()
    assert seen[0][0] < 9
    assert seen[0][1]
    assert at_platform(at, "p1") == 9
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert len({step for step, _ in seen}) >= 4
    at.store.close()
    at.mine.close()


def test_a_look_takes_a_few_steps_since_each_is_short(tmp_path, monkeypatch):
    at = moved(tmp_path, monkeypatch, step_rows=1, moves_a_look=3)
    at.start()
    seen = []
    for _ in range(4):
        seen.append(at_platform(at, "p1"))
        at.look()
    assert seen == [2, 5, 8, 9]  # the first step is a row of app-2
    at.store.close()
    at.mine.close()


def test_moved_deliveries_are_found_though_nobody_else_writes(tmp_path, monkeypatch):
    """The first row, alone in its step, belongs to another app: p1 has nothing due until a later step."""
    at = moved(tmp_path, monkeypatch, step_rows=1)
    at.start()
    assert at_platform(at, "p1") == 0
    at.look(30)
    assert at_platform(at, "p1") == 9
    assert "p1" in at.begun()
    at.store.close()
    at.mine.close()


def test_moving_goes_on_where_the_store_failed_in_between(tmp_path, monkeypatch):
    at = moved(tmp_path, monkeypatch)
    at.start()
    at.look()
    before = at_platform(at, "p1")
    with monkeypatch.context() as patch:
        patch.setattr(at.mine._database, "transaction", lambda: (_ for _ in ()).throw(StoreUnavailable("disk full")))
        at.look(2)
    assert at_platform(at, "p1") == before < 9
    at.look(30)
    assert at_platform(at, "p1") == 9
    at.store.close()
    at.mine.close()
