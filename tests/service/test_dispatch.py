from __future__ import annotations

from contextlib import closing

import pytest
from pysqlite3 import dbapi2 as sqlite3
from twisted.logger import LogLevel

from kmp_smsd.channels.protocol import ChannelDown, Confirmed
from kmp_smsd.service import dispatch, dispatch_workers, thread
from kmp_smsd.service.delivering import Deliverer, Ended
from kmp_smsd.service.dispatch import WATCH_EVERY_S, Dispatcher
from kmp_smsd.service.dispatch_worker import STOP_WITHIN_S
from kmp_smsd.service.dispatch_workers import FAILING_MAX, IDLE_CLOSE_S, OPEN_MAX
from kmp_smsd.service.judging import Counts, Patience
from kmp_smsd.service.preparing import Preparer
from kmp_smsd.storage import StoreUnavailable, open_store
from kmp_smsd.storage.outbox import Postpone
from kmp_smsd.storage.platforms import PlatformState
from tests.service.by_hand import PoolByHand, ReactorByHand, alarms, finished
from tests.service.vendor import Vendor, make_due, mdn
from tests.storage.fresh import new_database
from tests.storage.stock import import_keys, routes_of, row_at

START_S = 1_732_380_000


class DelivererByHand:
    """A platform of which only is known whether it is connected and failing. A run ends when the test says so."""

    def __init__(self, platform):
        self.platform = platform
        self.is_open = False
        self.failing = False
        self.ended = Ended(None)
        self.error = None
        self.runs = 0
        self.done = []
        self.counts = Counts()
        self.state = None
        self.certificate_ends_at = None

    def again(self):
        self.done.append("again")

    def run(self):
        self.runs += 1
        self.is_open = True
        if self.error is not None:
            raise self.error
        return self.ended

    def stop(self):
        self.done.append("stop")

    def abort(self):
        self.done.append("abort")

    def close_channel(self):
        self.is_open = False
        self.done.append("close_channel")

    def close(self):
        self.is_open = False
        self.done.append("close")


class At:
    """A dispatcher, and a store in which others make deliveries due: app-1 at p1, and so on."""

    def __init__(self, path, patch, deliverers, routes=None):
        patch.setattr(thread, "OneThread", PoolByHand.one_thread)
        patch.setattr(dispatch_workers, "ThreadPool", PoolByHand)
        new_database(path)
        self.reactor = ReactorByHand()
        self.clock_set_by_s = 0
        self.store = open_store(path)
        self.mine = open_store(path)
        self.by_name = deliverers
        self.routes = routes or {f"app-{name[1:]}": name for name in deliverers}
        self.dispatcher = self._dispatcher(self.mine)
        self.watcher, self.pool = self.dispatcher.thread.thread, self.dispatcher.workers._pool
        self.looks = []
        next_try = self.mine.outbox.next_try
        self.mine.outbox.next_try = lambda name, now: (self.looks.append(name), next_try(name, now))[1]

    def _dispatcher(self, store):
        return Dispatcher(
            store,
            self.routes,
            self.by_name,
            self.reactor,
            monotonic=self.reactor.seconds,
            wall=self._wall,
        )

    def _wall(self):
        return START_S + self.clock_set_by_s + self.reactor.seconds()

    def set_clock(self, by_s):
        """Set the wall clock to what it would be plus `by_s`."""
        self.clock_set_by_s = by_s

    @property
    def now(self):
        return int(self._wall() * 1000)

    def start(self):
        self.dispatcher.startService()
        self.watcher.run()
        return self

    def look(self, times=1):
        """Let it look at the store; what it begins stays in the queue of the workers."""
        for _ in range(times):
            self.reactor.advance(WATCH_EVERY_S)
            self.watcher.run()

    def make_due(self, *numbers, keys=True, after_ms=0):
        for number in numbers:
            if keys:
                import_keys(self.store, f"KEY-{number}")
            make_due(self.store, number, app_id=f"app-{number}", now=self.now + after_ms)

    def begun(self):
        """The platforms that have work and a thread for it."""
        return [job.__self__.platform for job in self.pool.waiting() if job.__name__ == "run"]

    def end(self, *names):
        """End the runs of these platforms."""
        for name in names:
            self.pool.run_one(self.by_name[name].run)

    def reload(self, fresh=(), gone=(), routes=None):
        """Serve these platforms by new deliverers, and those no more; what was done of it so far."""
        for name in gone:
            del self.by_name[name]
        made = {name: DelivererByHand(name) for name in fresh}
        self.by_name.update(made)
        settled = []
        routed = routes or {f"app-{name[1:]}": name for name in self.by_name}
        self.dispatcher.reconfigure(routed, made, gone).addCallback(settled.append)
        self.watcher.run()
        return settled

    def words(self):
        return {one.name: one.word.value for one in self.dispatcher.workers.served()}

    def settle(self, *numbers, try_at=None):
        """What workers do beside the dispatcher."""
        with closing(sqlite3.connect(str(self.store._database.path), isolation_level=None)) as connection:
            for number in numbers:
                if try_at is None:
                    connection.execute(
                        "UPDATE outbox SET confirmed_version = wanted_version WHERE platform = ?", (f"p{number}",)
                    )
                else:
                    connection.execute("UPDATE outbox SET try_at = ? WHERE platform = ?", (try_at, f"p{number}"))


