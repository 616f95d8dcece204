"""What the tests of intake share: an intake by hand, what is in its inbox, and a link that only backs off."""

from __future__ import annotations

import functools

from kmp_smsd.config.models import Storage
from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.service import thread
from kmp_smsd.service.deciding import DecidingHere
from kmp_smsd.service.intake import WATCH_EVERY_S, Intake
from kmp_smsd.storage import open_store
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.inbox_files import directory, read_file
from tests.service.by_hand import MDN, PLAN, ReactorByHand, SmscByHand, Threads, link, mo
from tests.storage.stock import import_keys, open_holds, register

OK, TEMPORARY, NEVER = 0, 0x64, 0x66
OTHER = "8613900000002"
NOW_S = 1_732_380_000.0


def lines_of(at):
    """What is in the files of the inbox."""
    files = sorted(directory(at.mine._database.path).iterdir())
    return [received for file in files for received in read_file(file).received]


def in_inbox(at):
    """Every message in the files of the inbox."""
    return [message for received in lines_of(at) for message in received.messages]


class At:
    """An intake with a real store, whose thread and clock the test moves. `store` is what others see of it."""

    def __init__(self, path, patch, *, sync=None, **links):
        self.pool = Threads()
        patch.setattr(thread, "OneThread", self.pool.one)
        self.reactor = ReactorByHand()
        self.store = open_store(path)
        self.mine = open_store(path)
        self.inbox = Inbox(path, lambda: self.mine.settled())
        self.intake = Intake(
            self.mine,
            self.inbox,
            DecidingHere(self.mine),
            Sync(**{"mdn_burst": 10_000, **(sync or {})}),
            PLAN,
            links or {"north": link()},
            self.reactor,
            storage=Storage(journal_days=0, tallies_days=0, ended_bindings_days=0),
            policy=SyncPolicy(),
            monotonic=self.reactor.seconds,
            wall=lambda: NOW_S + self.reactor.seconds(),
        )
        self.batches = []  # that came into the inbox
        self.inbox_fails, self.store_fails = [], []  # what the next batches raise
        self.probes = 0
        self._settled = []
        self.mine.settle = self._watched(self.mine.settle, self.store_fails, self._settled)
        self.inbox.append = self._watched(self.inbox.append, self.inbox_fails, self.batches)
        self.intake.startService()
        self.pool.run()

    def _watched(self, real, fails, batches):
        @functools.wraps(real)
        def call(messages, *more):
            if messages:
                batches.append(list(messages))
                if fails:
                    raise fails.pop(0)
            else:
                self.probes += 1
            return real(messages, *more)

        return call

    @property
    def settled(self):
        """How many messages each transaction settled."""
        return [len(batch) for batch in self._settled]

    def seconds(self, count):
        """Let so much time pass, and the threads work meanwhile."""
        for _ in range(count):
            self.reactor.pass_time(1)
            self.pool.run()

    def receive_one(self):
        """Let the inbox's thread do one batch, and nothing else."""
        self.pool.run_one(self.inbox.append)

    def run(self):
        """Let the threads do what they have to, and settle what came."""
        self.pool.run()
        self.intake.settler.look()
        self.pool.run()

    def poll(self):
        """Let it see what people wish, and do it."""
        self.reactor.advance(WATCH_EVERY_S)
        self.run()

    def hold(self):
        """The number of a new hold: the key of MDN reports from another SIM."""
        import_keys(self.store, "KEY-1")
        register(self.store, MDN, "meter")
        register(self.store, OTHER, "meter")
        smsc = SmscByHand()
        self.intake.messages(smsc, (mo(1), mo(2, source_addr=OTHER)))
        self.run()
        (hold,) = open_holds(self.store)
        return hold["hold"]


class LinkByHand:
    def __init__(self, name):
        self.name = name
        self.backed_off = 0

    def back_off(self):
        self.backed_off += 1
