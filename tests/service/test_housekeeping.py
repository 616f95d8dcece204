from __future__ import annotations

from contextlib import closing

import pytest

from kmp_smsd.config.models import Storage
from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.spans import DAY_MS
from kmp_smsd.service import housekeeping, thread
from kmp_smsd.service.deciding import DecidingHere
from kmp_smsd.service.housekeeping import PAUSE_S, STEP_EVERY_S
from kmp_smsd.service.intake import Intake
from kmp_smsd.storage import StoreUnavailable, open_store, retention
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.rows import STEP_ROWS
from tests.service.by_hand import MDN, PLAN, ReactorByHand, SmscByHand, Threads, alarms, finished, link, mo
from tests.storage.fresh import new_database
from tests.storage.stock import confirm_all, import_keys, register, settle, sync

NOW_S = 1_732_380_000.0
OTHER = "8613900000002"


class At:
    """An intake whose housekeeping is due. `store` is what others see of it."""

    def __init__(self, path, patch, *, storage=None, set_ahead_s=0.0, **sync):
        self.pool = Threads()
        patch.setattr(thread, "OneThread", self.pool.one)
        if not path.exists():
            new_database(path)
        self.reactor = ReactorByHand()
        self.later_s, self.set_ahead_s = 0.0, set_ahead_s
        self.store, self.mine = open_store(path), open_store(path)
        self.inbox = Inbox(path, lambda: self.mine.settled())
        self.intake = Intake(
            self.mine,
            self.inbox,
            DecidingHere(self.mine),
            Sync(**sync),
            PLAN,
            {"north": link()},
            self.reactor,
            storage=storage or Storage(journal_days=30, tallies_days=60, ended_bindings_days=1),
            policy=SyncPolicy(),
            monotonic=lambda: self.later_s + self.reactor.seconds(),
            wall=lambda: NOW_S + self.set_ahead_s + self.later_s + self.reactor.seconds(),
        )
        self.intake.startService()
        self.pool.run()

    def say(self, *messages):
        self.intake.messages(SmscByHand(), messages)
        self.pool.run()
        self.intake.settler.look()
        self.pool.run()

    def close(self):
        self.inbox.close()
        self.store.close()
        self.mine.close()

    def step(self, days=0):
        self.later_s = days * DAY_MS / 1000
        self.reactor.advance(STEP_EVERY_S)
        self.pool.run()


@pytest.fixture
def at(tmp_path, monkeypatch):
    with closing(At(tmp_path / "kmp.db", monkeypatch, remember_days=7)) as made:
        yield made


def test_what_waits_is_remembered_for_some_days_and_its_number_with_it(at):
    import_keys(at.store, "KEY-1")
    at.say(mo())
    at.step(days=6)
    assert len(at.store.waiting.listing(limit=10)) == 1
    at.step(days=8)
    assert at.store.waiting.listing(limit=10) == []
    assert at.store.erasing.show(MDN) is None
    assert at.store.journal.listing(limit=10)[0]["mdn"] is None


def test_nothing_goes_for_a_day_by_a_clock_that_was_set_ahead(at, events):
    import_keys(at.store, "KEY-1")
    at.say(mo())
    at.step()
    at.set_ahead_s = 400 * 86_400
    for days in (0, 0.9):
        at.step(days)
        assert len(at.store.waiting.listing(limit=10)) == 1
    at.step(days=1.1)
    assert at.store.waiting.listing(limit=10) == []
    assert [event["seconds"] for event in events if event["event"] == "clock_set_ahead"] == [400 * 86_400]


def test_nothing_goes_for_a_day_after_a_start_by_a_clock_that_is_far_ahead(tmp_path, monkeypatch, events):
    path = tmp_path / "kmp.db"
    with closing(At(path, monkeypatch)) as before:
        import_keys(before.store, "KEY-1")
        before.say(mo())
    with closing(At(path, monkeypatch, remember_days=7, set_ahead_s=400 * 86_400)) as at:
        for days in (0, 0.9):
            at.step(days)
            assert len(at.store.waiting.listing(limit=10)) == 1
        at.step(days=1.1)
        assert at.store.waiting.listing(limit=10) == []
    assert [event["event"] for event in events if event["event"].startswith("clock_")] == ["clock_in_doubt"]


def test_clock_that_is_set_right_again_is_believed(at):
    import_keys(at.store, "KEY-1")
    at.say(mo())
    for at.set_ahead_s in (400 * 86_400, 0):
        at.step(days=3)
    at.step(days=6.9)
    assert len(at.store.waiting.listing(limit=10)) == 1
    at.step(days=7.1)
    assert at.store.waiting.listing(limit=10) == []


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


def test_replies_that_ended_a_day_ago_are_forgotten(at):
    ended = [(int(NOW_S * 1000) + hour * 3_600_000,) for hour in (0, 2)]
    with at.store._database.transaction() as connection:
        connection.executemany(
            """INSERT INTO replies (subscriber, app, key, link, wanted_at, expires_at, state, ended_at)
               VALUES (1, 'meter', 1, 'north', 0, 0, 'sent', ?)""",
            ended,
        )
    at.step(days=1)
    assert at.store._database.rows("SELECT ended_at FROM replies") == ended[1:]


