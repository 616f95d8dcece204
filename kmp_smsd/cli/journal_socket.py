"""Systemd's journal, spoken to in its own protocol, so that each field of an event can be asked for.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL describes it: a datagram of FIELD=value lines.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TextIO

from kmp_smsd.cli.log_lines import fields_of, traceback_of
from kmp_smsd.cli.log_stream import takes_more
from kmp_smsd.domain.counted import counted

log = logging.getLogger(__name__)

JOURNAL = "/run/systemd/journal/socket"
IDENTIFIER = "kmp-smsd"
# A datagram holds some 200 KiB; a longer one would have to be handed over as a file. Nobody reads such a line.
VALUE_OCTETS_MAX = 16_384
QUEUE_MAX = 1_000  # lines that wait for a journal which takes none now
CLOSE_WITHIN_S = 1.0

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # as syslog's
_DEBUG = 7
ERROR_PREFIX = "<3>"  # before a line of standard error; without one the journal takes it for info


def leads_to_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd connected `stream` with the journal: $JOURNAL_STREAM names its device and inode."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    with suppress(OSError, ValueError):
        status = os.fstat(stream.fileno())
        return (int(device), int(inode)) == (status.st_dev, status.st_ino)
    return False


class JournalHandler(logging.Handler):
    """Sends each record to the journal, and waits for nobody: the reactor logs, too.

    Where the journal takes no more for now, lines wait for the next one or the end. Beyond QUEUE_MAX they are dropped,
    and how many is said afterwards. Where there is no journal, as while it starts anew, they go to `otherwise`.
    """

    def __init__(self, role: str, *, otherwise: logging.Handler, path: str = JOURNAL) -> None:
        super().__init__()
        self._role = role
        self._otherwise = otherwise
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._waiting: deque[bytes] = deque()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = datagram(_entry(record, self._role))
            try:
                self._send_waiting()
                self._socket.sendto(entry, self._path)
            except BlockingIOError:  # not to `otherwise`: it mostly leads to the same journal, and would block
                self._keep(entry)
            except OSError:
                self._say_otherwise(record)
        except Exception:  # as every handler does: a log must not break what it tells of
            self.handleError(record)

    def close(self) -> None:
        """Send what waits, for a second at most."""
        with suppress(OSError):
            self._send_waiting(time.monotonic() + CLOSE_WITHIN_S)
        self._socket.close()
        super().close()

    def _keep(self, entry: bytes) -> None:
        if self._dropped or len(self._waiting) >= QUEUE_MAX:  # none after a gap that is not told of yet
            self._dropped += 1
        else:
            self._waiting.append(entry)

    def _send_waiting(self, deadline: float | None = None) -> None:
        """Send the lines that wait, and where they end, how many were dropped. Raises OSError."""
        while self._waiting:
            if deadline is not None:
                self._socket.settimeout(max(0.0, deadline - time.monotonic()))
            self._socket.sendto(self._waiting[0], self._path)
            self._waiting.popleft()
        if self._dropped:
            count, self._dropped = self._dropped, 0
            log.warning(  # which comes back to us as another line
                "%s dropped, since the journal took none",
                counted(count, "line was", "lines were"),
                extra={"event": "log_lines_dropped", "count": count},
            )
            if self._dropped:  # so was this one
                self._dropped = count

    def _say_otherwise(self, record: logging.LogRecord) -> None:
        """Standard error may lead to the journal as well: where it takes nothing now, the line is dropped."""
        stream = getattr(self._otherwise, "stream", None)
        if stream is None or takes_more(stream):
            self._otherwise.emit(record)
        else:
            self._dropped += 1


def datagram(entry: Iterable[tuple[str, str]]) -> bytes:
    """Write `entry`, fields and their values. A value of several lines has its length before it."""
    return b"".join(_field(name, value) for name, value in entry)


def _field(name: str, value: str) -> bytes:
    octets = value.encode("utf-8", "backslashreplace")
    if len(octets) > VALUE_OCTETS_MAX:
        octets = octets[:VALUE_OCTETS_MAX].decode("utf-8", "ignore").encode() + b"..."
    if b"\n" in octets:
        return name.encode() + b"\n" + len(octets).to_bytes(8, "little") + octets + b"\n"
    return name.encode() + b"=" + octets + b"\n"


def _entry(record: logging.LogRecord, role: str) -> Iterator[tuple[str, str]]:
    message = record.getMessage()
    yield "MESSAGE", "".join((message + "\n", *traceback_of(record))).rstrip("\n")
    yield "PRIORITY", str(next((priority for level, priority in _PRIORITIES if record.levelno >= level), _DEBUG))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "KMP_ROLE", role
    yield "KMP_LOGGER", record.name
    for name, value in fields_of(record).items():
        yield f"KMP_{name.upper()}", str(value)
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", str(record.funcName)