@pytest.fixture
def start(tmp_path, monkeypatch):
    opened = []

    def started(count=2, due=(), **options):
        deliverers = {f"p{number}": DelivererByHand(f"p{number}") for number in range(1, count + 1)}
        at = At(tmp_path / "kmp.db", monkeypatch, deliverers, **options)
        opened.append(at)
        at.store.routes.set(at.routes)
        at.make_due(*due)
        return at.start()

    yield started
    for at in opened:
        at.store.close()
        at.mine.close()


def failed(at, name, seconds):
    """End a run that found the platform down."""
    deliverer = at.by_name[name]
    deliverer.failing, deliverer.ended = True, Ended("down", int(seconds * 1000))
    at.end(name)
    deliverer.is_open = False


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


# A wall clock that is set

DAY_S = 86_400


@pytest.mark.parametrize("set_by_s", [-30 * DAY_S, -2 * DAY_S, -600, 600, 2 * DAY_S, 30 * DAY_S])
def test_platform_that_failed_waits_as_long_though_the_clock_is_set(start, set_by_s):
    at = start(due=(1,))
    failed(at, "p1", 5)
    at.set_clock(set_by_s)
    at.settle(1, try_at=at.now)
    at.look(45)
    begun = at.begun()
    at.look(10)
    assert (begun, at.begun()) == ([], ["p1"])


@pytest.mark.parametrize("set_by_s", [-30 * DAY_S, -2 * DAY_S])
def test_delivery_that_waits_is_due_when_the_clock_is_set_back_by_days(start, set_by_s):
    at = start(due=(1,))
    at.settle(1, try_at=at.now + 900_000)
    at.end("p1")
    at.look(10)
    assert at.begun() == []
    at.set_clock(set_by_s)
    at.look()
    assert at.begun() == ["p1"]


def test_nothing_is_stuck_after_a_clock_that_ran_ahead_for_a_while(start):
    at = start(due=(1,))
    at.set_clock(30 * DAY_S)
    at.settle(1, try_at=at.now + 900_000)
    at.make_due(2)
    at.end("p1")
    at.look(10)
    assert at.begun() == ["p2"]
    failed(at, "p2", 5)
    at.look()
    at.set_clock(0)
    at.look()
    assert at.begun() == ["p1"]
    at.look(55)
    assert at.begun() == ["p1", "p2"]


def test_wish_is_heeded_though_the_clock_was_set_back(start):
    at = start(due=(1,))
    at.look()
    at.store.renewing.retry(at.now, platform="p1")
    at.look()
    failed(at, "p1", 900)
    at.look()
    failed(at, "p1", 900)
    at.set_clock(-600)
    at.store.renewing.retry(at.now, platform="p1")
    at.look()
    assert at.begun() == ["p1"]


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


