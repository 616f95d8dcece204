"""Settling: what was received is decided in its order, while new messages are already being answered."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.shown import masked
from kmp_smsd.service.deciding import Deciding
from kmp_smsd.service.faults import Faults
from kmp_smsd.service.store_watch import StoreWatch
from kmp_smsd.service.thread import WorkThread
from kmp_smsd.storage.received import Message, Received

# Fewer wait for the next look, so that they share a transaction; more would cost each little less, and who writes
# beside us would wait for longer.
SETTLE_MAX = 2_000
BACKLOG_MAX = 50_000  # more is not received until some of it is settled: some four seconds of work, and 15 MB
RETRY_EVERY_S = 1.0
HUNG_S = 55.0  # who decides has said by then where it hangs, and the watchdog has not ended this process and its links


class Settler:
    """Has what it is given settled, and again what commands marked, by `deciding` in a thread of its own.

    `has_room` is called when some of the backlog is settled.
    """

    log = Logger()

    def __init__(
        self,
        deciding: Deciding,
        thread: WorkThread,
        store_watch: StoreWatch,
        *,
        has_room: Callable[[], None],
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._deciding = deciding
        self._thread = thread
        self._store_watch = store_watch
        self._has_room = has_room
        self._monotonic, self._wall = monotonic, wall
        self._waiting: deque[Received] = deque()
        self._batch: list[Received] = []
        self._begun_at = 0.0  # monotonic seconds
        self._retry_at = float("-inf")  # monotonic seconds
        self._looking = False
        self._stopped = False
        self._failed = False  # the last try
        # After each failure half as many are tried at once, after each success twice as many: one line may be at fault.
        self._halvings = 0
        self._faults = Faults(self.log, monotonic)
        self._idle: list[Deferred[None]] = []
        self.backlog = 0  # messages that are not settled
        self.settled = 0  # messages since the start, in the order in which they were taken
        self.outcomes: Counter[str] = Counter()

    @property
    def is_full(self) -> bool:
        return self.backlog >= BACKLOG_MAX

    @property
    def _rests(self) -> bool:
        """Whether the last try failed, and the next one is not yet due."""
        return self._failed and self._monotonic() < self._retry_at

    def take(self, received: Received) -> None:
        """Settle these after all that was taken before."""
        self._waiting.append(received)
        self.backlog += received.count
        if self.backlog >= SETTLE_MAX:
            self._next_batch()

    def decide_by(self, policy: SyncPolicy) -> None:
        """Decide by `policy` what is not under way yet."""
        self._thread.run(self._deciding.set_policy, policy).addErrback(self._not_told)

    def look(self) -> None:
        """Settle what waits, then what was marked. To be called now and then."""
        if self._thread.busy.stuck_s > HUNG_S and not self._thread.busy.waits_for_others:
            self._deciding.give_up()
        self._next_batch()
        if not (self._looking or self._stopped):
            self._looking = True
            looked = self._thread.run(self._deciding.settle_again, int(self._wall() * 1000))
            looked.addCallbacks(self._settled_again, self._not_settled_again)

    def late(self) -> None:
        """Messages were left with their SMSC, since so many wait to be settled."""
        if not self._failed:
            self._store_watch.not_settled(
                f"{self.backlog:,} messages wait to be settled, and others were left with their SMSC"
            )

    def settle_all(self) -> Deferred[None]:
        """Settle the backlog now. Fires when nothing is left of it, or settling failed."""
        settled: Deferred[None] = Deferred()
        self._idle.append(settled)
        self._retry_at = float("-inf")
        self._go_on()
        return settled

    def stop(self) -> None:
        """Look at nothing more that was marked."""
        self._stopped = True

    def _next_batch(self) -> None:
        if self._batch or not self._waiting or self._rests:
            return
        batch = [self._waiting.popleft()]
        size = batch[0].count
        # The numbers of a batch have no gap: the store counts back from the last one.
        while (
            self._waiting
            and size + self._waiting[0].count <= SETTLE_MAX >> self._halvings
            and (self._waiting[0].run, self._waiting[0].first - 1) == batch[-1].last
        ):
            batch.append(self._waiting.popleft())
            size += batch[-1].count
        self._batch, self._begun_at = batch, self._monotonic()
        settled = self._thread.run(self._deciding.settle, batch, int(self._wall() * 1000))
        settled.addCallbacks(self._settled, self._not_settled)

    def _settled(self, outcomes: list[Outcome | None]) -> None:
        batch, self._batch = self._batch, []
        self._failed = False
        self._halvings = max(0, self._halvings - 1)
        count = sum(received.count for received in batch)
        self.settled += count
        self.backlog -= count
        self.outcomes.update(filter(None, outcomes))  # not those that a try before this one had settled
        self._store_watch.settled(self._monotonic() - self._begun_at)
        if logging.getLogger(__name__).isEnabledFor(logging.DEBUG):  # else it would cost each message something
            self._tell([message for received in batch for message in received.messages], outcomes)
        self._has_room()
        self._go_on()

    def _tell(self, messages: Sequence[Message], outcomes: Sequence[Outcome | None]) -> None:
        for message, outcome in zip(messages, outcomes, strict=True):
            if outcome is not None:
                self.log.debug(
                    "link {link}: message of {mdn}: {outcome}",
                    event="message_settled",
                    link=message.link,
                    mdn=masked(message.mdn or "") or "no legal number",
                    outcome=outcome.value,
                )

    def _not_settled(self, failure: Failure) -> None:
        """It stays in the inbox, and is tried again."""
        batch, self._batch = self._batch, []
        self._waiting.extendleft(reversed(batch))
        self._failed = True
        self._halvings = min(self._halvings + 1, SETTLE_MAX.bit_length() - 1)
        self._retry_at = self._monotonic() + RETRY_EVERY_S
        self._store_watch.not_settled(_reason(failure))
        if self._faults.left_to_tell(failure):
            self.log.failure("a batch could not be settled", failure, event="batch_not_settled")
        self._go_on()

    def _go_on(self) -> None:
        if not self._batch and (not self._waiting or self._rests):
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)
        elif self._idle or self.backlog >= SETTLE_MAX:
            self._next_batch()

    def _settled_again(self, result: tuple[list[Outcome], bool]) -> None:
        outcomes, more = result
        self._looking = False
        self._store_watch.settled_again()
        self.outcomes.update(outcomes)
        if more and not self._stopped:
            self.look()  # what came meanwhile goes first

    def _not_settled_again(self, failure: Failure) -> None:
        self._looking = False
        self._store_watch.not_settled_again(_reason(failure))
        if self._faults.left_to_tell(failure):
            self.log.failure("marked requests could not be settled", failure, event="marked_not_settled")

    def _not_told(self, failure: Failure) -> None:
        """Who decides next knows the policy all the same."""
        if self._faults.left_to_tell(failure):
            self.log.failure("who decides could not be told the policy", failure, event="policy_not_told")


def _reason(failure: Failure) -> str:
    return failure.getErrorMessage() or str(failure.type)
