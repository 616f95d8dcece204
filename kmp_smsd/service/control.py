"""The control socket of a role: reads one line, has it done, writes what came of it.

Whoever may open the socket is trusted to control the daemon, but not to be quick, brief or sane.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.control.protocol import (
    BUG,
    REQUEST_OCTETS_MAX,
    USAGE,
    Answer,
    Done,
    NotDone,
    Progress,
    ProtocolFault,
    Refused,
    Request,
)
from kmp_smsd.domain.shown import shown
from kmp_smsd.service.control_socket import OTHERS_S, ControlPort, ControlUnusable, claim
from kmp_smsd.service.watching import Watch

CONNECTIONS_MAX = 16
REQUEST_WITHIN_S = 5.0
READ_WITHIN_S = 30.0  # for a client that does not take its answer
LOOK_EVERY_S = 5.0  # whether the socket is still there

#: Does one command; is told to whom to say how far it is.
Command = Callable[[Mapping[str, Any], Callable[[str], None]], Coroutine[Any, Any, Mapping[str, Any]]]

log = Logger()


class ControlServer(Factory):
    """Listens for one role; `commands` by name. Where somebody removes its socket, it makes a new one."""

    noisy = False

    def __init__(self, path: Path, commands: Mapping[str, Command], reactor: Any) -> None:
        self.path = path
        self.commands = commands
        self.reactor = reactor
        self.connections: set[ControlConnection] = set()
        self._port: ControlPort | None = None
        self._watch = Watch(self._look, reactor)
        self._told = ""  # why it cannot listen anew

    def open(self) -> None:
        """Begin to listen."""
        self._listen(OTHERS_S)
        self._watch.start(LOOK_EVERY_S, now=False)

    def close(self) -> Deferred[Any]:
        """Listen no more, and hang up; fires when the socket is gone."""
        self._watch.stop()
        for connection in list(self.connections):
            connection.transport.abortConnection()
        return self._leave()

    def _listen(self, within_s: float) -> None:
        port = ControlPort(self.path, self, self.reactor)
        port.listen(within_s)
        self._port = port

    def _leave(self) -> Deferred[Any]:
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        stopped: Deferred[Any] = maybeDeferred(port.stopListening)
        return stopped.addErrback(lambda _: None)  # of its directory's mode, say; the next start removes the socket

    def _look(self) -> None:
        """Where the socket is gone, begin anew as at a start: the place may be another process's by now."""
        if self._port is not None and self._port.is_there:
            return
        try:
            claim(self.path, within_s=0)
            self._leave()
            self._listen(within_s=0)
        except (ControlUnusable, OSError) as error:
            if str(error) != self._told:  # once: it may last for days
                self._told = str(error)
                log.error(
                    "the control socket {path} was removed, and cannot be made anew: {reason}; trying again every"
                    " {again_s:g} s",
                    event="control_cannot_listen",
                    path=str(self.path),
                    reason=str(error),
                    again_s=LOOK_EVERY_S,
                )
            return
        self._told = ""
        log.warn("the control socket {path} was removed; it is there again", event="control_again", path=str(self.path))

    def buildProtocol(self, _addr: object) -> ControlConnection | None:
        """One more client; None, and it is hung up, where there are too many."""
        return ControlConnection(self) if len(self.connections) < CONNECTIONS_MAX else None


class ControlConnection(Protocol):
    """One client, which asks once."""

    transport: Any

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._octets = b""
        self._asked = False
        self._timeout: DelayedCall | None = None

    def connectionMade(self) -> None:
        """Give it some time to ask."""
        self._server.connections.add(self)
        self._expect(REQUEST_WITHIN_S)

    def dataReceived(self, data: bytes) -> None:
        """Collect its line; what comes after that is not read."""
        if self._asked:
            return
        self._octets += data
        line, end, _ = self._octets.partition(b"\n")
        if len(line) > REQUEST_OCTETS_MAX:
            self._end(NotDone(f"a line has at most {REQUEST_OCTETS_MAX} octets", USAGE))
        elif end:
            self._octets = b""
            self._ask(line)

    def connectionLost(self, _reason: Failure | None = None) -> None:
        """It is gone; what it asked for is done all the same."""
        self._server.connections.discard(self)
        self._expect(None)

    def _ask(self, line: bytes) -> None:
        self._asked = True
        self._expect(None)
        try:
            request = Request.decode(line)
        except ProtocolFault as fault:
            self._end(NotDone(str(fault), USAGE))
            return
        command = self._server.commands.get(request.command)
        if command is None:
            self._end(NotDone(f"this daemon knows no command '{request.command[:40]}'", USAGE))
            return
        if request.command != "status":
            words = " ".join((request.command, *(one for one in request.arguments.values() if isinstance(one, str))))
            log.info(
                "control: {words}, by user {uid}",
                event="control_asked",
                words=shown(words),
                uid=_uid(self.transport),
            )
        done: Deferred[Mapping[str, Any]] = Deferred.fromCoroutine(command(request.arguments, self._say))
        done.addCallbacks(lambda result: self._end(Done(result)), self._failed)

    def _say(self, sentence: str) -> None:
        if self in self._server.connections:
            self.transport.write(Progress(sentence).encode())

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, Refused):
            self._end(NotDone(str(failure.value), failure.value.exit_code))
            return
        log.failure("a command over the control socket failed", failure, event="control_failed")
        self._end(NotDone(f"a bug in the daemon, which its log shows: {type(failure.value).__name__}", BUG))

    def _end(self, answer: Answer) -> None:
        self._asked = True
        if self in self._server.connections:
            self.transport.write(answer.encode())
            self.transport.loseConnection()
            self._expect(READ_WITHIN_S)

    def _expect(self, within_s: float | None) -> None:
        """Hang up unless something happens in time."""
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()
        self._timeout = None
        if within_s is not None:
            self._timeout = self._server.reactor.callLater(within_s, self.transport.abortConnection)


def _uid(transport: Any) -> int | None:
    """Who asks, as far as the kernel tells; inside a user namespace that is nobody."""
    try:
        credentials = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (AttributeError, OSError):
        return None
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
