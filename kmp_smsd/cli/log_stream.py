"""Standard error as the log of a role, which waits for nobody that reads it."""

from __future__ import annotations

import logging
import select
from typing import TextIO

from kmp_smsd.domain.counted import counted

log = logging.getLogger(__name__)

PIECE_CHARACTERS = 400  # whatever they are in octets, \U0010ffff at most, no more than a pipe takes at once (PIPE_BUF)


class StreamHandler(logging.StreamHandler[TextIO]):
    """Writes each record to the stream, and waits for nobody: the reactor logs, too.

    Where who reads a pipe stands still, lines are dropped, and how many is said afterwards. One that was begun is ended
    first.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._left = ""  # of the line that was begun
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._left = self._put(self._left)
            if self._dropped and self._takes_a_line():
                count, self._dropped = self._dropped, 0
                log.warning(  # which comes back to us as another line
                    "%s dropped, since who reads standard error took none",
                    counted(count, "line was", "lines were"),
                    extra={"event": "log_lines_dropped", "count": count},
                )
            if self._takes_a_line():
                self._left = self._put(self.format(record) + self.terminator)
            else:
                self._dropped += 1
        except Exception:  # as every handler does: a log must not break what it tells of
            self.handleError(record)

    def _takes_a_line(self) -> bool:
        return not self._left and takes_more(self.stream)

    def _put(self, text: str) -> str:
        """Write what is taken of `text`; the rest."""
        while text and takes_more(self.stream):
            self.stream.write(text[:PIECE_CHARACTERS])
            self.stream.flush()
            text = text[PIECE_CHARACTERS:]
        return text


def takes_more(stream: TextIO) -> bool:
    """Whether what is written to `stream` now is taken at once."""
    try:
        descriptor = stream.fileno()
    except OSError:  # no file: it never blocks
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