# Connections


def test_at_most_sixty_four_connections_are_open(start, events):
    everybody = range(1, OPEN_MAX + 4)
    at = start(OPEN_MAX + 3, due=everybody)
    assert OPEN_MAX == 64
    assert at.begun() == [f"p{number}" for number in range(1, 65)]
    assert at.pool.maxthreads == 64
    at.settle(1)
    at.end("p1")
    at.look()
    assert at.pool.waiting()[-2:] == [at.by_name["p1"].close_channel, at.by_name["p65"].run]  # threads take them so
    assert len(at.pool.jobs) == 65
    at.look(10)
    assert len(at.pool.jobs) == 65
    assert alarms(events) == []


def test_platforms_with_standing_work_take_turns(start):
    at = start(OPEN_MAX + 2, due=range(1, OPEN_MAX + 3))
    for name in ("p1", "p2", "p3", "p4"):  # each has more to do, as long due as what the others have
        at.reactor.advance(0.01)
        at.end(name)
        at.look()
        at.pool.run_one(at.by_name[name].close_channel)
    assert at.begun()[-4:] == ["p65", "p66", "p1", "p2"]


def test_open_connection_that_gets_work_displaces_nobody(start):
    at = start(OPEN_MAX, due=range(1, OPEN_MAX + 1))
    for number in (1, 2):
        at.settle(number)
        at.end(f"p{number}")
    at.store.bindings.withdraw(mdn(2), "app-2", at.now)
    at.look()
    assert at.begun()[-1] == "p2"
    assert {job.__name__ for job in at.pool.waiting()} == {"run"}


def test_longest_idle_connection_gives_way(start):
    at = start(OPEN_MAX + 1, due=range(1, OPEN_MAX + 1))
    for number in (2, 1, 3):
        at.settle(number)
        at.end(f"p{number}")
        at.reactor.advance(0.01)
    at.make_due(65)
    at.look()
    closing_jobs = [job.__self__.platform for job in at.pool.waiting() if job.__name__ == "close_channel"]
    assert closing_jobs == ["p2"]
    assert "p65" in at.begun()


def test_connection_that_gives_way_is_not_given_work_while_it_closes(start):
    at = start(OPEN_MAX + 1, due=range(2, OPEN_MAX + 1))
    at.make_due(1)
    at.look()
    at.settle(1)
    at.end("p1")  # the only idle one
    at.make_due(65)
    at.make_due(1, keys=False, after_ms=1)
    at.store.bindings.withdraw(mdn(1), "app-1", at.now + 1)
    at.reactor.advance(0.01)
    at.look()
    assert "p65" in at.begun()
    assert "p1" not in at.begun()
    at.pool.run_one(at.by_name["p1"].close_channel)
    at.settle(65)
    at.end("p65")
    at.look()
    assert "p1" in at.begun()
    assert at.by_name["p1"].done == ["close_channel"]


def test_idle_connection_closes_after_a_minute(start):
    at = start(due=(1,))
    at.settle(1)
    at.end("p1")
    assert IDLE_CLOSE_S == 60
    at.look(595)
    assert at.pool.waiting() == []
    at.look(6)
    at.pool.run()
    assert at.by_name["p1"].done == ["close_channel"]
    at.look(1000)
    assert at.by_name["p1"].done == ["close_channel"]


def test_connection_at_work_is_not_idle(start):
    at = start(due=(1,))
    at.look(1000)
    assert at.begun() == ["p1"]
    assert len(at.pool.jobs) == 1


def test_failing_platforms_share_a_quarter_of_the_connections(start):
    at = start(40, due=range(1, 41))
    for number in range(1, 31):
        failed(at, f"p{number}", 0)
    at.look()
    assert FAILING_MAX == 16
    begun = at.begun()
    assert begun[:10] == [f"p{number}" for number in range(31, 41)]
    assert len(begun[10:]) == 16
    at.look(10)
    assert len(at.begun()) == 26
    failed(at, "p1", 900)
    at.look()
    assert len(at.begun()) == 26


