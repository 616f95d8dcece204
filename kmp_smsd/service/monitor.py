"""Where a role is looked at: HTTP on loopback or a unix socket, GET only, and nothing that it could be told."""

from __future__ import annotations

import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request

from kmp_smsd.config.monitoring import Listening, LoopbackPort
from kmp_smsd.domain.shown import shown
from kmp_smsd.monitoring.answers import BROKEN, NOT_ALLOWED, Answer, Sight, answer

IDLE_CLOSE_S = 90.0  # longer than from one scrape to the next
CONNECTIONS_MAX = 16  # a visitor must not take the descriptors that links and platforms need
LISTEN_AGAIN_S = 10.0
SOCKET_MODE = 0o660
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Monitor:
    """Answers for one role at one address. Where that is taken it says so and tries again: keys matter more.

    `look` gives what is shown, in the reactor's thread and at once. `wall` is the clock of what people see.
    """

    log = Logger()

    def __init__(
        self, listening: Listening, look: Callable[[], Sight], reactor: Any, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._listening = listening
        self._factory = _Factory(look, wall, reactor)
        self._reactor = reactor
        self._port: Any = None
        self._again: DelayedCall | None = None
        self._told = ""  # why it could not listen

    @property
    def port(self) -> int | None:
        """The TCP port that it listens at, if any."""
        return getattr(self._port.getHost(), "port", None) if self._port is not None else None

    def open(self) -> None:
        """Begin to listen, or try to again and again."""
        self._again = None
        try:
            self._port = self._opened()
        except CannotListenError as error:
            self._tell(getattr(error.socketError, "strerror", None) or str(error.socketError))
            self._again = self._reactor.callLater(LISTEN_AGAIN_S, self.open)
        else:
            self._told = ""
            self.log.info("metrics, health and status: {where}", event="monitor_listens", where=str(self._listening))

    def close(self) -> Deferred[Any]:
        """Listen no more, and hang up; fires when that is done."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)

    def _tell(self, reason: str) -> None:
        """Once: it may last for days."""
        if reason != self._told:
            self.log.error(
                "nobody can look at us at {where}: {reason}; trying again every {again_s:g} s",
                event="monitor_cannot_listen",
                where=str(self._listening),
                reason=reason,
                again_s=LISTEN_AGAIN_S,
            )
        self._told = reason

    def _opened(self) -> Any:
        if isinstance(self._listening, LoopbackPort):
            return self._reactor.listenTCP(self._listening.port, self._factory, interface=self._listening.address)
        path = self._listening.path
        if _is_left_over(path):
            with suppress(OSError):  # then it is in use
                path.unlink()
        return self._reactor.listenUNIX(str(path), self._factory, mode=SOCKET_MODE)


def _is_left_over(path: Path) -> bool:
    """Whether a process that was killed has left this socket, and nobody listens at it."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as caller:
            caller.setblocking(False)
            caller.connect(str(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


class _Request(Request):
    """One request. Its body, which no answer depends on, is thrown away as it comes."""

    log = Logger()

    def gotLength(self, _length: int | None) -> None:
        super().gotLength(0)

    def handleContentChunk(self, _data: bytes) -> None:
        pass

    def process(self) -> None:
        found = self._answer()
        self.setResponseCode(found.status)
        for name, value in {**_HEADERS, **found.headers, "Content-Type": found.content_type}.items():
            self.setHeader(name, value)
        self.setHeader("Content-Length", str(len(found.body)))
        self.write(found.body)
        self.finish()

    def _answer(self) -> Answer:
        if self.method not in (b"GET", b"HEAD"):
            return NOT_ALLOWED
        factory = self.channel.factory
        path, accept = self.path.decode("latin-1"), self.getHeader("Accept") or ""
        try:
            return answer(path, accept, factory.look, round(factory.wall() * 1000))
        except Exception:  # a fault of what is shown must not be one of what is done
            self.log.failure("cannot show {path}", event="monitor_failed", path=shown(path))
            return BROKEN


class _Channel(HTTPChannel):
    """One connection."""

    requestFactory = _Request
    factory: _Factory
    transport: Any

    def connectionMade(self) -> None:
        self.factory.open.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.open.discard(self)
        super().connectionLost(reason)


class _Factory(HTTPFactory):
    """Few connections at once, closed when idle, and no line in the log for each scrape."""

    protocol = _Channel  # type: ignore[assignment]  # none of HTTP/2
    noisy = False

    def __init__(self, look: Callable[[], Sight], wall: Callable[[], float], reactor: Any) -> None:
        super().__init__(timeout=IDLE_CLOSE_S, reactor=reactor)
        self.look, self.wall = look, wall
        self.open: set[_Channel] = set()

    def buildProtocol(self, addr: Any) -> Any:
        return super().buildProtocol(addr) if len(self.open) < CONNECTIONS_MAX else None

    def startFactory(self) -> None:
        """Open no access log."""

    def stopFactory(self) -> None:
        for channel in list(self.open):
            channel.transport.abortConnection()
