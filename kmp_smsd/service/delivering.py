"""One platform's deliveries: what is due goes out over its channel, and what comes of it is settled."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

from twisted.logger import Logger

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.protocol import Channel, ChannelDown, Confirmed, Delivery, Rejected, Result, TryLater
from kmp_smsd.domain.shown import masked
from kmp_smsd.service.preparing import Preparer, Unsendable
from kmp_smsd.service.repeats import Repeats
from kmp_smsd.storage import Store, StoreError
from kmp_smsd.storage.outbox import Confirm, Outbid, OutboxRow, Postpone, Reject, Settlement
from kmp_smsd.storage.platforms import PlatformState
from kmp_smsd.storage.rows import STEP_ROWS

_logger = logging.getLogger(__name__)  # to be asked for its level; looking it up takes a lock

BATCH_ROWS = 4_000  # that are looked up at once; their keys are unwrapped one by one, when there is room on the road
FRESH_S = 1.0  # so long what was looked up counts as wanted still; a slow platform's rows are looked up again
SETTLE_EVERY_S = 0.2  # a slow platform's confirmations do not wait for its last answer
UNSENDABLE_RETRY_MS = 3_600_000
REPORT_EVERY_S = 10.0
ONE_BY_ONE_AFTER = 3  # failures in a row; then it shows whether one delivery brings the platform down
HOLD_BACK_AFTER = 20  # rejections in a row
HELD_BACK_TRY_MS = 600_000
TURN_S = 60.0  # so long a platform keeps its thread and connection where others wait for one
STORE_RETRY_MAX_MS = 30_000  # our own store wakes soon after its fault is mended; a platform may be far away


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a failed delivery waits: `retry_min_s`, doubled each time, at most `retry_max_s`, with jitter."""

    retry_min_s: float
    retry_max_s: float
    jitter: Callable[[], float]  # 0 to 1

    def wait_ms(self, attempts: int) -> int:
        wait_s = min(self.retry_max_s, self.retry_min_s * 2 ** min(attempts, 30))
        return int(wait_s * 1000 * (0.5 + self.jitter() / 2))

    def asked_ms(self, retry_after_s: float) -> int:
        """What a platform asks for, within our own bounds: one that says 0 would be asked without a pause."""
        return int(min(self.retry_max_s, max(self.retry_min_s, retry_after_s)) * 1000)  # NaN is the shortest


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: None as `error` when nothing more was due. `wait_ms` before the next one."""

    error: str | None
    wait_ms: int = 0


@dataclass(slots=True)
class Counts:
    """What became of deliveries to one platform since the role's start; `failures` are runs that broke off."""

    confirmed: int = 0
    rejections: int = 0
    postponed: int = 0  # answered with a later time, or a higher version
    failures: int = 0
    pushes: int = 0  # that were answered, whatever with
    push_s: float = 0.0  # all of their seconds, from the making of each to its answer


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
        self._channel: Channel | None = None
        self._store: Store | None = None
        self._stopping = threading.Event()
        self._cancel = Cancel()
        self._faults = Repeats()
        self._failures = 0
        self.counts = Counts()
        self._suspects: dict[tuple[str, str], OutboxRow] = {}  # by MDN and app: in work when something fails
        self._made_at: dict[tuple[str, str], float] = {}  # of each of them, in monotonic seconds
        self._rejections = 0  # in a row
        self._state = PlatformState(platform)
        self._reported: PlatformState | None = None  # the state as stored; None until it was read
        self._reported_at = -math.inf  # monotonic seconds

    @property
    def is_open(self) -> bool:
        return self._channel is not None

    @property
    def failing(self) -> bool:
        return self._failures > 0

    @property
    def state(self) -> PlatformState | None:
        """What was last seen of the platform; None until the first run has read what earlier ones saw."""
        return None if self._reported is None else self._state

    def run(self) -> Ended:
        """Deliver until nothing is due, the platform fails, its turn is over, or `stop` is called."""
        self._suspects = {}
        try:
            if self._store is None:
                self._store = self._open_store()
            if self._reported is None:  # holding back outlives a restart
                self._state = self._reported = self._store.platforms.state(self.platform)
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
            one_by_one = self._state.held_back or self._failures >= ONE_BY_ONE_AFTER
            rows = store.outbox.due(self.platform, self._now(), 1 if one_by_one else BATCH_ROWS)
            if not rows:
                break
            unsendable: list[Postpone] = []
            deliveries = self._prepare(store, rows, unsendable)
            try:
                first = next(deliveries, None)
                if first is None:  # nobody is called where nothing may be sent
                    continue
                if self._channel is None:  # which takes long: no key waits for it in clear, and all is looked up anew
                    del first
                    deliveries.close()
                    self._channel = self._open()
                    continue
                self._deliver(store, self._channel, chain([first], deliveries))
            finally:
                self._put_off(store, unsendable)
            if self._state.held_back:
                return Ended("held back after many rejections", HELD_BACK_TRY_MS)
        return Ended(None)

    def _open(self) -> Channel:
        """Connect; where that fails, it is not for what would have been sent."""
        suspects, self._suspects = self._suspects, {}
        channel = self._open_channel(self._cancel)
        self._suspects = suspects
        return channel

    def _prepare(self, store: Store, rows: Sequence[OutboxRow], unsendable: list[Postpone]) -> Generator[Delivery]:
        """What may be sent of `rows`, each made when there is room for it; the rest is added to `unsendable`.

        Ends where `rows` are no longer fresh, or `stop` was called. What was made is among the suspects.
        """
        self._suspects, self._made_at = {}, {}
        until = self._monotonic() + FRESH_S
        for row in rows:
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
            if self._stopping.is_set() or self._monotonic() >= until:
                return

    def _put_off(self, store: Store, unsendable: Sequence[Postpone]) -> None:
        """Put these off until their keys change, or for an hour."""
        if unsendable:
            self.log.warn(
                "platform {platform}: {count} deliveries cannot be sent, the first because {reason}",
                event="deliveries_unsendable",
                platform=self.platform,
                count=len(unsendable),
                reason=unsendable[0].reason,
            )
            for start in range(0, len(unsendable), STEP_ROWS):
                store.outbox.settle(self.platform, unsendable[start : start + STEP_ROWS], self._now())

    def _deliver(self, store: Store, channel: Channel, deliveries: Iterable[Delivery]) -> None:
        settlements: list[Settlement] = []
        settled_at = self._monotonic()
        try:
            for result in channel.deliver(deliveries):
                place = (result.delivery.mdn, result.delivery.app_id)
                row = self._suspects.pop(place)
                self.counts.pushes += 1
                self.counts.push_s += self._monotonic() - self._made_at.pop(place)
                settlements.append(self._judge(store, row, result))
                if len(settlements) >= STEP_ROWS or self._monotonic() - settled_at >= SETTLE_EVERY_S:
                    self._settle(store, settlements)
                    settlements, settled_at = [], self._monotonic()
                if self._state.held_back:
                    self.close_channel()  # what is on the road has nobody to answer to, and stays due
                    break
        finally:  # what was answered before the platform went down is settled all the same
            self._settle(store, settlements)

    def _settle(self, store: Store, settlements: list[Settlement]) -> None:
        if not settlements:
            return
        if self._state.held_back:
            self._state = replace(self._state, next_try_at=self._now() + HELD_BACK_TRY_MS)
        # Reported before its last rejections are settled: were we killed in between, they would come again.
        self._report(store)
        store.outbox.settle(self.platform, settlements, self._now())
        if self._failures:
            self.log.info("platform {platform}: delivering again", event="platform_up", platform=self.platform)
        self._failures = 0

    def _judge(self, store: Store, row: OutboxRow, result: Result) -> Settlement:
        now = self._now()
        if self._state.last_error is not None and not self._state.held_back:  # it is up, whatever it answers
            self._state = replace(self._state, last_error=None, last_error_at=None, next_try_at=None)
        if isinstance(result, TryLater):
            self.counts.postponed += 1
        match result:
            case Confirmed():
                self._confirmed(store, now)
                self._tell_confirmed(row)
                return Confirm(row)
            case TryLater(held_version=int(held), reason=reason):
                wait_ms = self._patience.wait_ms(row.attempts - 1) if row.attempts else 0
                return Outbid(row, held, now + wait_ms, reason)
            case TryLater(reason=reason, retry_after_s=retry_after_s):
                wait_ms = self._patience.wait_ms(row.attempts)
                if retry_after_s is not None:  # never sooner than we would by ourselves
                    wait_ms = max(wait_ms, self._patience.asked_ms(retry_after_s))
                return Postpone(row, now + wait_ms, reason)
            case Rejected(reason=reason, alarm=alarm):
                if alarm:
                    self.log.critical(
                        "platform {platform}: a delivery was rejected, its answer cannot be trusted: {reason}",
                        event="delivery_alarm",
                        platform=self.platform,
                        reason=reason,
                    )
                else:
                    self.log.warn(
                        "platform {platform}: a delivery was rejected: {reason}",
                        event="delivery_rejected",
                        platform=self.platform,
                        reason=reason,
                    )
                self._rejected(now)
                return Reject(row, reason)

    def _confirmed(self, store: Store, now: int) -> None:
        """The first confirmation lifts the rejections of its run as well: it was the platform, not the rows."""
        if self._state.held_back:
            store.outbox.again(self.platform, self._state.last_success_at or 0, now)
            self.log.info(
                "platform {platform}: no longer held back", event="platform_pause_lifted", platform=self.platform
            )
        self._rejections = 0
        self.counts.confirmed += 1
        if self._state.last_success_at != now or self._state.held_back:  # ten of a millisecond share one
            self._state = PlatformState(self.platform, last_success_at=now)

    def _tell_confirmed(self, row: OutboxRow) -> None:
        if _logger.isEnabledFor(logging.DEBUG):  # else it would cost each delivery something
            self.log.debug(
                "platform {platform}: confirmed for {mdn} and {app}",
                event="delivery_confirmed",
                platform=self.platform,
                mdn=masked(row.mdn),
                app=row.app_id,
            )

    def _rejected(self, now: int) -> None:
        self._rejections += 1
        self.counts.rejections += 1
        if self._state.last_success_at is not None and self._state.last_success_at > now:
            # The clock was set back. The run is known by its time: it came after the last success.
            self._state = replace(self._state, last_success_at=now)
        if self._rejections == HOLD_BACK_AFTER and not self._state.held_back:
            self.log.critical(
                "platform {platform}: held back after {count} rejections in a row, one try each 10 minutes",
                event="platform_paused",
                platform=self.platform,
                count=HOLD_BACK_AFTER,
            )
        if self._rejections >= HOLD_BACK_AFTER:
            reason = f"{HOLD_BACK_AFTER} rejections in a row"
            self._state = replace(self._state, last_error=reason, last_error_at=now, held_back=True)

    def _failed(self, reason: str) -> Ended:
        now, wait_ms = self._now(), self._patience.wait_ms(self._failures)
        if self._stopping.is_set():  # we ended it ourselves
            return Ended(reason, wait_ms)
        self._failures += 1
        self.counts.failures += 1
        if self._store is not None and self._reported is not None:
            self._state = replace(self._state, last_error=reason, last_error_at=now, next_try_at=now + wait_ms)
            with suppress(StoreError):  # nothing is lost without it
                self._report(self._store)
                if len(self._suspects) == 1:  # let the others pass: it may be this one that the platform cannot take
                    (row,) = self._suspects.values()
                    postponed = Postpone(row, now + self._patience.wait_ms(row.attempts), reason)
                    self._store.outbox.settle(self.platform, [postponed], now)
        return Ended(reason, wait_ms)

    def _report(self, store: Store) -> None:
        """Store the platform's state where it changed, but a success that follows a success only once in a while."""
        if self._state == self._reported:
            return
        routine = self._reported is not None and self._reported.last_error is None and self._state.last_error is None
        if not routine or self._monotonic() - self._reported_at >= REPORT_EVERY_S:
            store.platforms.report(self._state)
            self._reported, self._reported_at = self._state, self._monotonic()

    def _now(self) -> int:
        return int(self._wall() * 1000)