def test_platform_that_fails_takes_its_turn_like_any_other(start):
    at = start(OPEN_MAX + 1, due=range(1, OPEN_MAX + 2))
    at.reactor.advance(0.01)
    failed(at, "p1", 0)
    at.look()
    assert at.begun()[-1] == "p65"
    assert "p1" not in at.begun()
    at.end("p2")  # which has more to do
    at.look()
    assert at.begun()[-1] == "p1"
    assert "p2" not in at.begun()


# A store that fails


@pytest.mark.parametrize("kind", [StoreUnavailable, RuntimeError])
def test_fault_that_lasts_is_logged_every_ten_seconds(start, monkeypatch, events, kind):
    at = start()
    reason = "one reason"

    def fail():
        raise kind(reason)

    monkeypatch.setattr(at.mine, "data_version", fail)
    at.make_due(1)
    at.look(205)
    faults = [event for event in events if event["log_level"] >= LogLevel.error]
    assert len(faults) == 3
    reason = "another reason"
    at.look(2)
    faults = [event for event in events if event["log_level"] >= LogLevel.error]
    assert len(faults) == 4


def test_fault_in_assigning_that_lasts_is_logged_every_ten_seconds(start, monkeypatch, events):
    at = start()
    at.make_due(1)
    monkeypatch.setattr(at.dispatcher.workers, "_may_open", lambda _: 1 / 0)
    at.look(205)
    assert len(alarms(events)) == 3


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), RuntimeError("a fault of ours")])
def test_looking_goes_on_after_a_fault(start, monkeypatch, events, error):
    at = start()
    at.make_due(1)

    def fail():
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(at.mine, "data_version", fail)
        at.look(3)
    assert at.begun() == []
    at.look()
    assert at.begun() == ["p1"]
    assert bool(alarms(events)) == isinstance(error, RuntimeError)


def test_what_was_not_looked_up_is_looked_up_again(start, monkeypatch):
    at = start()
    at.make_due(1)
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.outbox, "next_try", lambda *_: (_ for _ in ()).throw(StoreUnavailable("locked")))
        at.look()
    at.look()
    assert at.begun() == ["p1"]


def test_looking_goes_on_after_a_fault_in_assigning(start, monkeypatch, events):
    at = start()
    at.make_due(1)
    with monkeypatch.context() as patch:
        patch.setattr(at.dispatcher.workers, "_may_open", lambda _: 1 / 0)
        at.look()
    assert len(alarms(events)) == 1
    at.look()
    assert at.begun() == ["p1"]


def test_routes_are_set_though_the_store_fails_at_first(tmp_path, monkeypatch):
    at = At(tmp_path / "kmp.db", monkeypatch, {"p1": DelivererByHand("p1")})
    at.make_due(1)  # for an app that is routed nowhere
    with monkeypatch.context() as patch:
        patch.setattr(at.mine.routes, "set", lambda _: (_ for _ in ()).throw(StoreUnavailable("locked")))
        at.start()
        at.look(3)
    assert routes_of(at.store) == {}
    at.look(3)
    assert routes_of(at.store) == {"app-1": "p1"}
    assert at.begun() == ["p1"]
    at.store.close()
    at.mine.close()


# A clock that is set back


def test_what_a_clock_that_was_ahead_wanted_is_tried_when_it_is_set_back(start, events):
    at = start()
    at.set_clock(20 * 3600)
    at.look()
    at.make_due(1)
    at.make_due(2, after_ms=3_600_000)  # put off
    at.set_clock(0)
    at.look(3)
    assert sorted(at.begun()) == ["p1", "p2"]
    assert [event["seconds"] for event in events if event.get("event") == "clock_set_back"] == [20 * 3600]


