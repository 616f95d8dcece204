"""Lines to and from the receiver of a platform, over a connection that is encrypted and whose far side is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.wire import excerpt


class Stream(ABC):
    """One connection to `host`, whose key has `fingerprint`, and is pinned. A line has `max_line_octets` at most.

    `keys` are, throughout, those that must not be seen in the log or in an error.
    """

    certificate_ends_at: float | None = None  # Unix seconds: until when our own is valid, where it knows us by one

    def __init__(self, host: Host, fingerprint: str, max_line_octets: int) -> None:
        self.host = host
        self.fingerprint = fingerprint
        self._max_line_octets = max_line_octets
        self._partial = b""
        self._closed = False

    @abstractmethod
    def send(self, octets: bytes, within_s: float, keys: Collection[bytes]) -> None:
        """Send all of `octets`; raises ChannelDown when the far side takes none of them for `within_s`."""

    @abstractmethod
    def receive(self, within_s: float, keys: Collection[bytes]) -> list[bytes]:
        """Wait for at least one whole line; return all that are there, without their line feeds.

        Raises ChannelDown after `within_s` without one, at the end of the stream, and for a line without an end.
        """

    @abstractmethod
    def _hang_up(self) -> None:
        """Close the connection, from any thread; whoever waits on it is woken."""

    def close(self) -> None:
        """Close the connection; a thread that waits in `send` or `receive` gets ChannelDown."""
        self._closed = True
        self._hang_up()

    def down(self, why: str, keys: Collection[bytes]) -> ChannelDown:
        """Close the connection; the error to raise for it."""
        closed, said = self._closed, self._last_words(keys)
        self.close()
        if closed:
            return ChannelDown(f"{self.host}: closed by us")
        return ChannelDown(f"{self.host}: {why}" + (f" (it said: {said})" if said else ""))

    def _last_words(self, _keys: Collection[bytes]) -> str:
        """What the receiver said last beside its answers, where it can."""
        return ""

    def _lines(self, octets: bytes, keys: Collection[bytes]) -> list[bytes]:
        """The lines that `octets` end; what stands behind them is kept for the next ones."""
        lines = (self._partial + octets).split(b"\n")
        for line in lines:
            if len(line) >= self._max_line_octets:
                why = f"a line of more than {self._max_line_octets} octets: {excerpt(line, keys)}"
                raise self.down(why, keys)
        self._partial = lines.pop()
        return lines
