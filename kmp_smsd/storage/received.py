"""Messages that were received together: a line of the inbox."""

from __future__ import annotations

import sys
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit

Message = SyncRequest | Unfit


class _Content(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True, tag=2):
    """What is in a line, as JSON. Its tag is the version, and comes first."""

    run: str
    first: int
    messages: Sequence[Message]


class _ContentOfVersion1(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """That of kmp-smsd 0.1 until November 2026."""

    run: str
    first: int
    messages: list[list[Any]]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Content).decode
_decode_any = msgspec.json.Decoder(_Content | _ContentOfVersion1).decode


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
        body = _encode(_Content(run, first, messages))
        return cls(run, first, len(messages), b"%08x %s\n" % (zlib.crc32(body), body))

    @property
    def last(self) -> Place:
        return Place(self.run, self.first + self.count - 1)

    @property
    def messages(self) -> Sequence[Message]:
        """They are read from the line each time."""
        return _decode(self.line.partition(b" ")[2]).messages

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
            content = _decode_any(body)
            if isinstance(content, _ContentOfVersion1):
                messages = [_of_version_1(*fields) for fields in content.messages]
                return cls.parse(cls.of(content.run, content.first, messages).line)  # which looks at their types
        except (ValueError, TypeError) as error:
            raise ForeignLine from error
        return cls(content.run, content.first, len(content.messages), bare + b"\n")


def _of_version_1(kind: str, *fields: Any) -> Message:
    if kind == "unfit":
        outcome, mdn, sender, received_at, link, why = fields
        return Unfit(outcome=Outcome(outcome), mdn=mdn, sender=sender, received_at=received_at, link=link, why=why)
    mdn, reply_to, key_id, app_id, counter, tag, link, received_at = fields
    proof = None if tag is None else Proof(counter, tag)
    return SyncRequest(mdn, key_id, received_at, link, app_id, proof, None if reply_to is None else ReplyTo(*reply_to))