def test_what_a_clock_that_was_ahead_wanted_is_tried_after_a_start(tmp_path, monkeypatch):
    at = At(tmp_path / "kmp.db", monkeypatch, {"p1": DelivererByHand("p1")})
    at.set_clock(20 * 3600)
    at.store.routes.set({"app-1": "p1"})
    at.make_due(1)
    at.set_clock(0)
    at.start()
    at.look(3)
    assert at.begun() == ["p1"]
    at.store.close()
    at.mine.close()


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
    return len(at.store.outbox.listing(platform=name, mdn=None, everything=True, limit=100))


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


# Ending


def test_idle_dispatcher_finishes_and_closes_everything(start):
    at = start(due=(1,))
    at.settle(1)
    at.end("p1")
    ended = []
    finished(at.dispatcher.finish(), at.pool, at.watcher).addCallback(ended.append)
    assert ended == [None]
    assert [at.by_name[name].done for name in ("p1", "p2")] == [["stop", "close"]] * 2
    assert (at.pool.stopped, at.watcher.stopped) == (True, True)
    assert at.reactor.getDelayedCalls() == []
    with pytest.raises(Exception, match="closed"):
        at.mine.journal.tallies()


def test_finishing_waits_for_the_workers_and_begins_nothing(start):
    at = start(due=(1,))
    ended = []
    finished(at.dispatcher.finish(), at.watcher).addCallback(ended.append)
    at.make_due(2)
    at.reactor.pass_time(5)
    at.watcher.run()
    assert at.begun() == ["p1"]
    assert ended == []
    assert at.by_name["p1"].done == ["stop"]
    at.end("p1")
    finished(nothing(), at.pool, at.watcher)
    assert ended == [None]
    assert at.by_name["p1"].done == ["stop", "close"]
    assert at.reactor.getDelayedCalls() == []


async def nothing():
    pass


def test_what_goes_on_after_a_drain_begins_nothing_once_all_is_ending(start):
    at = start()
    at.dispatcher.workers.drain()
    ended = []
    finished(at.dispatcher.finish(), at.watcher).addCallback(ended.append)
    at.dispatcher.workers.go_on()
    at.dispatcher.workers.assign({"p1": 1}, {})
    assert at.begun() == []
    finished(nothing(), at.pool, at.watcher)
    assert ended == [None]


def test_workers_that_do_not_end_are_aborted_after_ten_seconds(start):
    at = start(due=(1,))
    finished(at.dispatcher.finish(), at.watcher)
    at.reactor.pass_time(9.9)
    assert at.by_name["p1"].done == ["stop"]
    at.reactor.pass_time(0.2)
    assert at.by_name["p1"].done == ["stop", "abort"]


def test_look_under_way_ends_before_the_store_closes(start):
    at = start()
    at.make_due(1)
    at.reactor.advance(WATCH_EVERY_S)
    ended = []
    finished(at.dispatcher.finish()).addCallback(ended.append)
    assert ended == []
    finished(nothing(), at.watcher, at.pool)
    assert ended == [None]
    assert at.by_name["p1"].runs == 0


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


# Pauses and drains


def test_paused_platform_begins_nothing_until_it_is_resumed(start):
    at = start(2)
    at.dispatcher.workers.pause("p1")
    at.make_due(1, 2)
    at.look()
    assert at.begun() == ["p2"]
    assert at.words() == {"p1": "paused", "p2": "delivering"}
    at.dispatcher.workers.resume("p1")
    at.look()
    assert at.begun() == ["p2", "p1"]
    assert at.by_name["p1"].done == ["stop", "again"]


def test_pause_ends_the_run_under_way_in_good_order_and_closes_the_connection(start):
    at = start(1, due=[1])
    deliverer = at.by_name["p1"]
    at.dispatcher.workers.pause("p1")
    assert deliverer.done == ["stop"]
    at.end("p1")
    at.pool.run()
    assert deliverer.done == ["stop", "close_channel"]
    at.look(3)
    assert at.begun() == []