def test_10000_old_requests_are_forgotten_before_its_next_turn(at):
    with at.store._database.transaction() as connection:
        connection.executemany(
            "INSERT INTO requests VALUES (?, x'00', '{}', ?)",
            [(f"R-{number}", int(NOW_S * 1000)) for number in range(10_000)],
        )

    def left():
        return at.store._database.rows("SELECT count(*) FROM requests")[0][0]

    at.step(days=31)
    assert left() == 10_000 - STEP_ROWS
    for _ in range(int(STEP_EVERY_S / PAUSE_S) - 1):
        at.reactor.advance(PAUSE_S)
        at.pool.run()
    assert left() == 0


def test_batches_pass_between_its_steps(at):
    at.reactor.advance(STEP_EVERY_S)
    at.intake.messages(SmscByHand(), (mo(),))
    assert [job.__name__ for job in at.pool.waiting()].count("_sweep") == 0
    at.pool.run_one()
    at.pool.run_one()
    at.pool.run()
    at.intake.settler.look()
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
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == [None]
    at.reactor.advance(10 * STEP_EVERY_S)
    assert at.pool.waiting() == []


def journal(at, entries):
    """Let `entries` be journalled, an hour apart."""
    register(at.store, MDN, "meter")
    for hour in range(entries):
        settle(at.store, sync(MDN, "KEY-1"), now=int(NOW_S * 1000) + hour * 3_600_000)


def test_journal_and_tallies_go_when_they_are_old(at):
    journal(at, 2)
    at.step(days=29)
    assert len(at.store.journal.listing(limit=10)) == 2
    at.step(days=31)
    assert len(at.store.journal.listing(limit=10)) == 1  # the newest stays
    assert at.store.journal.tallies() != []
    at.step(days=61)
    assert at.store.journal.tallies() == []


def test_batches_pass_between_steps_of_deleting_which_pause(at, monkeypatch):
    monkeypatch.setattr(retention, "RETENTION_ROWS", 1)
    journal(at, 4)
    at.step(days=31)
    assert len(at.store.journal.listing(limit=10)) == 3
    at.say(mo(9))
    assert len(at.store.journal.listing(limit=10)) == 4
    at.reactor.advance(PAUSE_S)
    at.pool.run()
    assert len(at.store.journal.listing(limit=10)) == 3


def test_so_much_is_old_that_other_things_are_done_in_between(at, monkeypatch):
    monkeypatch.setattr(retention, "RETENTION_ROWS", 1)
    monkeypatch.setattr(housekeeping, "STEPS_IN_A_ROW", 5)
    journal(at, 5 + 9)
    at.step(days=31)
    for _ in range(5 + 3):
        at.reactor.advance(PAUSE_S)
        at.pool.run()
    assert len(at.store.journal.listing(limit=100)) == 9


def test_intake_that_ends_takes_no_step_after_the_pause(at, monkeypatch):
    monkeypatch.setattr(retention, "RETENTION_ROWS", 1)
    journal(at, 3)
    at.step(days=31)
    ended = []
    finished(at.intake.finish(), at.pool).addCallback(ended.append)
    assert ended == [None]
    at.reactor.advance(PAUSE_S)
    assert at.pool.waiting() == []


def test_ended_bindings_are_kept_while_a_request_may_come_that_they_make_late(at):
    """One that has waited for 7 days, and is late by what was superseded 3 days before it."""
    at.store.routes.set({"meter": "metering"})
    import_keys(at.store, "KEY-1", "KEY-2")
    register(at.store, MDN, "meter")
    now = int(NOW_S * 1000)
    settle(at.store, sync(MDN, "KEY-1"), now=now)
    at.store.bindings.withdraw(MDN, "meter", now)
    settle(at.store, sync(MDN, "KEY-1", received_at=now + 1), now=now + 1)
    confirm_all(at.store, now=now + 1)
    at.step(days=9.9)
    assert len(at.store.bindings.of(MDN)) == 2
    at.step(days=10.1)
    assert len(at.store.bindings.of(MDN)) == 1


def days_kept(at, monkeypatch):
    """For how many days the next step keeps what retention deletes, by its method; not there: for ever."""
    kept = {}
    for name in ("journal", "tallies", "ended_bindings"):

        def delete(before, name=name):
            kept[name] = round((NOW_S * 1000 - before) / DAY_MS)
            return retention.Step(0, True)

        monkeypatch.setattr(at.mine.retention, name, delete)
    at.step()
    return kept


def test_reload_changes_how_long_they_are_kept(at, monkeypatch):
    at.intake.reconfigure(Sync(remember_days=30), PLAN, SyncPolicy(late_hours=48), {"north": link()})
    at.pool.run()
    assert days_kept(at, monkeypatch) == {"journal": 30, "tallies": 60, "ended_bindings": 32}


@pytest.mark.parametrize(("days", "kept"), [(1, {"ended_bindings": 10}), (400, {"ended_bindings": 400}), (0, {})])
def test_what_is_kept_for_0_days_stays_and_ended_bindings_at_least_while_a_request_may_be_late(
    tmp_path, monkeypatch, days, kept
):
    storage = Storage(journal_days=0, tallies_days=0, ended_bindings_days=days)
    with closing(At(tmp_path / "kmp.db", monkeypatch, storage=storage, remember_days=7)) as at:
        assert days_kept(at, monkeypatch) == kept
