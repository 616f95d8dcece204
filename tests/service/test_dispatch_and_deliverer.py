"""The dispatcher, a deliverer and the store together, by hand: what one leaves, the other must not undo."""

from __future__ import annotations

import pytest

from kmp_smsd.channels.protocol import TryLater
from kmp_smsd.service import dispatch_workers, thread
from kmp_smsd.service.delivering import Deliverer
from kmp_smsd.service.dispatch import WATCH_EVERY_S, Dispatcher
from kmp_smsd.service.judging import Patience
from kmp_smsd.service.preparing import Preparer
from kmp_smsd.storage import open_store
from tests.service.by_hand import PoolByHand, ReactorByHand
from tests.service.vendor import Vendor, make_due
from tests.storage.fresh import new_database

BEGAN_S = 1_732_380_000


class FullDisk:
    """A platform that asks for a minute's patience, each time."""

    certificate_ends_at = None

    def __init__(self, asked_at, clock):
        self._asked_at, self._clock = asked_at, clock

    def deliver(self, deliveries):
        for delivery in deliveries:
            self._asked_at.append(self._clock())
            yield TryLater(delivery, "disk full", retry_after_s=60.0)

    def close(self):
        """Nothing is open."""


@pytest.mark.parametrize("failed_before", [False, True])
def test_platform_that_asks_for_patience_gets_it_from_the_start_on(tmp_path, monkeypatch, failed_before):
    monkeypatch.setattr(thread, "OneThread", PoolByHand.one_thread)
    monkeypatch.setattr(dispatch_workers, "ThreadPool", PoolByHand)
    path = tmp_path / "kmp.db"
    new_database(path)
    reactor, vendor, asked_at = ReactorByHand(), Vendor(), []

    def wall():
        return BEGAN_S + reactor.seconds()

    def start():
        deliverer = Deliverer(
            "metering",
            Preparer("metering", ("meter",), vendor.data_keys()),
            lambda _: FullDisk(asked_at, reactor.seconds),
            lambda: open_store(path),
            Patience(retry_min_s=5, retry_max_s=900, jitter=lambda: 1.0),
            monotonic=reactor.seconds,
            wall=wall,
        )
        dispatcher = Dispatcher(
            open_store(path), {"meter": "metering"}, {"metering": deliverer}, reactor,
            monotonic=reactor.seconds, wall=wall,
        )  # fmt: skip
        dispatcher.startService()
        return dispatcher

    def live(dispatcher, seconds):
        for _ in range(int(seconds / WATCH_EVERY_S)):
            dispatcher.thread.thread.run()
            dispatcher.workers._pool.run()
            reactor.advance(WATCH_EVERY_S)

    with open_store(path) as store:
        vendor.import_into(store, ("KEY-1", None))
        store.routes.set({"meter": "metering"})
        make_due(store, 1, now=BEGAN_S * 1000)
        if failed_before:
            earlier = start()
            live(earlier, 1)
            earlier._watch.stop()
            asked_at.clear()
        dispatcher = start()
        live(dispatcher, 30)
        asked = len(asked_at)
        assert 1 <= asked <= 2  # what failed before the whole outbox was hastened is hastened once
        assert max(asked_at) - min(asked_at) < 1
        store.platforms.wish_forgotten("gone", int(wall() * 1000))
        live(dispatcher, 2)
        assert not store.platforms.is_to_be_forgotten("gone")
        assert len(asked_at) == asked
        live(dispatcher, 60)
        assert len(asked_at) == asked + 1