def test_run_that_does_not_end_after_a_pause_is_ended_by_force(start):
    at = start(1, due=[1])
    at.dispatcher.workers.pause("p1")
    at.reactor.advance(STOP_WITHIN_S)
    assert at.by_name["p1"].done == ["stop", "abort"]


def test_platform_that_is_resumed_while_its_run_ends_goes_on_after_that(start):
    at = start(1, due=[1])
    at.dispatcher.workers.pause("p1")
    at.dispatcher.workers.resume("p1")
    assert at.by_name["p1"].done == ["stop"]
    at.end("p1")
    assert at.by_name["p1"].done == ["stop", "again"]
    at.look()
    assert at.begun() == ["p1"]


def test_drained_dispatcher_stands_still_and_goes_on(start):
    at = start(2, due=[1])
    drained = []
    at.dispatcher.workers.drain().addCallback(drained.append)
    at.make_due(2)
    at.look()
    assert (at.begun(), drained) == (["p1"], [])
    assert at.words() == {"p1": "draining", "p2": "draining"}
    at.end("p1")
    assert len(drained) == 1
    at.pool.run()
    at.look(3)
    assert at.begun() == []
    at.dispatcher.workers.go_on()
    at.look()
    assert at.begun() == ["p2", "p1"]


def test_paused_platform_rests_on_after_a_drain(start):
    at = start(1)
    at.dispatcher.workers.pause("p1")
    at.dispatcher.workers.drain()
    at.dispatcher.workers.go_on()
    at.make_due(1)
    at.look()
    assert at.begun() == []


# Reloads


def test_platform_that_comes_with_a_reload_is_served_and_routed(start):
    at = start(1, due=[1])
    assert at.reload(fresh=["p2"]) == [[]]
    at.make_due(2)
    at.look(2)
    assert at.begun() == ["p1", "p2"]
    assert routes_of(at.store) == {"app-1": "p1", "app-2": "p2"}
    assert at.by_name["p1"].done == []


def test_platform_that_is_gone_finishes_what_is_under_way(start):
    at = start(2, due=[1, 2])
    gone = at.by_name["p1"]
    settled = at.reload(gone=["p1"])
    assert (gone.done, settled) == (["stop"], [])
    at.pool.run_one(gone.run)
    at.pool.run_one(gone.close)
    assert (gone.done, len(settled)) == (["stop", "close"], 1)
    at.make_due(1, keys=False)
    at.look(3)
    assert at.begun() == ["p2"]
    assert list(at.dispatcher.workers.names()) == ["p2"]


def test_platform_that_is_gone_and_hangs_is_ended_by_force(start):
    at = start(1, due=[1])
    gone = at.by_name["p1"]
    at.reload(gone=["p1"])
    at.reactor.advance(STOP_WITHIN_S)
    assert gone.done == ["stop", "abort"]


def test_changed_platform_begins_anew_when_its_last_run_has_ended_and_goes_on_counting(start):
    at = start(1, due=[1])
    old = at.by_name["p1"]
    old.counts.confirmed = 7
    settled = at.reload(fresh=["p1"])
    at.look(3)
    assert (at.by_name["p1"].runs, settled) == (0, [])
    at.pool.run_one(old.run)
    at.look(3)
    assert at.begun() == []
    at.pool.run_one(old.close)
    assert len(settled) == 1
    at.look()
    at.end("p1")
    assert (old.runs, at.by_name["p1"].runs) == (1, 1)
    assert at.dispatcher.workers.served()[0].counts.confirmed == 7


def test_paused_platform_that_changed_is_paused_still(start):
    at = start(1)
    at.dispatcher.workers.pause("p1")
    at.reload(fresh=["p1"])
    at.pool.run()
    at.make_due(1)
    at.look(2)
    assert (at.begun(), at.words()) == ([], {"p1": "paused"})
    at.dispatcher.workers.resume("p1")
    at.look()
    assert at.begun() == ["p1"]


