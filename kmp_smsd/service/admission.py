"""Admission: what comes is read, and taken within the limits of its link and of its sender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from twisted.logger import Logger

from kmp_smsd.config.link import Link
from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.numbering import NumberingPlan
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.rate import Bucket, Buckets
from kmp_smsd.service.reading import Reader
from kmp_smsd.smpp.pdu import Message


@dataclass(slots=True, eq=False)
class Terms:
    """What was agreed with the SMSC of one link, and what came of it."""

    link_name: str
    options: Link
    reader: Reader
    bucket: Bucket | None
    in_flight: int = 0
    failures: int = 0  # in a row
    failed_at: float = float("-inf")  # monotonic seconds; the last of them
    throttled: int = 0
    link: SmscLink | None = None


@dataclass(slots=True)
class Admitted:
    """Messages that were taken, what each asks for, and those that were not taken."""

    taken: list[Message] = field(default_factory=list)
    requests: list[SyncRequest | Unfit] = field(default_factory=list)
    refused: list[Message] = field(default_factory=list)


class Admission:
    """Admits messages by the limits of `links` and of `sync`; `terms` are by the names of links.

    `now` is in monotonic seconds.
    """

    log = Logger()

    def __init__(self, sync: Sync, plan: NumberingPlan, links: Mapping[str, Link], now: float) -> None:
        self._sync = sync
        self._senders = Buckets(sync.mdn_burst, sync.mdn_per_minute / 60)
        self.terms: Mapping[str, Terms] = {name: _agreed(name, link, sync, plan, now) for name, link in links.items()}

    def reconfigure(self, sync: Sync, plan: NumberingPlan, links: Mapping[str, Link], now: float) -> None:
        """Go by these options from now on. A link whose options stayed keeps its terms, and is read anew."""
        terms: dict[str, Terms] = {}
        for name, link in links.items():
            known = self.terms.get(name)
            if known is not None and known.options == link:
                known.reader = Reader(name, link, sync, plan)
                terms[name] = known
            else:
                terms[name] = _agreed(name, link, sync, plan, now)
                terms[name].throttled = known.throttled if known is not None else 0  # counts from the role's start on
        if (sync.mdn_burst, sync.mdn_per_minute) != (self._sync.mdn_burst, self._sync.mdn_per_minute):
            self._senders = Buckets(sync.mdn_burst, sync.mdn_per_minute / 60)
        self.terms, self._sync = terms, sync

    def admit(self, terms: Terms, messages: Sequence[Message], received_at: int, now: float) -> Admitted:
        """Read `messages`, which came under these terms at `received_at` (Unix milliseconds); take what is allowed."""
        admitted = Admitted()
        taken, requests, refused = admitted.taken, admitted.requests, admitted.refused
        bucket, read, take = terms.bucket, terms.reader.read, self._senders.take
        room = terms.options.in_flight_max - terms.in_flight
        for message in messages:
            if len(taken) >= room or (bucket is not None and bucket.left(now) < 1):
                refused.append(message)
                continue
            try:
                request = read(message, received_at)
            except Exception:  # its own fault: it must neither take a neighbour with it nor come back for days
                request = self._unreadable(terms, received_at)
            if request.mdn is not None and not take(request.mdn, now):
                refused.append(message)
                continue
            if bucket is not None:  # last: who comes too often takes nothing from the others of the link
                bucket.take(now)
            taken.append(message)
            requests.append(request)
        terms.in_flight += len(taken)
        if refused:
            terms.throttled += len(refused)
            self.log.debug(
                "link {link}: messages over a limit, left with the SMSC: {count}",
                event="messages_over_limit",
                link=terms.link_name,
                count=len(refused),
            )
        return admitted

    def _unreadable(self, terms: Terms, received_at: int) -> Unfit:
        self.log.failure("link {link}: a message could not be read", event="message_unreadable", link=terms.link_name)
        return Unfit(outcome=Outcome.ERROR, received_at=received_at, link=terms.link_name)


def _agreed(name: str, link: Link, sync: Sync, plan: NumberingPlan, now: float) -> Terms:
    bucket = Bucket(link.rate_per_s, link.rate_per_s, now) if link.rate_per_s else None
    return Terms(name, link, Reader(name, link, sync, plan), bucket)
