"""Telling terminals that their platform has their key: replies that are due leave by the link of their message."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.config.link import Link
from kmp_smsd.domain.reply import Reply, ReplyResult, ReplyState
from kmp_smsd.service.backoff import Backoff
from kmp_smsd.service.faults import Faults
from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.rate import Bucket
from kmp_smsd.smpp.constants import UDHI, CommandStatus, name_of
from kmp_smsd.smpp.events import SubmitAnswered
from kmp_smsd.smpp.submit import SubmitSm, relative_time
from kmp_smsd.smpp.udh import ports_header
from kmp_smsd.storage import Store, StoreUnavailable

STOP_MIN_S, STOP_MAX_S = 1.0, 60.0  # while an SMSC takes no more
SWEEP_EVERY_S = 60.0
TELL_SPENT_EVERY_S = 86_400.0
_NOT_TAKEN = frozenset({CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL})
_EIGHT_BIT = 0x04  # data_coding, SMPP 3.4, section 5.2.19


@dataclass(slots=True)
class _Terms:
    """What one SMSC may be asked now."""

    options: Link
    bucket: Bucket
    backoff: Backoff
    link: SmscLink | None = None
    in_flight: int = 0
    stopped_until: float = float("-inf")  # monotonic seconds
    is_tried: bool = False  # it took no more the last time: one at a time, until it takes one
    # When it was last counted, less what left since; None before that, and where there is no limit.
    left_of_day: int | None = None
    tell_spent_at: float = float("-inf")  # monotonic seconds


class Replier:
    """Sends replies, each at most once. Only a definite "not taken" makes one wait again; what is unclear is left.

    `in_thread` runs a call in the store's thread. Everything else happens in the reactor's.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        links: Mapping[str, Link],
        in_thread: Callable[..., Deferred[Any]],
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._in_thread = in_thread
        self._monotonic, self._wall = monotonic, wall
        self._jitter = jitter
        self._terms: Mapping[str, _Terms] = {}  # never changed, since the store's thread reads it; replaced instead
        self.reconfigure(links)
        self._results: list[ReplyResult] = []
        self._working: Deferred[Any] | None = None
        self._recovered = False
        self._faults = Faults(self.log, monotonic)
        self._sweep_at = monotonic()

    def reconfigure(self, links: Mapping[str, Link]) -> None:
        """Go by the options of these links; who takes the place of one that changed is to `attach`."""
        terms = {}
        for name, link in links.items():
            known = self._terms.get(name)
            if known is not None and known.options == link:
                terms[name] = known
            elif link.reply != "never":
                bucket = Bucket(max(1.0, link.reply_per_s), link.reply_per_s, self._monotonic())
                terms[name] = _Terms(link, bucket, Backoff(STOP_MIN_S, STOP_MAX_S, self._jitter))
        self._terms = terms

    def attach(self, link: SmscLink) -> None:
        """Know the link that replies leave by."""
        if link.name in self._terms:
            self._terms[link.name].link = link

    def look(self) -> None:
        """Write what became of replies and send what is due. Does nothing where no link replies, but for the sweep."""
        if self._working is None and (self._terms or self._monotonic() >= self._sweep_at):
            self._work(self._room())

    async def finish(self) -> None:
        """Write what became of the last replies. The links must have been drained."""
        if self._working is not None:
            await self._working
        if self._results:
            await self._work({})

    def _room(self) -> dict[str, int]:
        """How many replies each link takes now; links that take none are left out."""
        now = self._monotonic()
        room = {}
        for name, terms in self._terms.items():
            if terms.link is not None and terms.link.can_submit and now >= terms.stopped_until:
                window = 1 if terms.is_tried else terms.options.reply_window
                if (most := min(window - terms.in_flight, terms.bucket.left(now))) > 0:
                    room[name] = most
        return room

    def _work(self, room: Mapping[str, int]) -> Deferred[None]:
        now = self._monotonic()
        sweep = now >= self._sweep_at
        if sweep:
            self._sweep_at = now + SWEEP_EVERY_S
        results, self._results = self._results, []
        self._working = self._in_thread(self._exchange, results, room, self._now_ms(), sweep)
        return self._working.addCallbacks(self._send, self._not_exchanged, errbackArgs=(results,))

    def _exchange(self, results: list[ReplyResult], room: Mapping[str, int], now: int, sweep: bool) -> list[Reply]:
        """What is done in the store's thread."""
        if not self._recovered:
            self._store.replies.recover(now)
            self._recovered = True
        if sweep:
            self._store.replies.sweep(now)
        self._count_day(now, anew=sweep)
        room = self._within_day(room)
        try:
            replies = self._store.replies.exchange(results, room, now)
        except StoreUnavailable:
            raise
        except Exception:  # one result's own fault: it takes no neighbour with it
            if not results:
                raise
            self._write_singly(results, now)
            replies = self._store.replies.exchange([], room, now)
        for reply in replies:
            if (terms := self._terms.get(reply.link)) is not None and terms.left_of_day is not None:
                terms.left_of_day -= 1
        self._tell_spent()
        return replies

    def _count_day(self, now: int, *, anew: bool) -> None:
        """In the store's thread: see what each link, or only who was never counted, has left of its budget."""
        for name, terms in self._terms.items():
            a_day = terms.options.replies_a_day
            if a_day and (anew or terms.left_of_day is None):
                terms.left_of_day = max(0, a_day - self._store.replies.sent_in_a_day(name, now))

    def _tell_spent(self) -> None:
        for name, terms in self._terms.items():
            left = terms.left_of_day  # None: a reload came in between, and it is counted before the next exchange
            if left is not None and left <= 0 and self._monotonic() >= terms.tell_spent_at:
                terms.tell_spent_at = self._monotonic() + TELL_SPENT_EVERY_S
                self.log.warn(
                    "link {link}: replies that left in a day: {count}, its limit; the others wait until they expire",
                    event="replies_spent",
                    link=name,
                    count=terms.options.replies_a_day,
                )

    def _within_day(self, room: Mapping[str, int]) -> dict[str, int]:
        return {
            name: min(most, terms.left_of_day or 0) if terms.options.replies_a_day else most
            for name, most in room.items()
            if (terms := self._terms.get(name)) is not None
        }

    def _write_singly(self, results: list[ReplyResult], now: int) -> None:
        """In the store's thread: write what can be written. What cannot is dropped: the sweep gives its reply up."""
        while results:
            try:
                self._store.replies.exchange(results[:1], {}, now)
            except StoreUnavailable:
                raise
            except Exception:  # its own fault
                self.log.failure(
                    "what became of reply {number} cannot be written",
                    event="reply_result_unwritten",
                    number=results[0].number,
                )
            del results[0]

    def _not_exchanged(self, failure: Failure, results: list[ReplyResult]) -> None:
        self._working = None
        self._results = results + self._results
        if self._faults.left_to_tell(failure, "replies wait, store unavailable: {reason}"):
            self.log.failure("replies could not be exchanged with the store", failure, event="replies_not_exchanged")

    def _send(self, replies: Iterable[Reply]) -> None:
        """Submit what is on disk as being sent."""
        self._working = None
        for reply in replies:
            terms = self._terms.get(reply.link)
            try:
                submit_sm = make_submit_sm(reply, self._now_ms())
            except ValueError as error:
                self.log.error(
                    "reply {number} cannot be written: {reason}",
                    event="reply_unwritable",
                    number=reply.number,
                    reason=str(error),
                )
                self._results.append(ReplyResult(reply.number, ReplyState.REFUSED))
                continue
            link = None if terms is None else terms.link
            if terms is not None and link is not None and link.submit(submit_sm, self._told(reply, terms)):
                terms.in_flight += 1
                terms.bucket.take(self._monotonic())
            else:  # the link was lost, drains, or replies no more
                self._results.append(ReplyResult(reply.number, ReplyState.WAITING))

    def _told(self, reply: Reply, terms: _Terms) -> Callable[[SubmitAnswered | None], None]:
        def told(answer: SubmitAnswered | None) -> None:
            terms.in_flight -= 1
            self._results.append(self._result(reply, terms, answer))

        return told

    def _result(self, reply: Reply, terms: _Terms, answer: SubmitAnswered | None) -> ReplyResult:
        if answer is None:
            self.log.warn(
                "link {link}: reply {number} had no answer",
                event="reply_unanswered",
                link=reply.link,
                number=reply.number,
            )
            return ReplyResult(reply.number, ReplyState.UNKNOWN)
        status = answer.command_status
        if status in _NOT_TAKEN:
            self._stop(reply.link, terms, status)
            return ReplyResult(reply.number, ReplyState.WAITING, status)
        if status != CommandStatus.ESME_ROK:
            self.log.warn(
                "link {link}: reply {number} was refused with {status}",
                event="reply_refused",
                link=reply.link,
                number=reply.number,
                status=name_of(status),
            )
            return ReplyResult(reply.number, ReplyState.REFUSED, status)
        if self._monotonic() >= terms.stopped_until:
            terms.backoff.reset()
            terms.is_tried = False
        return ReplyResult(reply.number, ReplyState.SENT, status, answer.message_id)

    def _stop(self, link: str, terms: _Terms, status: int) -> None:
        """Send no replies by this link for a while; what comes back of one window is one refusal."""
        now = self._monotonic()
        if now >= terms.stopped_until:
            wait_s = terms.backoff.next_s()
            terms.stopped_until = now + wait_s
            terms.is_tried = True
            self.log.warn(
                "link {link}: the SMSC takes no replies now ({status}); next try in {wait_s:.1f} s",
                event="replies_stopped",
                link=link,
                status=name_of(status),
                wait_s=wait_s,
            )

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def make_submit_sm(reply: Reply, now: int) -> SubmitSm:
    """Write `reply`, sent at `now` in Unix milliseconds, as a message from the address that its terminal wrote to.

    Raises ValueError where an address does not fit.
    """
    to = reply.to
    ports = {}
    header = b""
    if to.terminal_port is not None and to.our_port is not None:
        header = ports_header(destination_port=to.terminal_port, source_port=to.our_port)
        ports = {"esm_class": UDHI, "data_coding": _EIGHT_BIT}
    return SubmitSm(
        source_addr_ton=to.our_ton,
        source_addr_npi=to.our_npi,
        source_addr=to.ours,
        dest_addr_ton=to.terminal_ton,
        dest_addr_npi=to.terminal_npi,
        destination_addr=to.terminal,
        validity_period=relative_time((reply.expires_at - now) / 1000),
        short_message=header + reply.text,
        **ports,
    )
