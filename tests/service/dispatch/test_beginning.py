"""When a worker begins: new work, a next try that comes, and what people wish."""

from __future__ import annotations

from kmp_smsd.channels.protocol import ChannelDown, Confirmed
from kmp_smsd.service.delivering import Deliverer
from kmp_smsd.service.dispatch import WATCH_EVERY_S
from kmp_smsd.service.judging import Patience
from kmp_smsd.service.preparing import Preparer
from kmp_smsd.storage import open_store
from kmp_smsd.storage.outbox import Postpone
from tests.service.by_hand import alarms, finished
from tests.service.dispatch.stage import At, DelivererByHand, failed
from tests.service.vendor import Vendor, make_due, mdn
from tests.storage.stock import import_keys, row_at

# When a worker begins


def test_what_is_due_at_the_start_is_delivered(start):
    assert start(3, due=(1, 3)).begun() == ["p1", "p3"]


def test_what_failed_before_the_start_is_tried_at_once(tmp_path, monkeypatch):
    """Its app may have been left out of its platform's file by mistake."""
    at = At(tmp_path / "kmp.db", monkeypatch, {"p1": DelivererByHand("p1")})
    at.store.routes.set(at.routes)
    at.make_due(1)
    (row,) = at.store.outbox.due("p1", at.now, 10)
    at.store.outbox.settle("p1", [Postpone(row, at.now + 3_600_000, "its file does not name the app")], at.now)
    at.start()
    at.look()
    assert at.begun() == ["p1"]
    at.store.close()
    at.mine.close()


def test_new_work_is_begun_with_the_next_look(start):
    at = start()
    at.look(20)
    assert at.begun() == []
    at.make_due(2)
    at.look()
    assert at.begun() == ["p2"]
    assert WATCH_EVERY_S < 0.2


def test_nothing_is_looked_up_while_nothing_changes(start):
    at = start(2)
    at.look()
    at.looks.clear()
    at.look(50)
    assert at.looks == []


def test_platform_has_one_worker_at_a_time(start):
    at = start(due=(1,))
    import_keys(at.store, "KEY-9")
    at.make_due(2)
    at.look(20)
    assert at.begun() == ["p1", "p2"]


def test_worker_begins_again_where_more_came_due_while_it_ran(start):
    at = start(due=(1,))
    at.end("p1")
    at.look()
    assert at.begun() == ["p1"]
    at.settle(1)
    at.end("p1")
    at.look(5)
    assert at.begun() == []


def test_worker_that_has_done_everything_does_not_begin_again(start):
    at = start(due=(1,))
    at.settle(1)
    at.look()  # sees it while the worker still runs
    at.end("p1")
    at.look(5)
    assert at.begun() == []


def test_work_begins_when_the_earliest_next_try_comes(start):
    at = start(due=(1,))
    at.settle(1, try_at=at.now + 5_000)
    at.end("p1")
    at.look()
    at.looks.clear()
    at.look(48)
    assert at.begun() == []
    assert at.looks == []  # it knows when to look again
    at.look(2)
    assert at.begun() == ["p1"]


def test_platform_that_failed_waits(start):
    at = start(due=(1, 2))
    failed(at, "p1", 5)
    at.look(48)
    assert at.begun() == ["p2"]
    at.look(3)
    assert at.begun() == ["p2", "p1"]


def test_hanging_platform_delays_nobody(start):
    at = start(3, due=(1,))
    for number in (21, 22, 23):
        import_keys(at.store, f"KEY-{number}")
        make_due(at.store, number, app_id="app-2", now=at.now)
        at.look(10)
        at.end("p2")
        at.settle(2)
        at.look()
    assert at.by_name["p2"].runs == 3
    assert at.begun() == ["p1"]


def test_worker_that_breaks_off_is_an_alarm_and_tries_again_in_a_minute(start, events):
    at = start(due=(1, 2))
    at.by_name["p1"].error = RuntimeError("a fault of ours")
    at.end("p1")
    assert len(alarms(events)) == 1
    at.look(595)
    assert at.begun() == ["p2"]
    at.look(6)
    assert at.begun() == ["p2", "p1"]


# What people wish


def test_hurried_platform_does_not_wait(start):
    at = start(due=(1, 2))
    for name in ("p1", "p2"):
        failed(at, name, 900)
    at.look(10)
    assert at.begun() == []
    at.store.renewing.retry(at.now, platform="p1")
    at.look()
    assert at.begun() == ["p1"]
    failed(at, "p1", 900)
    at.make_due(2, keys=False)  # something else changes: the wish was heeded
    at.look(10)
    assert at.begun() == []


def test_wish_during_a_try_counts_for_the_next_one(start):
    at = start(due=(1,))
    at.look()
    at.reactor.advance(0.05)
    at.store.renewing.retry(at.now, platform="p1")
    at.look()
    failed(at, "p1", 900)
    at.look()
    assert at.begun() == ["p1"]
    failed(at, "p1", 900)
    at.look(10)
    assert at.begun() == []


def test_wish_for_a_platform_without_a_file_is_passed_over(start):
    at = start()
    at.store.renewing.retry(at.now, platform="gone")
    at.look()
    at.make_due(1)
    at.look()
    assert at.begun() == ["p1"]


# With real deliverers


def test_key_goes_out_within_a_fifth_of_a_second_beside_a_platform_that_is_down(tmp_path, monkeypatch):
    path = tmp_path / "kmp.db"
    vendor = Vendor()
    got = []

    class Road:
        certificate_ends_at = None

        def __init__(self, _cancel):
            pass

        def deliver(self, deliveries):
            for delivery in deliveries:
                got.append(delivery.mdn)
                yield Confirmed(delivery)

        def close(self):
            pass

    def unreachable(_cancel):
        raise ChannelDown("refused")

    deliverers = {}
    for name, app, opened in (("p1", "app-1", Road), ("p2", "app-2", unreachable)):
        patience = Patience(retry_min_s=5.0, retry_max_s=900.0, jitter=lambda: 1.0)
        preparer = Preparer(name, [app], vendor.data_keys())
        deliverers[name] = Deliverer(
            name, preparer, opened, lambda: open_store(path), patience, wall=lambda: at.now / 1000
        )
    at = At(path, monkeypatch, deliverers)
    vendor.import_into(at.store, ("KEY-1", None), ("KEY-2", None))
    at.start()
    at.make_due(2, keys=False)
    at.look()
    at.pool.run()
    make_due(at.store, 1, app_id="app-1", now=at.now)
    at.look()
    at.pool.run()
    assert got == [mdn(1)]
    assert row_at(at.store, mdn(2), "app-2")["confirmed_version"] == 0
    at.store.renewing.retry(at.now + 1, platform="p2")
    deliverers["p2"]._open_channel = Road
    at.look()
    at.pool.run()
    assert got == [mdn(1), mdn(2)]
    finished(at.dispatcher.finish(), at.pool, at.watcher)
    at.store.close()
