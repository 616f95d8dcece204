"""What a record of the log looks like: in the journal, as JSON, and where it came from."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.cli import journal_socket, log_stream
from kmp_smsd.cli.journal_socket import VALUE_OCTETS_MAX, JournalHandler, datagram, leads_to_journal
from kmp_smsd.cli.log_lines import JsonLine, OneLine
from kmp_smsd.cli.log_stream import StreamHandler
from kmp_smsd.service.log_levels import SUBSYSTEMS, LogLevels

MDN = "8613812345678"
WITHIN_S = 10.0  # where it takes milliseconds


def record(level=logging.WARNING, message="link %s: down", args=("north",), exc_info=None, **fields):
    return logging.getLogger("kmp_smsd.service.link").makeRecord(
        "kmp_smsd.service.link", level, "/opt/link.py", 42, message, args, exc_info, "_try_later", fields
    )


def broken():
    try:
        raise KeyError(MDN)
    except KeyError:
        return sys.exc_info()


def entry(octets: bytes) -> dict[str, str]:
    """What the journal makes of a datagram, as its protocol says."""
    fields = {}
    while octets:
        line, _, rest = octets.partition(b"\n")
        name, has_value, value = line.partition(b"=")
        if not has_value:
            size = int.from_bytes(rest[:8], "little")
            value, octets = rest[8 : 8 + size], rest[8 + size :]
            assert octets[:1] == b"\n"
            octets = octets[1:]
        else:
            octets = rest
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journal(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.settimeout(5)
        yield listener


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def handler(tmp_path, said):
    otherwise = logging.StreamHandler(said)
    otherwise.setFormatter(OneLine())
    handler = JournalHandler("intake", otherwise=otherwise, path=str(tmp_path / "journal"))
    journal_socket.log.addHandler(handler)  # which has something to say itself
    yield handler
    journal_socket.log.removeHandler(handler)
    handler.close()


def test_the_journal_gets_each_field_of_an_event(journal, handler):
    handler.handle(record(event="link_down", link="north", wait_s=2.5))
    assert entry(journal.recv(65536)) == {
        "MESSAGE": "link north: down",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "kmp-smsd",
        "KMP_ROLE": "intake",
        "KMP_LOGGER": "kmp_smsd.service.link",
        "KMP_EVENT": "link_down",
        "KMP_LINK": "north",
        "KMP_WAIT_S": "2.5",
        "CODE_FILE": "/opt/link.py",
        "CODE_LINE": "42",
        "CODE_FUNC": "_try_later",
    }


@pytest.mark.parametrize(
    ("level", "priority"), [("DEBUG", "7"), ("INFO", "6"), ("WARNING", "4"), ("ERROR", "3"), ("CRITICAL", "2")]
)
def test_levels_are_priorities_of_syslog(journal, handler, level, priority):
    handler.handle(record(getattr(logging, level)))
    assert entry(journal.recv(65536))["PRIORITY"] == priority


def test_a_traceback_stands_in_the_message_with_its_numbers_masked(journal, handler):
    handler.handle(record(exc_info=broken()))
    first, *rest = entry(journal.recv(65536))["MESSAGE"].splitlines()
    assert first == "link north: down"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "KeyError: '86138*****678'"


def test_what_the_journal_does_not_take_goes_to_standard_error(handler, said):
    handler.handle(record())  # nobody listens, as while the journal starts anew
    assert said.getvalue().endswith(" warning kmp_smsd.service.link: link north: down\n")


def test_the_journal_is_spoken_to_again_after_it_started_anew(tmp_path, handler, said):
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "journal"))
            listener.settimeout(5)
            handler.handle(record())
            assert entry(listener.recv(65536))["MESSAGE"] == "link north: down"
        (tmp_path / "journal").unlink()
    assert said.getvalue() == ""


@pytest.mark.usefixtures("journal")
def test_a_journal_that_stands_still_delays_nothing(handler, said, monkeypatch):
    monkeypatch.setattr(journal_socket, "QUEUE_MAX", 5)
    begun_at = time.monotonic()
    for number in range(600):
        handler.handle(record(message="line %d", args=(number,)))
        assert time.monotonic() - begun_at < 5  # not a second for each
    assert handler._dropped > 0
    handler.close()  # within a second; nobody reads
    assert said.getvalue() == ""


def test_how_many_lines_were_dropped_is_said_where_they_were(journal, handler, monkeypatch):
    monkeypatch.setattr(journal_socket, "QUEUE_MAX", 5)
    for number in range(600):
        handler.handle(record(message="line %d", args=(number,)))
    found = read(journal)
    handler.handle(record(message="after", args=()))
    found += read(journal)
    handler.handle(record(message="after", args=()))
    found += read(journal)
    *lines, told, first, second = found
    assert [one["MESSAGE"] for one in lines] == [f"line {number}" for number in range(len(lines))]
    assert (told["KMP_EVENT"], told["PRIORITY"]) == ("log_lines_dropped", "4")
    assert int(told["KMP_COUNT"]) == 600 - len(lines)
    assert (first["MESSAGE"], second["MESSAGE"]) == ("after", "after")


def test_lines_that_wait_leave_at_the_end(journal, handler):
    sent = 0
    while not handler._waiting:
        handler.handle(record(message="line %d", args=(sent,)))
        sent += 1
    found = read(journal)
    handler.close()
    assert len(found + read(journal)) == sent


def test_a_standard_error_that_takes_nothing_delays_nothing(tmp_path):
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with open(read_end, "rb"), open(write_end, "w", encoding="utf-8") as stream:
        with suppress(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4096)
        os.set_blocking(write_end, True)
        handler = JournalHandler("intake", otherwise=logging.StreamHandler(stream), path=str(tmp_path / "journal"))
        handler.handle(record())
        assert handler._dropped == 1
        handler.close()


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_who_stops_reading_standard_error_delays_nothing_and_is_told_what_was_dropped(kind):
    read_end, write_end = os.pipe() if kind == "pipe" else os.openpty()
    numbers = count()
    found = b""
    with open(write_end, "w", encoding="utf-8") as stream, open(read_end, "rb", buffering=0) as reader:
        handler = StreamHandler(stream)
        log_stream.log.addHandler(handler)  # which has something to say itself

        def say(lines, message):
            for _ in range(lines):
                handler.handle(record(message=message, args=(next(numbers),)))

        try:
            many = Thread(target=say, args=(1_000, "line %d " + "x" * 800), daemon=True)
            many.start()
            many.join(WITHIN_S)
            assert not many.is_alive()
            while b"took none" not in found or not found.endswith(b"\n"):
                say(1, "line %d")
                found += reader.read(1 << 16)
        finally:
            log_stream.log.removeHandler(handler)
            handler.close()
    due = dropped = 0
    for line in found.decode().splitlines():
        if told := re.fullmatch(r"(\d+) lines? (was|were) dropped, since who reads standard error took none", line):
            assert (told[1] == "1") == (told[2] == "was")
            dropped += int(told[1])
            due += int(told[1])
        else:
            assert line == (f"line {due} " + "x" * 800 if due < 1_000 else f"line {due}")
            due += 1
    assert 0 < dropped < 1_000 < due


def test_one_line_that_was_dropped_is_told_as_one(tmp_path):
    with open(tmp_path / "log", "w", encoding="ascii") as stream:
        handler = StreamHandler(stream)
        log_stream.log.addHandler(handler)
        try:
            handler._dropped = 1
            handler.handle(record(message="after \U0010ffff", args=()))
        finally:
            log_stream.log.removeHandler(handler)
        told = "1 line was dropped, since who reads standard error took none"
        assert (tmp_path / "log").read_text().splitlines() == [told, r"after \U0010ffff"]


def read(journal):
    """What lies in the journal's socket now."""
    found = []
    journal.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            found.append(entry(journal.recv(65536)))
    return found


