"""What lies in a file, line by line, and what a power cut leaves of it."""

from __future__ import annotations

import zlib
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.outcome import NEVER_AGAIN, Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.inbox_files import read_file
from kmp_smsd.storage.received import DamagedLine, Message, Place, Received, Settled
from tests.storage.inbox.stock import files, requests, up_to

SECTOR_OCTETS = 512
_EACH_KIND = [
    SyncRequest("8613900000001", "K1", 1780000000000, "north"),
    SyncRequest(
        *("8613900000002", "K2", 1, "south", "meter", Proof(9, "0123456789ABC")),
        ReplyTo(1, 1, "8613900000002", 0, 1, "10690000", 9200, 9201),
    ),
    Unfit(outcome=Outcome.MALFORMED, mdn="8613900000003", received_at=2, link="north", why="not a sync payload"),
]
_text = st.text(st.characters(codec="utf-8"), max_size=20)
_received_at = st.integers(0, 2**53)
_reply_to = st.builds(
    ReplyTo,
    *(st.integers(0, 7), st.integers(0, 18), _text) * 2,
    st.none() | st.integers(0, 65_535),
    st.none() | st.integers(0, 65_535),
)
_messages = st.builds(
    SyncRequest,
    mdn=_text,
    key_id=_text,
    app_id=st.none() | _text,
    proof=st.none() | st.builds(Proof, st.integers(1, 2**63 - 1), _text),
    received_at=_received_at,
    link=_text,
    reply_to=st.none() | _reply_to,
    approved_hold=st.none(),  # what comes again never lies there
    waited=st.just(False),
    submission=st.none(),
) | st.builds(
    Unfit,
    outcome=st.sampled_from([Outcome.RECEIPT, *NEVER_AGAIN]),
    mdn=st.none() | _text,
    sender=_text,
    received_at=_received_at,
    link=_text,
    why=_text,
)


@given(st.integers(1, 2**62), st.lists(_messages, max_size=5))
def test_line_is_read_as_it_was_written(first: int, messages: list[Message]) -> None:
    line = Received.of("run", first, messages).line
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    read = Received.parse(line[:-1])
    assert read == Received.of("run", first, messages)
    assert read.messages == messages


def test_line_on_the_disk_stays_what_it_is() -> None:
    body = (
        b'[2,"run",7,[["sync","8613900000001","K1",1780000000000,"north",null,null,null,null,false,null],'
        b'["sync","8613900000002","K2",1,"south","meter",[9,"0123456789ABC"],'
        b'[1,1,"8613900000002",0,1,"10690000",9200,9201],null,false,null],'
        b'["unfit","malformed","8613900000003","",2,"north","not a sync payload"]]]'
    )
    assert Received.of("run", 7, _EACH_KIND).line == b"%08x %s\n" % (zlib.crc32(body), body)


def test_line_of_the_first_version_is_read_and_written_anew() -> None:
    body = (
        b'[1,"run",7,[["sync","8613900000001",null,"K1",null,null,null,"north",1780000000000],'
        b'["sync","8613900000002",[1,1,"8613900000002",0,1,"10690000",9200,9201],"K2","meter",9,"0123456789ABC","south",1],'
        b'["unfit","malformed","8613900000003","",2,"north","not a sync payload"]]]'
    )
    read = Received.parse(b"%08x %s\n" % (zlib.crc32(body), body))
    assert read.messages == _EACH_KIND
    assert read == Received.of("run", 7, _EACH_KIND)


def test_line_that_is_printed_names_no_subscriber() -> None:
    received = Received.of("run", 7, requests("K1", "K2"))
    assert repr(received) == "Received(run='run', first=7, count=2)"
    assert received.messages[0].mdn.encode() in received.line


@given(st.data())
def test_line_that_is_not_whole_is_not_read(data: st.DataObject) -> None:
    line = Received.of("run", 7, requests("K1", "K2")).line[:-1]
    octet = data.draw(st.integers(0, len(line) - 1))
    changed = line[:octet] + bytes([line[octet] ^ data.draw(st.integers(1, 255))]) + line[octet + 1 :]
    for wrong in (line[:octet], changed, b"\0" * len(line), b"00000000 "):  # which is the sum of nothing
        with pytest.raises(DamagedLine):
            Received.parse(wrong)


def test_messages_that_are_not_settled() -> None:
    received = Received.of("run", 11, messages := requests("K1", "K2", "K3"))
    assert received.last == Place("run", 13)
    rests = [received.rest(up_to(Place("run", number))).messages for number in (0, 10, 11, 13, 99)]
    assert rests == [messages, messages, messages[1:], [], []]
    assert received.rest(up_to(Place("another", 99))) == received


def test_messages_between_settled_ones_are_not_settled() -> None:
    settled = Settled.of([("run", 20, 29), ("run", 1, 10), ("another", 11, 19), ("run", 30, 30)])
    assert [settled.first_left("run", number) for number in (1, 10, 11, 19, 20, 30, 31)] == [11, 11, 11, 19, 31, 31, 31]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9))), st.integers(1, 50))
def test_settled_ranges_may_overlap(lengths: list[tuple[int, int]], number: int) -> None:
    settled = {n for first, more in lengths for n in range(first, first + more + 1)}
    left = next(n for n in range(number, 100) if n not in settled)
    assert Settled.of([("run", first, first + more) for first, more in lengths]).first_left("run", number) == left


@given(st.data())
def test_power_cut_takes_nothing_that_was_synced_and_rings_no_alarm(data: st.DataObject) -> None:
    """Some sectors of what was not synced are on the disk, and the file is as long as before or as now."""
    batches = data.draw(st.lists(st.lists(_messages, min_size=1, max_size=20), min_size=1, max_size=8))
    with TemporaryDirectory() as name:
        path = Path(name) / "kmp.db"
        with closing(Inbox(path, lambda: Settled.of([]))) as one:
            before = b""
            for batch in batches:
                before = files(path)[0].read_bytes() if files(path) else b""
                one.append(batch)
        (file,) = files(path)
        after = file.read_bytes()
        synced = read_file(file).received
        old = before.ljust(len(after), b"\0")
        starts = range(0, len(after), SECTOR_OCTETS)
        is_there = data.draw(st.integers(0, 2 ** len(starts) - 1))
        sectors = [
            (after if is_there >> n & 1 else old)[start : start + SECTOR_OCTETS] for n, start in enumerate(starts)
        ]
        length = data.draw(st.sampled_from([len(before), len(after)]))
        file.write_bytes(b"".join(sectors)[:length])
        content = read_file(file)
    assert content.damaged == []
    assert content.received in (synced, synced[:-1])
    assert not (content.torn and content.received == synced)
