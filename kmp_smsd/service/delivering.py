"""One platform's deliveries: what is due goes out over its channel, and what comes of it is settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from twisted.logger import Logger

from kmp_smsd.channels.protocol import Channel, ChannelDown, Confirmed, Delivery, Rejected, Result, TryLater
from kmp_smsd.service.preparing import Preparer, Unsendable
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.outbox import Confirm, Outbid, OutboxRow, Postpone, Reject, Settlement
from kmp_smsd.storage.routes import PlatformState

SETTLE_EVERY_S = 0.2  # a slow platform's confirmations do not wait for its last answer
UNSENDABLE_RETRY_MS = 3_600_000
REPORT_EVERY_MS = 10_000
ONE_BY_ONE_AFTER = 3  # failures in a row; then it shows whether one delivery brings the platform down
PAUSE_AFTER = 20  # rejections in a row
PAUSED_TRY_MS = 600_000


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
    """How a run ended: None as `error` when nothing more was due. `next_try_at` in Unix milliseconds, 0 for no wait."""

    error: str | None
    next_try_at: int = 0


class Deliverer:
    """Delivers to one platform. `run` blocks, in a worker thread; between runs this is its memory."""

    log = Logger()

    def __init__(
        self,
        platform: str,
        preparer: Preparer,
        open_channel: Callable[[], Channel],
        open_store: Callable[[], Store],
        patience: Patience,
        *,
        batch_rows: int = 200,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.platform = platform
        self._preparer = preparer
        self._open_channel = open_channel
        self._open_store = open_store
        self._patience = patience
        self._batch_rows = batch_rows  # keys in clear at once
        self._monotonic, self._wall = monotonic, wall
        self._channel: Channel | None = None
        self._store: Store | None = None
        self._stopping = threading.Event()
        self._failures = 0
        self._unanswered: dict[tuple[str, str], OutboxRow] = {}
        self._rejected_run: list[tuple[int, str]] = []
        self._paused = False
        self._reported: PlatformState | None = None
        self._reported_at = 0

    @property
    def is_open(self) -> bool:
        return self._channel is not None

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def run(self) -> Ended:
        """Deliver until nothing is due, the platform fails, or `stop` is called."""
        self._unanswered = {}
        try:
            if self._store is None:
                self._store = self._open_store()
            return self._deliver_all(self._store)
        except ChannelDown as error:
            self.close_channel()
            assert self._store is not None
            return self._failed(self._store, str(error))
        except StoreUnavailable as error:
            self.close_channel()  # what is on the road will be answered to nobody
            self._failures += 1
            self.log.error(
                "platform {platform}: store unavailable: {reason}", platform=self.platform, reason=str(error)
            )
            return Ended(str(error), self._now() + self._patience.wait_ms(0))
        except Exception:
            self.close_channel()
            self._failures += 1
            raise

    def stop(self) -> None:
        """End a run soon; from any thread."""
        self._stopping.set()

    def abort(self) -> None:
        """End a run now, by closing the connection under it; from any thread."""
        self._stopping.set()
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
        while not self._stopping.is_set():
            one_by_one = self._paused or self._failures >= ONE_BY_ONE_AFTER
            rows = store.outbox.due(self.platform, self._now(), 1 if one_by_one else self._batch_rows)
            if not rows:
                break
            sendable = self._prepare(store, rows)
            if not sendable:
                continue
            if self._channel is None:
                self._channel = self._open_channel()
            if self._stopping.is_set():  # meanwhile: `abort` had no connection to close
                break
            self._deliver(store, self._channel, sendable)
            if self._paused:
                return Ended("paused after many rejections", self._now() + PAUSED_TRY_MS)
        return Ended(None)

    def _prepare(self, store: Store, rows: Sequence[OutboxRow]) -> dict[tuple[str, str], tuple[OutboxRow, Delivery]]:
        """What may be sent, by MDN and app; the rest is put off until its key changes, or for an hour."""
        sendable: dict[tuple[str, str], tuple[OutboxRow, Delivery]] = {}
        unsendable: list[Settlement] = []
        for row in rows:
            try:
                sendable[row.mdn, row.app_id] = (row, self._preparer.prepare(row, store.sealed_data_keys))
            except Unsendable as error:
                unsendable.append(Postpone(row, self._now() + UNSENDABLE_RETRY_MS, str(error)))
        if unsendable:
            self.log.warn(
                "platform {platform}: {count} deliveries cannot be sent, the first because {reason}",
                platform=self.platform,
                count=len(unsendable),
                reason=unsendable[0].reason if isinstance(unsendable[0], Postpone) else "",
            )
            store.outbox.settle(self.platform, unsendable, self._now())
        return sendable

    def _deliver(
        self, store: Store, channel: Channel, sendable: dict[tuple[str, str], tuple[OutboxRow, Delivery]]
    ) -> None:
        settlements: list[Settlement] = []
        settled_at = self._monotonic()
        self._unanswered = {place: row for place, (row, _) in sendable.items()}
        try:
            for result in channel.deliver([delivery for _, delivery in sendable.values()]):
                row = self._unanswered.pop((result.delivery.mdn, result.delivery.app_id))
                settlements.append(self._judge(store, row, result))
                if self._monotonic() - settled_at >= SETTLE_EVERY_S:
                    self._settle(store, settlements)
                    settlements, settled_at = [], self._monotonic()
                if self._paused:
                    self.close_channel()  # what is on the road has nobody to answer to, and stays due
                    break
        finally:  # what was answered before the platform went down is settled all the same
            self._settle(store, settlements)

    def _settle(self, store: Store, settlements: list[Settlement]) -> None:
        if not settlements:
            return
        store.outbox.settle(self.platform, settlements, self._now())
        if any(isinstance(one, Confirm) for one in settlements):
            if self._failures:
                self.log.info("platform {platform}: delivering again", platform=self.platform)
            self._failures = 0
            self._report(store, PlatformState(self.platform, last_success_at=self._now()))

    def _judge(self, store: Store, row: OutboxRow, result: Result) -> Settlement:
        now = self._now()
        match result:
            case Confirmed():
                self._confirmed(store)
                return Confirm(row)
            case TryLater(held_version=int(held)):
                return Outbid(row, held, now + (self._patience.wait_ms(row.attempts - 1) if row.attempts else 0))
            case TryLater(reason=reason, retry_after_s=retry_after_s):
                wait_ms = self._patience.wait_ms(row.attempts)
                if retry_after_s is not None:  # never sooner than we would by ourselves
                    wait_ms = max(wait_ms, self._patience.asked_ms(retry_after_s))
                return Postpone(row, now + wait_ms, reason)
            case Rejected(reason=reason, alarm=alarm):
                (self.log.critical if alarm else self.log.warn)(
                    "platform {platform}: a delivery was rejected: {reason}", platform=self.platform, reason=reason
                )
                self._rejected(store, row)
                return Reject(row, reason)

    def _rejected(self, store: Store, row: OutboxRow) -> None:
        self._rejected_run.append((row.subscriber, row.app_id))
        if len(self._rejected_run) == PAUSE_AFTER:
            self._paused = True
            self.log.critical(
                "platform {platform}: paused after {count} rejections in a row, one try each 10 minutes",
                platform=self.platform,
                count=PAUSE_AFTER,
            )
            self._report(
                store,
                PlatformState(
                    self.platform,
                    last_error=f"{PAUSE_AFTER} rejections in a row",
                    last_error_at=self._now(),
                    next_try_at=self._now() + PAUSED_TRY_MS,
                    paused=True,
                ),
            )

    def _confirmed(self, store: Store) -> None:
        """The first confirmation lifts the pause and the rejections of its run: it was the platform, not the rows."""
        if self._paused:
            store.outbox.again(self._rejected_run, self.platform, self._now())
            self._paused = False
            self.log.info("platform {platform}: pause lifted", platform=self.platform)
        self._rejected_run.clear()

    def _failed(self, store: Store, reason: str) -> Ended:
        next_try_at = self._now() + self._patience.wait_ms(self._failures)
        self._failures += 1
        suspects = list(self._unanswered.values())
        if not self._stopping.is_set():
            self.log.warn("platform {platform}: {reason}", platform=self.platform, reason=reason)
            state = PlatformState(
                self.platform,
                last_error=reason,
                last_error_at=self._now(),
                next_try_at=next_try_at,
                paused=self._paused,
            )
            with suppress(StoreUnavailable):  # nothing is lost without it
                if len(suspects) == 1:  # let the others pass: it may be this one that the platform cannot take
                    wait_ms = self._patience.wait_ms(suspects[0].attempts)
                    store.outbox.settle(
                        self.platform, [Postpone(suspects[0], self._now() + wait_ms, reason)], self._now()
                    )
                self._report(store, state)
        return Ended(reason, next_try_at)

    def _report(self, store: Store, state: PlatformState) -> None:
        """Write what people see, but a success that follows a success only once in a while."""
        routine = self._reported is not None and self._reported.last_error is None and state.last_error is None
        if not routine or self._now() - self._reported_at >= REPORT_EVERY_MS:
            store.routes.report(state)
            self._reported, self._reported_at = state, self._now()

    def _now(self) -> int:
        return int(self._wall() * 1000)
