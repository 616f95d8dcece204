"""Messages that were received together: a line of the inbox."""

from __future__ import annotations

import json
import sys
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage.waiting import said

Message = SyncRequest | Unfit

_VERSION = 1  # of what is in a line
_SYNC, _UNFIT = "sync", "unfit"
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class DamagedLine(ValueError):
    """These octets are no whole line of an inbox."""


class ForeignLine(ValueError):
    """A whole line that another version of this program wrote."""


class Place(NamedTuple):
    """A message in the inbox. Numbers count within a run, whose name is given once; nobody else has it."""

    run: str
    number: int


@dataclass(frozen=True, slots=True)
class Settled:
    """Which messages of the inbox are settled: first and last number of those that follow each other, by run."""

    ranges: Mapping[str, Sequence[tuple[int, int]]]  # in order, with a gap between any two

    @classmethod
    def of(cls, ranges: Iterable[tuple[str, int, int]]) -> Settled:
        """From runs, first and last numbers, in any order."""
        by_run: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for run, first, last in sorted(ranges):
            known = by_run[run]
            if known and first <= known[-1][1] + 1:
                known[-1] = (known[-1][0], max(known[-1][1], last))
            else:
                known.append((first, last))
        return cls(by_run)

    def first_left(self, run: str, number: int) -> int:
        """The first number of this run, from `number` on, that is not settled."""
        ranges = self.ranges.get(run, ())
        before = bisect_right(ranges, (number, sys.maxsize))  # so many begin at the number or before it
        return max(number, ranges[before - 1][1] + 1) if before else number


@dataclass(frozen=True, slots=True)
class Received:
    """Messages in the order in which they came, numbered from `first` on without a gap.

    Many may wait: they are in its `line` alone, as it lies in a file.
    """

    run: str
    first: int
    count: int
    line: bytes = field(repr=False)

    @classmethod
    def of(cls, run: str, first: int, messages: Sequence[Message]) -> Received:
        """The line has the CRC-32 of what follows in it, and as JSON: version, run, the first number, the messages."""
        body = _encode([_VERSION, run, first, [_fields(one) for one in messages]]).encode()
        return cls(run, first, len(messages), b"%08x %s\n" % (zlib.crc32(body), body))

    @property
    def last(self) -> Place:
        return Place(self.run, self.first + self.count - 1)

    @property
    def messages(self) -> list[Message]:
        """They are read from the line each time."""
        *_, messages = json.loads(self.line.partition(b" ")[2])
        return [_message(*fields) for fields in messages]

    def rest(self, settled: Settled) -> Received:
        """The same without those at its beginning that are settled: mostly all of them are, or none behind another."""
        first = settled.first_left(self.run, self.first)
        if first == self.first:
            return self
        return Received.of(self.run, first, self.messages[first - self.first :])

    @classmethod
    def parse(cls, line: bytes) -> Received:
        """A line of a file, with its end or without. Raises DamagedLine or ForeignLine for anything else."""
        bare = line.removesuffix(b"\n")
        sum_, _, body = bare.partition(b" ")
        if not body or sum_ != b"%08x" % zlib.crc32(body):
            raise DamagedLine
        try:
            version, run, first, messages = json.loads(body)
            if version != _VERSION:
                raise ForeignLine
            return cls(run, first, len([_message(*fields) for fields in messages]), bare + b"\n")
        except (ValueError, TypeError) as error:
            raise ForeignLine from error


def _fields(message: Message) -> tuple[Any, ...]:
    """As JSON. A request that comes again never lies here: it lies where it waits."""
    if isinstance(message, Unfit):
        return (_UNFIT, message.outcome, message.mdn, message.sender, message.received_at, message.link, message.why)
    return (_SYNC, message.mdn, message.reply_to and astuple(message.reply_to), *said(message))


def _message(kind: str, *fields: Any) -> Message:
    if kind == _UNFIT:
        outcome, mdn, sender, received_at, link, why = fields
        return Unfit(outcome=Outcome(outcome), mdn=mdn, sender=sender, received_at=received_at, link=link, why=why)
    mdn, reply_to, key_id, app_id, counter, tag, link, received_at = fields
    return SyncRequest(
        mdn=mdn,
        key_id=key_id,
        app_id=app_id,
        proof=None if tag is None else Proof(counter, tag),
        received_at=received_at,
        link=link,
        reply_to=None if reply_to is None else ReplyTo(*reply_to),
    )
