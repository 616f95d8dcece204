"""Systemd's journal, spoken to in its own protocol, so that each field of an event can be asked for.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL describes it: a datagram of FIELD=value lines.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TextIO

from kmp_smsd.cli.log_lines import fields_of, traceback_of

JOURNAL = "/run/systemd/journal/socket"
IDENTIFIER = "kmp-smsd"
# A datagram holds some 200 KiB; a longer one would have to be handed over as a file. Nobody reads such a line.
VALUE_OCTETS_MAX = 16_384
SEND_WITHIN_S = 1.0

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # as syslog's
_DEBUG = 7


def leads_to_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd connected `stream` with the journal: $JOURNAL_STREAM names its device and inode."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    with suppress(OSError, ValueError):
        status = os.fstat(stream.fileno())
        return (int(device), int(inode)) == (status.st_dev, status.st_ino)
    return False


class JournalHandler(logging.Handler):
    """Sends each record to the journal, and where that is not possible, as while it starts anew, to `otherwise`."""

    def __init__(self, role: str, *, otherwise: logging.Handler, path: str = JOURNAL) -> None:
        super().__init__()
        self._role = role
        self._otherwise = otherwise
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_WITHIN_S)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(datagram(_entry(record, self._role)), self._path)
        except OSError:
            self._otherwise.emit(record)
        except Exception:  # as every handler does: a log must not break what it tells of
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


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