def test_what_failed_before_a_reload_is_tried_at_once_where_the_platform_changed(start):
    at = start(3)
    at.look(3)  # what had failed before the start
    at.make_due(2, 3)
    at.settle(2, 3, try_at=at.now + 3_600_000)
    with closing(sqlite3.connect(str(at.store._database.path), isolation_level=None)) as connection:
        connection.execute("UPDATE outbox SET attempts = 1")
    at.look(2)
    assert at.begun() == []
    at.reload(gone=["p1"])
    at.look(3)
    assert at.begun() == []
    at.reload(fresh=["p2"])
    at.pool.run()
    at.look(3)
    assert at.begun() == ["p2"]


def test_what_failed_before_a_start_is_tried_at_once_though_a_reload_comes_soon(tmp_path, monkeypatch):
    at = At(tmp_path / "kmp.db", monkeypatch, {name: DelivererByHand(name) for name in ("p1", "p2")})
    at.store.routes.set(at.routes)
    at.make_due(2)
    (row,) = at.store.outbox.due("p2", at.now, 10)
    at.store.outbox.settle("p2", [Postpone(row, at.now + 3_600_000, "down")], at.now)
    at.dispatcher.startService()
    at.reload(gone=["p1"])
    at.look(3)
    assert at.begun() == ["p2"]
    at.store.close()
    at.mine.close()


def test_end_waits_for_platforms_that_are_gone(start):
    at = start(1, due=[1])
    gone = at.by_name["p1"]
    at.reload(gone=["p1"])
    ended = []
    finished(at.dispatcher.finish()).addCallback(ended.append)
    assert ended == []
    at.pool.run()
    at.watcher.run()
    assert (gone.done, len(ended)) == (["stop", "close"], 1)


@pytest.mark.parametrize("fresh", [(), ("p1",)])
def test_a_drain_waits_for_workers_that_a_reload_has_end(start, fresh):
    at = start(2, due=[1])
    old = at.by_name["p1"]
    at.reload(fresh=fresh, gone=() if fresh else ("p1",))
    drained = []
    at.dispatcher.workers.drain().addCallback(drained.append)
    at.pool.run_one(old.run)
    assert drained == []
    at.pool.run_one(old.close)
    at.pool.run()
    assert len(drained) == 1


def test_a_look_that_a_reload_came_between_harms_nothing(start, events):
    at = start(2)
    at.make_due(1, 2)
    at.reactor.advance(WATCH_EVERY_S)  # a look at p1 and p2 waits for its thread
    at.by_name.pop("p1")
    at.dispatcher.reconfigure({"app-2": "p2"}, {}, ["p1"])
    at.watcher.run()
    at.look(2)
    assert at.begun() == ["p2"]
    assert [event for event in events if "log_failure" in event] == []


def test_thread_that_waits_for_another_s_write_lock_is_not_stuck(start, monkeypatch):
    """Who was stopped in the middle of a transaction is not helped by ending us."""
    at = start(1)
    waits = at.mine.lock_wait
    monkeypatch.setattr(type(waits), "is_for_others", property(lambda which: which is waits))
    assert at.dispatcher.thread.busy.waits_for_others


# How platforms are


def test_words_tell_how_each_platform_is_served(start):
    at = start(3, due=[1])
    at.make_due(2, after_ms=60_000)
    at.look()
    assert at.words() == {"p1": "delivering", "p2": "waiting", "p3": "idle"}
    served = {one.name: one for one in at.dispatcher.workers.served()}
    assert served["p2"].next_try_at == pytest.approx(at.now / 1000 + 60, abs=1)
    assert served["p1"].next_try_at is None
    at.by_name["p3"].state = PlatformState("p3", held_back=True)
    assert at.words()["p3"] == "held back after rejections"


def test_since_is_when_the_word_changed(start):
    at = start(1)
    began = at.dispatcher.workers.served()[0].since
    at.reactor.pass_time(5)
    assert at.dispatcher.workers.served()[0].since == began
    at.make_due(1)
    at.look()
    assert at.dispatcher.workers.served()[0].since == at._wall()