def test_a_message_too_long_for_a_datagram_is_cut(journal, handler):
    handler.handle(record(message="%s", args=("\u7535" * 1_000_000,), link="north"))
    found = entry(journal.recv(1 << 20))
    assert found["MESSAGE"].endswith("\u7535...")
    assert len(found["MESSAGE"].encode()) <= VALUE_OCTETS_MAX + 3
    assert found["KMP_LINK"] == "north"


@given(st.dictionaries(st.from_regex("[A-Z][A-Z_]{0,20}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_any_text_arrives_in_the_journal_as_it_is(fields):
    assert entry(datagram(fields.items())) == fields


def test_standard_error_leads_to_the_journal_where_its_device_and_inode_say_so(tmp_path):
    with open(tmp_path / "stream", "w", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        ours = f"{status.st_dev}:{status.st_ino}"
        assert leads_to_journal(stream, {"JOURNAL_STREAM": ours})
        for other in (f"{status.st_dev}:{status.st_ino + 1}", "", "8:", "a:b"):
            assert not leads_to_journal(stream, {"JOURNAL_STREAM": other})
        assert not leads_to_journal(stream, {})
    assert not leads_to_journal(io.StringIO(), {"JOURNAL_STREAM": ours})


def test_json_has_the_fields_beside_the_message():
    line = json.loads(JsonLine("intake").format(record(event="link_down", link="north", wait_s=2.5)))
    assert line.pop("at") > 1_700_000_000_000
    assert line == {
        "level": "warning",
        "event": "link_down",
        "message": "link north: down",
        "role": "intake",
        "logger": "kmp_smsd.service.link",
        "link": "north",
        "wait_s": 2.5,
    }


def test_json_is_one_line_with_its_traceback():
    text = JsonLine("intake").format(record(exc_info=broken()))
    assert "\n" not in text
    line = json.loads(text)
    assert line["event"] is None  # as of what others log
    assert line["traceback"].endswith("KeyError: '86138*****678'")


LOGGING = """
import logging, sys
from kmp_smsd.cli.logs import start_logging
start_logging("info", "json", role="intake")
from twisted.logger import Logger
log = Logger("kmp_smsd.service.link")
def lost():
    log.warn("link {link}: lost", event="link_down", link="north")
def broken():
    try:
        raise ValueError("8613812345678")
    except ValueError:
        log.failure("broken", event="look_failed")
lost()
broken()
Logger("twisted.web").warn("theirs", name="a field that a record has")
"""


def test_events_of_twisted_keep_their_fields_their_place_and_their_traceback(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(LOGGING)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    lost, fault, theirs = map(json.loads, done.stderr.splitlines())
    assert (lost["event"], lost["link"], lost["level"]) == ("link_down", "north", "warning")
    assert (fault["event"], fault["level"]) == ("look_failed", "critical")
    assert fault["traceback"].endswith("ValueError: 86138*****678")
    assert (theirs["message"], theirs["event"], theirs["logger"]) == ("theirs", None, "twisted.web")


def test_a_record_of_twisted_tells_where_it_was_said(tmp_path: Path):
    script = tmp_path / "script.py"
    told = "logging.getLogger().handlers[0].setFormatter(logging.Formatter('%(pathname)s %(lineno)d %(funcName)s'))\n"
    script.write_text(LOGGING.replace("lost()\n", told + "lost()\n"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[0] == f"{script} 8 lost"


@pytest.mark.parametrize("subsystem", [name for name in SUBSYSTEMS if name != "all"])
def test_each_subsystem_can_say_more_than_the_others(subsystem):
    loggers = [
        (name, logging.getLogger(f"{one}.below")) for name in SUBSYSTEMS if name != "all" for one in SUBSYSTEMS[name]
    ]
    before = [(name, logger.getEffectiveLevel()) for name, logger in loggers]
    levels = LogLevels()
    levels.set(subsystem, "debug")
    try:
        after = [(name, logger.getEffectiveLevel()) for name, logger in loggers]
    finally:
        levels.fall_back()
    assert after == [(name, logging.DEBUG if name == subsystem else level) for name, level in before]
    assert [(name, logger.getEffectiveLevel()) for name, logger in loggers] == before
