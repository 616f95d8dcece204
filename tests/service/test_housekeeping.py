from __future__ import annotations

import pytest

from kmp_smsd.config.sync import Sync
from kmp_smsd.service import intake as intake_module
from kmp_smsd.service.housekeeping import DAY_MS, STEP_EVERY_S
from kmp_smsd.service.intake import Intake
from kmp_smsd.storage import StoreUnavailable, open_store
from kmp_smsd.storage.maintenance import migrate
from tests.service.by_hand import MDN, PLAN, PoolByHand, ReactorByHand, SmscByHand, alarms, finished, link, mo
from tests.storage.stock import import_keys, register

NOW_S = 1_732_380_000.0
OTHER = "8613900000002"


class At:
    """An intake whose housekeeping is due. `store` is what others see of it."""

    def __init__(self, path, patch, **sync):
        patch.setattr(intake_module, "ThreadPool", PoolByHand)
        migrate(path)
        self.reactor = ReactorByHand()
        self.later_s = 0.0
        self.store, self.mine = open_store(path), open_store(path)
        self.intake = Intake(
            self.mine,
            Sync(**sync),
            PLAN,
            {"north": link()},
            self.reactor,
            monotonic=self.reactor.seconds,
            wall=lambda: NOW_S + self.later_s + self.reactor.seconds(),
        )
        self.pool = self.intake._pool
        self.intake.startService()
        self.pool.run()

    def say(self, *messages):
        self.intake.messages(SmscByHand(), messages)
        self.pool.run()

    def step(self, days=0):
        self.later_s = days * DAY_MS / 1000
        self.reactor.advance(STEP_EVERY_S)
        self.pool.run()


@pytest.fixture
def at(tmp_path, monkeypatch):
    made = At(tmp_path / "kmp.db", monkeypatch, remember_days=7)
    yield made
    made.store.close()
    made.mine.close()


def test_what_waits_is_remembered_for_some_days_and_its_number_with_it(at):
    import_keys(at.store, "KEY-1")
    at.say(mo())
    at.step(days=6)
    assert len(at.store.waiting.listing(limit=10)) == 1
    at.step(days=8)
    assert at.store.waiting.listing(limit=10) == []
    assert at.store.erasing.show(MDN) is None
    assert at.store.journal.listing(limit=10)[0]["mdn"] is None


def test_number_that_is_needed_is_kept(at):
    register(at.store, MDN, "meter")
    at.say(mo(), mo(2, source_addr=OTHER))
    at.step(days=8)
    at.step(days=9)
    assert at.store.erasing.show(MDN) is not None
    assert at.store.erasing.show(OTHER) is None


def test_request_of_a_business_system_is_remembered_for_thirty_days(at):
    with at.store._database.transaction() as connection:
        connection.execute("INSERT INTO requests VALUES ('R-1', x'00', '{}', ?)", (int(NOW_S * 1000),))
    at.step(days=29)
    assert at.store._database.rows("SELECT id FROM requests") == [("R-1",)]
    at.step(days=31)
    assert at.store._database.rows("SELECT id FROM requests") == []


def test_batches_pass_between_its_steps(at):
    at.reactor.advance(STEP_EVERY_S)
    at.intake.messages(SmscByHand(), (mo(),))
    assert [job.__name__ for job in at.pool.waiting()].count("sweep") == 0
    at.pool.run_one()
    at.pool.run_one()
    at.pool.run()
    assert at.store.journal.tallies()[0]["outcome"] == "not_registered"


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), RuntimeError("a fault of ours")])
def test_it_goes_on_after_a_fault(at, monkeypatch, events, error):
    at.say(mo())
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.waiting, "expire", lambda _: (_ for _ in ()).throw(error))
        at.step(days=8)
    assert at.store.erasing.show(MDN) is not None
    assert bool(alarms(events)) == isinstance(error, RuntimeError)
    at.step(days=8)
    assert at.store.erasing.show(MDN) is None


def test_intake_that_ends_keeps_house_no_more(at):
    at.reactor.advance(STEP_EVERY_S)
    ended = finished(at.intake.finish(), at.pool)
    assert ended.called
    at.reactor.advance(10 * STEP_EVERY_S)
    assert at.pool.waiting() == []
