"""What a platform's answers mean: for each delivery, and for how the platform stands, which outlives a restart."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from twisted.logger import Logger

from kmp_smsd.channels.protocol import Confirmed, Rejected, Result, TryLater
from kmp_smsd.domain.shown import masked
from kmp_smsd.storage import Store
from kmp_smsd.storage.outbox import Confirm, Outbid, OutboxRow, Postpone, Reject, Settlement
from kmp_smsd.storage.platforms import PlatformState

_logger = logging.getLogger(__name__)  # to be asked for its level; looking it up takes a lock

REPORT_EVERY_S = 10.0
HOLD_BACK_AFTER = 20  # rejections in a row
HELD_BACK_TRY_MS = 600_000


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


@dataclass(slots=True)
class Counts:
    """What became of deliveries to one platform since the role's start; `failures` are runs that broke off."""

    confirmed: int = 0
    rejections: int = 0
    postponed: int = 0  # answered with a later time, or a higher version
    failures: int = 0
    pushes: int = 0  # that were answered, whatever with
    push_s: float = 0.0  # all of their seconds, from the making of each to its answer


class Judge:
    """Judges the answers of one platform. Used in its worker's thread; others may read `counts` and `state`."""

    log = Logger()

    def __init__(
        self, platform: str, patience: Patience, *, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._platform = platform
        self._patience = patience
        self._monotonic, self._wall = monotonic, wall
        self._rejections = 0  # in a row
        self._rejected_apps: dict[str, int] = {}  # which of all rejections was the last of each
        self._outbid = False  # the last delivery
        self._state = PlatformState(platform)
        self._reported: PlatformState | None = None  # the state as stored; None until it was read
        self._reported_at = -math.inf  # monotonic seconds
        self.counts = Counts()

    @property
    def held_back(self) -> bool:
        """Whether so many rejections came in a row that only one delivery is tried at a time, and that seldom."""
        return self._state.held_back

    @property
    def rests(self) -> bool:
        """Whether it is held back and is not to be tried again now. One that held a later version did not refuse."""
        return self._state.held_back and not self._outbid

    def by_turns(self, rows: Sequence[OutboxRow]) -> list[OutboxRow]:
        """`rows` in the order in which one is tried while it is held back: first the app that was rejected longest ago.

        Else apps that it does not know kept all others from it.
        """
        return sorted(rows, key=lambda row: self._rejected_apps.get(row.app_id, 0))

    @property
    def state(self) -> PlatformState | None:
        """What was last seen of the platform; None until what earlier runs saw was read."""
        return None if self._reported is None else self._state

    def read(self, store: Store) -> None:
        """Read, once, how the platform stood: holding back outlives a restart."""
        if self._reported is None:
            self._state = self._reported = store.platforms.state(self._platform)

    def judge(self, store: Store, row: OutboxRow, result: Result) -> Settlement:
        """What is to be written of a delivery that was answered so."""
        now = self._now()
        settlement = self._settlement(store, row, result, now)
        self._outbid = isinstance(settlement, Outbid)
        if self.rests:
            self._state = replace(self._state, next_try_at=now + HELD_BACK_TRY_MS)
        return settlement

    def down(self, reason: str, wait_ms: int) -> None:
        """Know that the platform failed, and that it is not tried again before `wait_ms` have passed."""
        now = self._now()
        self._state = replace(self._state, last_error=reason, last_error_at=now, next_try_at=now + wait_ms)

    def report(self, store: Store) -> None:
        """Store the platform's state where it changed, but a success that follows a success only once in a while."""
        if self._state == self._reported:
            return
        routine = self._reported is not None and self._reported.last_error is None and self._state.last_error is None
        if not routine or self._monotonic() - self._reported_at >= REPORT_EVERY_S:
            store.platforms.report(self._state)
            self._reported, self._reported_at = self._state, self._monotonic()

    def _settlement(self, store: Store, row: OutboxRow, result: Result, now: int) -> Settlement:
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
                        platform=self._platform,
                        reason=reason,
                    )
                else:
                    self.log.warn(
                        "platform {platform}: a delivery was rejected: {reason}",
                        event="delivery_rejected",
                        platform=self._platform,
                        reason=reason,
                    )
                self._rejected(row, now)
                return Reject(row, now, reason)

    def _confirmed(self, store: Store, now: int) -> None:
        """The first confirmation lifts the rejections of its run as well: it was the platform, not the rows."""
        if self._state.held_back:
            store.renewing.again(self._platform, self._state.last_success_at or 0, now)
            self.log.info(
                "platform {platform}: no longer held back", event="platform_pause_lifted", platform=self._platform
            )
        self._rejections = 0
        self.counts.confirmed += 1
        if self._state.last_success_at != now or self._state.held_back:  # ten of a millisecond share one
            self._state = PlatformState(self._platform, last_success_at=now)

    def _tell_confirmed(self, row: OutboxRow) -> None:
        if _logger.isEnabledFor(logging.DEBUG):  # else it would cost each delivery something
            self.log.debug(
                "platform {platform}: confirmed for {mdn} and {app}",
                event="delivery_confirmed",
                platform=self._platform,
                mdn=masked(row.mdn),
                app=row.app_id,
            )

    def _rejected(self, row: OutboxRow, now: int) -> None:
        self._rejections += 1
        self.counts.rejections += 1
        self._rejected_apps[row.app_id] = self.counts.rejections
        if self._state.last_success_at is not None and self._state.last_success_at > now:
            # The clock was set back. The run is known by its time: it came after the last success.
            self._state = replace(self._state, last_success_at=now)
        if self._rejections == HOLD_BACK_AFTER and not self._state.held_back:
            self.log.critical(
                "platform {platform}: held back after {count} rejections in a row, one try each 10 minutes",
                event="platform_paused",
                platform=self._platform,
                count=HOLD_BACK_AFTER,
            )
        if self._rejections >= HOLD_BACK_AFTER:
            reason = f"{HOLD_BACK_AFTER} rejections in a row"
            self._state = replace(self._state, last_error=reason, last_error_at=now, held_back=True)

    def _now(self) -> int:
        return int(self._wall() * 1000)
