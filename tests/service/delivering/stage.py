"""What the tests of a deliverer share: one with a real store, and a platform that answers by hand."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.channels.protocol import ChannelDown, Confirmed
from kmp_smsd.service.delivering import Deliverer
from kmp_smsd.service.judging import Patience
from kmp_smsd.service.preparing import Preparer
from kmp_smsd.storage import open_store
from tests.service.vendor import mdn
from tests.storage.stock import NOW, row_at

HOUR_MS, TEN_MINUTES_MS = 3_600_000, 600_000
TERMINALS = range(1, 41)


class ChannelByHand:
    """An open road to a platform that answers as `at.answer` says, and takes `at.room` deliveries at a time."""

    certificate_ends_at = None

    def __init__(self, at):
        self.at = at
        self.closed = False

    def deliver(self, batch):
        assert not self.closed
        self.at.batches.append([])
        while taken := list(islice(batch, self.at.room)):
            self.at.batches[-1] += [delivery.mdn for delivery in taken]
            for delivery in taken:
                self.at.deliveries.append(delivery)
                result = self.at.answer(delivery)
                if isinstance(result, Exception):
                    raise result
                if self.closed:
                    raise ChannelDown("closed under it")
                yield result

    def close(self):
        self.closed = True


class At:
    """A deliverer with a real store; `store` is what others see of it."""

    def __init__(self, path, vendor):
        self.path = path
        self.now = NOW
        self.elapsed_s = 0.0
        self.store = open_store(path)
        self.store.routes.set(dict.fromkeys(("meter", "alarm", "tracker"), "metering"))
        vendor.import_into(
            self.store, *[(f"KEY-{number}", None) for number in TERMINALS], ("KEY-99", "meter"), ("KEY-98", "alarm")
        )
        self.answer = Confirmed
        self.room = 1_000
        self.unreachable = None
        self.channels, self.batches, self.deliveries = [], [], []
        self.mine = None
        self.preparer = Preparer("metering", ("meter",), vendor.data_keys())
        self.start()

    def start(self):
        self.deliverer = Deliverer(
            "metering",
            self.preparer,
            self._open_channel,
            self._open_store,
            Patience(retry_min_s=5.0, retry_max_s=900.0, jitter=lambda: 1.0),
            monotonic=lambda: self.elapsed_s,
            wall=lambda: self.now / 1000,
        )

    def restart(self):
        """Dispatch ends, however it does, and is started again."""
        self.deliverer.close()
        self.start()

    def _open_channel(self, cancel):
        if self.unreachable is not None:
            raise self.unreachable
        if cancel.requested:
            raise ChannelDown("connecting was cancelled")
        self.channels.append(ChannelByHand(self))
        return self.channels[-1]

    def _open_store(self):
        self.mine = open_store(self.path)
        return self.mine

    def run(self, after_ms=0):
        self.now += after_ms
        self.elapsed_s += after_ms / 1000
        self.batches.clear()
        self.deliveries.clear()
        return self.deliverer.run()

    def row(self, number, app_id="meter"):
        return row_at(self.store, mdn(number), app_id)

    def confirmed(self, *numbers):
        return all(self.row(number)["confirmed_version"] == self.row(number)["wanted_version"] for number in numbers)

    def rejected(self, *numbers):
        return all(self.row(number)["rejected_version"] == self.row(number)["wanted_version"] for number in numbers)

    def platform(self):
        return next(row for row in self.store.platforms.listing() if row["platform"] == "metering")

    def tamper(self, sql):
        """What somebody can do who stole intake."""
        with closing(sqlite3.connect(str(self.path), isolation_level=None)) as connection:
            connection.execute(sql)


def answering(default=Confirmed, **by_number):
    """`default` for all but the numbers that are named: n3=..."""
    named = {mdn(int(name[1:])): result for name, result in by_number.items()}
    return lambda delivery: named.get(delivery.mdn, default)(delivery)


def raising(error):
    def call(*_args, **_keywords):
        raise error

    return call
