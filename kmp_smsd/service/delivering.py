"""One platform's deliveries: what is due goes out over its channel, and what comes of it is settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from twisted.logger import Logger

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.protocol import Channel, ChannelDown, Delivery
from kmp_smsd.domain.spans import HOUR_MS
from kmp_smsd.service.judging import HELD_BACK_TRY_MS, Counts, Judge, Patience
from kmp_smsd.service.preparing import Preparer, Unsendable
from kmp_smsd.service.repeats import Repeats
from kmp_smsd.storage import Store, StoreError
from kmp_smsd.storage.outbox import OutboxRow, Postpone, Settlement
from kmp_smsd.storage.platforms import PlatformState
from kmp_smsd.storage.rows import STEP_ROWS, in_steps

# Rows that are looked up at once; their keys are unwrapped one by one, when there is room on the road. As many as went
# out while they were fresh, or twice as many where all of them did: what is due for longest must not wait for others,
# and of many platforms at a time each is to have little in memory.
FIRST_ROWS, MOST_ROWS = 500, 10_000
FRESH_S = 1.0  # so long what was looked up counts as wanted still; a slow platform's rows are looked up again
# Intake holds the write lock for most of the time when much comes: the more is settled, the fewer waits for it. A slow
# platform's confirmations do not wait for its last answer.
SETTLE_ROWS, SETTLE_EVERY_S = 4_000, 0.5
UNSENDABLE_RETRY_MS = HOUR_MS
TURN_S = 60.0  # so long a platform keeps its thread and connection where others wait for one
STORE_RETRY_MAX_MS = 30_000  # our own store wakes soon after its fault is mended; a platform may be far away


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: None as `error` when nothing more was due. `wait_ms` before the next one."""

    error: str | None
    wait_ms: int = 0


