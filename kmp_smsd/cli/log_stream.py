"""Standard error as the log of a role, which waits for nobody that reads it."""

from __future__ import annotations

import logging
import os
import select
import stat
from contextlib import suppress
from typing import TextIO

from kmp_smsd.domain.counted import counted

log = logging.getLogger(__name__)

PIECE_OCTETS = 4_096  # as many as a pipe takes at once where it takes any (PIPE_BUF)


class StreamHandler(logging.StreamHandler[TextIO]):
    """Writes each record to the file of the stream, and waits for nobody: the reactor logs, too.

    Where who reads a pipe or a terminal stands still, lines are dropped, and how many is said afterwards. One that was
    begun is ended first.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._descriptor = _of_our_own(stream)
        self._left = b""  # of the line that was begun
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._descriptor is None:
            super().emit(record)
            return
        try:
            self._left = self._put(self._descriptor, self._left)
            if self._dropped and self._takes_a_line():
                count, self._dropped = self._dropped, 0
                log.warning(  # which comes back to us as another line
                    "%s dropped, since who reads standard error took none",
                    counted(count, "line was", "lines were"),
                    extra={"event": "log_lines_dropped", "count": count},
                )
            if self._takes_a_line():
                line = self.format(record) + self.terminator
                self._left = self._put(self._descriptor, line.encode(self.stream.encoding, "backslashreplace"))
            else:
                self._dropped += 1
        except Exception:  # as every handler does: a log must not break what it tells of
            self.handleError(record)

    def _takes_a_line(self) -> bool:
        return not self._left and takes_more(self.stream)

    def _put(self, descriptor: int, octets: bytes) -> bytes:
        """Write what is taken of `octets`; the rest."""
        with suppress(BlockingIOError):
            while octets and takes_more(self.stream):
                octets = octets[os.write(descriptor, octets[:PIECE_OCTETS]) :]
        return octets


def takes_more(stream: TextIO) -> bool:
    """Whether `stream` takes something now."""
    descriptor = _file_of(stream)
    if descriptor is None:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _of_our_own(stream: TextIO) -> int | None:
    """Where to write what goes to `stream`, without waiting, and with nobody else being told not to wait.

    A terminal waits until it has room for all that is written, and a pipe may be full by what others write to it.
    """
    descriptor = _file_of(stream)
    if descriptor is None:
        return None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        with suppress(OSError):  # another user's: then what was asked before the write has to do
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return descriptor


def _file_of(stream: TextIO) -> int | None:
    """None for one that is no file: it never blocks."""
    try:
        return stream.fileno()
    except OSError:
        return None
