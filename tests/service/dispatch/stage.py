"""What the tests of dispatch share: a dispatcher with a real store, and deliverers by hand."""

from __future__ import annotations

from contextlib import closing

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.service import dispatch_workers, thread
from kmp_smsd.service.delivering import Ended
from kmp_smsd.service.dispatch import WATCH_EVERY_S, Dispatcher
from kmp_smsd.service.judging import Counts
from kmp_smsd.storage import open_store
from tests.service.by_hand import PoolByHand, ReactorByHand
from tests.service.vendor import make_due
from tests.storage.fresh import new_database
from tests.storage.stock import import_keys

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


def failed(at, name, seconds):
    """End a run that found the platform down."""
    deliverer = at.by_name[name]
    deliverer.failing, deliverer.ended = True, Ended("down", int(seconds * 1000))
    at.end(name)
    deliverer.is_open = False