class Deliverer:
    """Delivers to one platform. `run` blocks, in a worker thread; between runs this is its memory."""

    log = Logger()

    def __init__(
        self,
        platform: str,
        preparer: Preparer,
        open_channel: Callable[[Cancel], Channel],
        open_store: Callable[[], Store],
        patience: Patience,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.platform = platform
        self._preparer = preparer
        self._open_channel = open_channel
        self._open_store = open_store
        self._patience = patience
        self._monotonic, self._wall = monotonic, wall
        self.certificate_ends_at: float | None = None  # as the last connection had it
        self._channel: Channel | None = None
        self._store: Store | None = None
        self._stopping = threading.Event()
        self._cancel = Cancel()
        self._faults = Repeats()
        self._failures = 0
        self._judge = Judge(platform, patience, monotonic=monotonic, wall=wall)
        self._at_once = FIRST_ROWS
        self._suspects: dict[tuple[str, str], OutboxRow] = {}  # by MDN and app: in work when something fails
        self._made_at: dict[tuple[str, str], float] = {}  # of each of them, in monotonic seconds

    @property
    def is_open(self) -> bool:
        return self._channel is not None

    @property
    def failing(self) -> bool:
        return self._failures > 0

    @property
    def state(self) -> PlatformState | None:
        """What was last seen of the platform; None until the first run has read what earlier ones saw."""
        return self._judge.state

    @property
    def counts(self) -> Counts:
        """What became of deliveries, for others to read; who takes a platform over goes on counting in them."""
        return self._judge.counts

    @counts.setter
    def counts(self, counts: Counts) -> None:
        self._judge.counts = counts

    def run(self) -> Ended:
        """Deliver until nothing is due, the platform fails, its turn is over, or `stop` is called."""
        self._suspects = {}
        # All platforms may be back at once, and each have taken much before. After a failure one row goes, and twice as
        # many each time: one may bring the platform down, and those that are under way with it have no answer either.
        self._at_once = 1 if self._failures else FIRST_ROWS
        try:
            if self._store is None:
                self._store = self._open_store()
            self._judge.read(self._store)
            return self._deliver_all(self._store)
        except ChannelDown as error:
            self.close_channel()
            if not self._stopping.is_set():
                self.log.warn(
                    "platform {platform}: {reason}", event="platform_down", platform=self.platform, reason=str(error)
                )
            return self._failed(str(error))
        except StoreError as error:
            self.close_channel()  # what is on the road will be answered to nobody
            if self._faults.worth_saying(str(error), self._monotonic()):
                self.log.error(
                    "platform {platform}: store unavailable: {reason}",
                    event="store_unavailable",
                    platform=self.platform,
                    reason=str(error),
                )
            self._failures += 1
            self.counts.failures += 1
            return Ended(str(error), min(STORE_RETRY_MAX_MS, self._patience.wait_ms(self._failures - 1)))
        except Exception as error:  # a bug of ours must not cost this platform its later deliveries
            self.close_channel()  # what is on the road would be taken for answers to the next deliveries
            self.log.failure("platform {platform}: a fault of ours", event="delivery_fault", platform=self.platform)
            return self._failed(f"a fault of ours, which the log shows: {type(error).__name__}")

    def stop(self) -> None:
        """End a run soon, and connect no more; from any thread."""
        self._stopping.set()
        self._cancel.request()

    def again(self) -> None:
        """Run again after `stop`; no run may be under way."""
        self._stopping.clear()
        self._cancel = Cancel()

    def abort(self) -> None:
        """End a run now, by closing the connection under it; from any thread."""
        self.stop()
        channel = self._channel
        if channel is not None:
            channel.close()

    def close_channel(self) -> None:
        """Close the connection; the next run opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def close(self) -> None:
        """Close everything; no run may be under way."""
        self.close_channel()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _deliver_all(self, store: Store) -> Ended:
        until = self._monotonic() + TURN_S
        while not self._stopping.is_set() and self._monotonic() < until:
            # To look up so many takes a tenth of a second: not where it goes on at once.
            limit = MOST_ROWS if self._judge.rests else self._at_once
            rows = store.outbox.due(self.platform, self._now(), limit)
            if not rows:
                break
            unsendable: list[Postpone] = []
            held_back = self._judge.held_back
            deliveries = self._prepare(store, self._judge.by_turns(rows) if held_back else rows, unsendable)
            try:
                first = next(deliveries, None)
                if first is None:  # nobody is called where nothing may be sent
                    continue
                if self._channel is None:  # which takes long: no key waits for it in clear, and all is looked up anew
                    del first
                    deliveries.close()
                    self._channel = self._open()
                    continue
                self._deliver(store, self._channel, chain([first], () if held_back else deliveries))
            finally:
                self._put_off(store, unsendable)
            if self._judge.rests:
                return Ended("held back after many rejections", HELD_BACK_TRY_MS)
        return Ended(None)

    def _open(self) -> Channel:
        """Connect; where that fails, it is not for what would have been sent."""
        self._suspects = {}
        channel = self._open_channel(self._cancel)
        self.certificate_ends_at = channel.certificate_ends_at
        return channel

    def _prepare(self, store: Store, rows: Sequence[OutboxRow], unsendable: list[Postpone]) -> Generator[Delivery]:
        """What may be sent of `rows`, each made when there is room for it; the rest is added to `unsendable`.

        Ends where `rows` are no longer fresh, or `stop` was called. What was made is among the suspects.
        """
        self._suspects, self._made_at = {}, {}
        until = self._monotonic() + FRESH_S
        for made, row in enumerate(rows, 1):
            if self._stopping.is_set():
                return
            place = (row.mdn, row.app_id)
            try:
                delivery = self._preparer.prepare(row, store.sealed_data_keys)
            except Unsendable as error:
                unsendable.append(Postpone(row, self._now() + UNSENDABLE_RETRY_MS, str(error)))
                continue
            except Exception:  # a bug: put off this row alone
                self._suspects = {place: row}
                raise
            self._suspects[place], self._made_at[place] = row, self._monotonic()
            yield delivery
            if self._monotonic() >= until:
                self._at_once = made
                return
        self._at_once = min(MOST_ROWS, max(self._at_once, 2 * len(rows)))

    def _put_off(self, store: Store, unsendable: Sequence[Postpone]) -> None:
        """Put these off until their keys change, or for an hour."""
        if unsendable:
            self.log.warn(
                "platform {platform}: deliveries that cannot be sent: {count}, the first because {reason}",
                event="deliveries_unsendable",
                platform=self.platform,
                count=len(unsendable),
                reason=unsendable[0].reason,
            )
            for step in in_steps(unsendable, STEP_ROWS):
                store.outbox.settle(self.platform, step, self._now())

    def _deliver(self, store: Store, channel: Channel, deliveries: Iterable[Delivery]) -> None:
        settlements: list[Settlement] = []
        settled_at = self._monotonic()
        try:
            for result in channel.deliver(deliveries):
                place = (result.delivery.mdn, result.delivery.app_id)
                row = self._suspects.pop(place)
                self.counts.pushes += 1
                self.counts.push_s += self._monotonic() - self._made_at.pop(place)
                settlements.append(self._judge.judge(store, row, result))
                if len(settlements) >= SETTLE_ROWS or self._monotonic() - settled_at >= SETTLE_EVERY_S:
                    self._settle(store, settlements)
                    settlements, settled_at = [], self._monotonic()
                if self._judge.rests:
                    self.close_channel()  # what is on the road has nobody to answer to, and stays due
                    break
        finally:  # what was answered before the platform went down is settled all the same
            self._settle(store, settlements)

    def _settle(self, store: Store, settlements: list[Settlement]) -> None:
        if not settlements:
            return
        # Reported before its last rejections are settled: were we killed in between, they would come again.
        self._judge.report(store)
        store.outbox.settle(self.platform, settlements, self._now())
        if self._failures:
            self.log.info("platform {platform}: delivering again", event="platform_up", platform=self.platform)
        self._failures = 0

    def _failed(self, reason: str) -> Ended:
        wait_ms = self._patience.wait_ms(self._failures)
        if self._stopping.is_set():  # we ended it ourselves
            return Ended(reason, wait_ms)
        self._failures += 1
        self.counts.failures += 1
        if self._store is not None and self._judge.state is not None:
            self._judge.down(reason, wait_ms)
            with suppress(StoreError):  # nothing is lost without it
                self._judge.report(self._store)
                if len(self._suspects) == 1:  # let the others pass: it may be this one that the platform cannot take
                    (row,) = self._suspects.values()
                    now = self._now()
                    postponed = Postpone(row, now + self._patience.wait_ms(row.attempts), reason)
                    self._store.outbox.settle(self.platform, [postponed], now)
        return Ended(reason, wait_ms)

    def _now(self) -> int:
        return int(self._wall() * 1000)
