"""Intake: messages become batches, batches come into the inbox on the disk, and only then are messages answered."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.config.link import Link
from kmp_smsd.config.models import Storage
from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.numbering import NumberingPlan
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.service.admission import Admission
from kmp_smsd.service.answering import Chunk, answer, leave, refuse
from kmp_smsd.service.connection import Connection
from kmp_smsd.service.deciding import Deciding
from kmp_smsd.service.housekeeping import Housekeeping
from kmp_smsd.service.inbox_thread import InboxThread
from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.replying import Replier
from kmp_smsd.service.settler import Settler
from kmp_smsd.service.store_watch import StoreWatch
from kmp_smsd.service.thread import WorkThread
from kmp_smsd.service.watching import Watch
from kmp_smsd.smpp.pdu import Message
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.received import Received

WATCH_EVERY_S = 0.1  # deadlines of answers, what is to be settled, and requests that commands marked


@dataclass(frozen=True, slots=True)
class Load:
    """What a link asks of intake: messages without an answer, at most so many, and those that were over a limit."""

    in_flight: int = 0
    in_flight_max: int = 0
    throttled: int = 0


class Intake(Service):
    """Gives each message exactly one answer, and ROK only once it is on the disk; has `deciding` decide it.

    From `startService` on `store`, `inbox` and `deciding` are used in one thread each, so that a stalled disk never
    stops the reactor, and that whoever holds the write lock of the database keeps no answer back.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        inbox: Inbox,
        deciding: Deciding,
        sync: Sync,
        plan: NumberingPlan,
        links: Mapping[str, Link],
        reactor: Any,
        *,
        storage: Storage,
        policy: SyncPolicy,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._batch_max = sync.batch_max
        self._monotonic, self._wall = monotonic, wall
        self._admission = Admission(sync, plan, links, monotonic())
        self._thread = WorkThread("store", reactor, monotonic=monotonic, lock_wait=store.lock_wait)
        self._deciding = deciding
        self._deciding_thread = WorkThread("deciding", reactor, monotonic=monotonic, lock_wait=deciding.lock_wait)
        self._inbox = InboxThread(inbox, reactor, monotonic=monotonic)
        self.store_watch = StoreWatch(
            store,
            self._thread.run,
            self._thread.busy,
            inbox=self._inbox,
            deciding=self._deciding_thread.busy,
            monotonic=monotonic,
            wall=wall,
        )
        self.settler = Settler(
            deciding,
            self._deciding_thread,
            self.store_watch,
            has_room=self._next_batch,
            monotonic=monotonic,
            wall=wall,
        )
        self._pending: deque[Chunk] = deque()
        self._batch: list[Chunk] | None = None
        self._replier = Replier(store, links, self._thread.run, monotonic=monotonic, wall=wall)
        self._watch = Watch(self._look, reactor)
        self._housekeeping = Housekeeping(
            store,
            self._thread.run_aside,
            reactor,
            remember_days=sync.remember_days,
            late_ms=policy.longest_late_ms,
            storage=storage,
            monotonic=monotonic,
            wall=wall,
        )
        self._idle: list[Deferred[None]] = []

    def attach(self, link: SmscLink) -> None:
        """Know the link that may be asked to back off, and that takes replies."""
        self._admission.terms[link.name].link = link
        self._replier.attach(link)

    def reconfigure(self, sync: Sync, plan: NumberingPlan, policy: SyncPolicy, links: Mapping[str, Link]) -> None:
        """Go by these options from now on. What is in hand is settled under the policy that its batch meets.

        A link whose options changed, or that is gone, must have begun to drain; who takes its place is to `attach`.
        """
        self._admission.reconfigure(sync, plan, links, self._monotonic())
        self._batch_max = sync.batch_max
        self._replier.reconfigure(links)
        self._housekeeping.remember(sync.remember_days, policy.longest_late_ms)
        self.settler.decide_by(policy)

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many requests had each outcome since the start; one that is decided again counts again."""
        return self.settler.outcomes

    def load(self, link_name: str) -> Load:
        """What a link asks of us."""
        terms = self._admission.terms.get(link_name)
        return Load() if terms is None else Load(terms.in_flight, terms.options.in_flight_max, terms.throttled)

    def startService(self) -> None:
        super().startService()
        self._thread.start()
        self._deciding_thread.start()
        left = self._inbox.start()
        for received in left:
            self.settler.take(received)
        if left:
            self.log.info(
                "messages that were answered before the last end, and are settled now: {count}",
                event="inbox_left",
                count=self.settler.backlog,
            )
        self._watch.start(WATCH_EVERY_S)
        self._housekeeping.start()

    async def finish(self) -> None:
        """Answer and settle what is in hand, then close the store. The links must have been drained."""
        self._housekeeping.stop()
        if self._batch is not None or self._pending:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        async with AsyncExitStack() as ends:  # the last first; where one fails, the others are made all the same
            ends.callback(self._thread.stop)
            ends.push_async_callback(self._thread.run, self._store.close)
            ends.callback(self._deciding_thread.stop)
            ends.push_async_callback(self._deciding_thread.run, self._deciding.close)
            ends.push_async_callback(lambda: self._inbox.finish(self.settler.settled))
            ends.push_async_callback(self._replier.finish)
            ends.callback(self._stop_looking)
            await self.settler.settle_all()
            if self.settler.backlog:
                self.log.warn(
                    "messages that were answered and are not settled: {count}; the next start does that",
                    event="inbox_unsettled",
                    count=self.settler.backlog,
                )

    def _stop_looking(self) -> None:
        self.settler.stop()
        self._watch.stop()

    def messages(self, connection: Connection, messages: tuple[Message, ...]) -> None:
        """Take messages from a link. Those over a limit get the temporary status at once: the SMSC keeps them."""
        terms = self._admission.terms[connection.link_name]
        now = self._monotonic()
        admitted = self._admission.admit(terms, messages, int(self._wall() * 1000), now)
        if admitted.refused:
            refuse(connection, terms, admitted.refused)
        for start in range(0, len(admitted.taken), self._batch_max):
            part = slice(start, start + self._batch_max)
            self._pending.append(Chunk(connection, terms, admitted.taken[part], admitted.requests[part], now))
        self._next_batch()

    def _next_batch(self) -> None:
        """All that arrived while the last batch was being written is the next one: group commit with no timer."""
        if self._batch is not None:
            return
        batch: list[Chunk] = []
        size = 0
        # A chunk may be larger than what a reload has allowed since.
        while (
            self._pending
            and not self.settler.is_full
            and (not batch or size + len(self._pending[0].requests) <= self._batch_max)
        ):
            chunk = self._pending.popleft()
            batch.append(chunk)
            size += len(chunk.requests)
        if batch:
            self._batch = batch
            requests = [request for chunk in batch for request in chunk.requests]
            self._inbox.append(requests).addCallbacks(self._received, self._not_received)
        elif not self._pending:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def _received(self, received: Received) -> None:
        batch = self._take_batch()
        try:
            self.settler.take(received)  # first: it has its number
            answer(batch)
        finally:  # whatever goes wrong, the next one is not to wait for ever
            self._next_batch()

    def _not_received(self, failure: Failure) -> None:
        """None of the batch may be taken to be on the disk: all of it stays with the SMSC."""
        if failure.check(StoreUnavailable):
            self.log.error("store unavailable: {reason}", event="store_unavailable", reason=failure.getErrorMessage())
        else:
            self.log.failure("a batch could not be received", failure, event="batch_not_received")
        batch = self._take_batch()
        try:
            leave(batch, "the store is unavailable", self._monotonic())
        finally:
            self._next_batch()

    def _take_batch(self) -> list[Chunk]:
        batch, self._batch = self._batch, None
        assert batch is not None
        _release(batch)
        return batch

    def _look(self) -> None:
        """Answer what waits for too long; decide again what was marked."""
        now = self._monotonic()
        is_full = self.settler.is_full
        # The commit of a batch that is late may still succeed: a repeat is harmless.
        late = [chunk for chunk in self._batch or () if now >= chunk.deadline]
        overdue = [chunk for chunk in self._pending if now >= chunk.deadline]
        if overdue:
            self._pending = deque(chunk for chunk in self._pending if now < chunk.deadline)
            _release(overdue)
            self._next_batch()  # whoever waits for the end of it
        leave(late + overdue, "the store is slow", now)
        if late or (overdue and not is_full):
            self._inbox.late()
        elif overdue:
            self.settler.late()
        self.settler.look()
        self._replier.look()
        self._inbox.look(self.settler.settled)


def _release(chunks: Iterable[Chunk]) -> None:
    for chunk in chunks:
        chunk.terms.in_flight -= len(chunk.messages)
