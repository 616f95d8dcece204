"""Housekeeping: what nobody needs any more goes, in small steps between the batches of intake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kmp_smsd.config.models import Storage
from kmp_smsd.domain.spans import DAY_MS, HOUR_MS
from kmp_smsd.service.believed_clock import BelievedClock
from kmp_smsd.service.watching import Watch
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.retention import Step
from kmp_smsd.storage.rows import STEP_ROWS

STEP_EVERY_S = 30.0
REQUESTS_KEPT_MS = 30 * DAY_MS  # of the business system, which may ask again
ANSWERS_KEPT_MS = DAY_MS  # to a gateway that did not wait for them
REPLIES_KEPT_MS = DAY_MS  # after its end: as long as one counts for what an MDN, or a link, may cost in a day
STEPS_IN_A_ROW = 100  # of one kind, where very much is old: as after the first start with a shorter time
PAUSE_S = 0.1  # between them


class Housekeeping:
    """Takes its steps in the thread of `store`; batches pass between them."""

    log = Logger()

    def __init__(
        self,
        store: Store,
        in_thread: Callable[..., Deferred[Any]],
        reactor: Any,
        *,
        remember_days: int,
        late_ms: int,
        storage: Storage,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._in_thread = in_thread
        self._reactor = reactor
        self._storage = storage
        self.remember(remember_days, late_ms)
        last_hour = store.journal.last_hour()
        last_at = None if last_hour is None else (last_hour + 1) * HOUR_MS / 1000
        self._clock = BelievedClock(wall, monotonic, last_at)
        self._watch = Watch(self._tidy, reactor)

    def start(self) -> None:
        self._watch.start(STEP_EVERY_S, now=False)

    def remember(self, days: int, late_ms: int) -> None:
        """Remember for so many days from now on. A request may be late by what ended so long before it (`late_ms`).

        Ended bindings stay for as long as one may come that is late by them: the oldest has waited for so many days.
        """
        self._remember_ms = days * DAY_MS
        self._late_ms = late_ms + self._remember_ms

    def stop(self) -> None:
        """Take no further step; the one under way goes on."""
        self._watch.stop()

    @inlineCallbacks
    def _tidy(self) -> Any:
        try:
            for expire, kept_ms in (
                (self._store.waiting.expire, self._remember_ms),
                (self._store.requests.expire, REQUESTS_KEPT_MS),
                (self._store.submissions.expire, ANSWERS_KEPT_MS),
                (self._store.replies.expire, REPLIES_KEPT_MS),
            ):
                yield self._delete(_in_steps(expire), kept_ms)
            yield self._delete(self._sweep, self._remember_ms)
            for old, days, at_least_ms in (
                (self._store.retention.journal, self._storage.journal_days, 0),
                (self._store.retention.tallies, self._storage.tallies_days, 0),
                (self._store.retention.ended_bindings, self._storage.ended_bindings_days, self._late_ms),
            ):
                if days:  # 0 is for ever
                    yield self._delete(old, max(days * DAY_MS, at_least_ms))
        except StoreUnavailable as error:  # the next step finds the same
            self.log.error("store unavailable: {reason}", event="store_unavailable", reason=str(error))

    @inlineCallbacks
    def _delete(self, old: Callable[[int], Step], kept_ms: int) -> Any:
        """Take steps until nothing old is left, but not for so long that other things are never done."""
        for _ in range(STEPS_IN_A_ROW):
            if not self._watch.running:
                return
            step: Step = yield self._in_thread(old, int(self._clock.now() * 1000) - kept_ms)
            if step.done:
                return
            yield deferLater(self._reactor, PAUSE_S)

    def _sweep(self, before: int) -> Step:
        erasing = self._store.erasing
        return Step(erasing.sweep(before), not erasing.sweeping)


def _in_steps(expire: Callable[[int], int]) -> Callable[[int], Step]:
    """What `expire` does, as a step: where it forgot as many as it may at once, there is more."""

    def step(before: int) -> Step:
        forgotten = expire(before)
        return Step(forgotten, forgotten < STEP_ROWS)

    return step
