"""Answering messages: with what became of them, or with the status by which their SMSC keeps them; each once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from twisted.logger import Logger

from kmp_smsd.domain.outcome import NEVER_AGAIN
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.service.admission import Terms
from kmp_smsd.service.connection import Connection
from kmp_smsd.smpp.constants import CommandStatus
from kmp_smsd.smpp.pdu import Message

log = Logger()


@dataclass(slots=True)
class Chunk:
    """Messages that arrived together by one connection, in order."""

    connection: Connection
    terms: Terms  # under which they came, whatever a reload has made of them since
    messages: Sequence[Message]
    requests: list[SyncRequest | Unfit]
    came_at: float  # monotonic seconds
    answered: bool = False

    @property
    def deadline(self) -> float:
        return self.came_at + self.terms.options.answer_within_s


def answer(chunks: Iterable[Chunk]) -> None:
    """Answer what is on the disk, each connection with one write."""
    answers: defaultdict[Connection, list[tuple[Message, int]]] = defaultdict(list)
    for chunk in chunks:
        if not chunk.answered:
            chunk.terms.failures = 0
            ok, never = CommandStatus.ESME_ROK, chunk.terms.options.never_status
            answers[chunk.connection] += [
                (message, never if isinstance(request, Unfit) and request.outcome in NEVER_AGAIN else ok)
                for message, request in zip(chunk.messages, chunk.requests, strict=True)
            ]
    for connection, pairs in answers.items():
        _tell(connection, pairs)


def refuse(connection: Connection, terms: Terms, messages: Iterable[Message]) -> None:
    """Leave messages with their SMSC, which is to send them again later."""
    _tell(connection, [(message, terms.options.temporary_status) for message in messages])


def leave(chunks: Iterable[Chunk], reason: str, now: float) -> None:
    """Leave messages with the SMSC. Where it happens to a link several times in a row, leave it all of them.

    Only where it happens to a message that came after it last did is it another time: else one stall would be many.
    `now` is in monotonic seconds.
    """
    left: defaultdict[Terms, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        if not chunk.answered:
            chunk.answered = True
            refuse(chunk.connection, chunk.terms, chunk.messages)
            left[chunk.terms].append(chunk)
    for terms, of_link in left.items():
        log.warn(
            "link {link}: messages left with the SMSC: {count}; {reason}",
            event="messages_left",
            link=terms.link_name,
            count=sum(len(chunk.messages) for chunk in of_link),
            reason=reason,
        )
        if of_link[-1].came_at < terms.failed_at:
            continue
        terms.failures, terms.failed_at = terms.failures + 1, now
        if terms.failures >= terms.options.failures_before_unbind and terms.link is not None:
            terms.failures = 0
            terms.link.back_off()


def _tell(connection: Connection, pairs: Sequence[tuple[Message, int]]) -> None:
    try:
        connection.answer(pairs)
    except Exception:  # a fault of ours: the messages of others want their answers
        log.failure(
            "link {link}: messages that could not be answered: {count}",
            event="answers_failed",
            link=connection.link_name,
            count=len(pairs),
        )
