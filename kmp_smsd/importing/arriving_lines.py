"""Lines as they arrive on a pipe, cut without waiting for more, in constant memory whatever arrives."""

from __future__ import annotations

from typing import Final

MOST_OCTETS: Final = 1 << 16  # in one line, without its end


class ArrivingLines:
    """Cuts octets into numbered lines."""

    def __init__(self) -> None:
        self._number = 0
        self._begun = b""  # the line whose end has not arrived
        self._too_long = False  # it has no room any more; what arrives of it is forgotten

    def receive(self, data: bytes) -> list[tuple[int, bytes | None]]:
        """Line numbers and the lines that `data` ends, without LF; None for a line of more than MOST_OCTETS."""
        *ended, begun = data.split(b"\n")
        lines = [self._end(part) for part in ended]
        self._begun += begun
        if len(self._begun) > MOST_OCTETS:
            self._begun, self._too_long = b"", True
        return lines

    def end(self) -> list[tuple[int, bytes | None]]:
        """The last line, where it has no end."""
        return [self._end(b"")] if self._begun or self._too_long else []

    def _end(self, part: bytes) -> tuple[int, bytes | None]:
        self._number += 1
        line, too_long = self._begun + part, self._too_long
        self._begun, self._too_long = b"", False
        return self._number, None if too_long or len(line) > MOST_OCTETS else line
