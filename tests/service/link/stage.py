"""What the tests of a link share: the other end of it, by hand, and who receives its messages."""

from __future__ import annotations

from twisted.internet.error import (
    ConnectionDone,
    ConnectionRefusedError,
)
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from kmp_smsd.service.link import SmscLink
from kmp_smsd.simulator.deliver import deliver_sm_body, with_header
from kmp_smsd.smpp.constants import RESPONSE, CommandId, CommandStatus
from tests.service.by_hand import headers, link

MO = deliver_sm_body("8613912345678", "K1:A")
TEMPORARY = CommandStatus.ESME_RX_T_APPN


class Transport(StringTransport):
    """A connection in memory that ends when the test says so."""

    no_delay = False
    aborted = False

    def setTcpNoDelay(self, enabled):
        self.no_delay = enabled

    def abortConnection(self):
        self.aborted = True
        super().abortConnection()


class Receiver:
    """Keeps what it is given; answers at once where it is told how."""

    def __init__(self):
        self.received = []
        self.answer_with = None
        self.fails = False

    def messages(self, connection, messages):
        if self.fails:
            raise RuntimeError("a fault of ours")
        self.received += [(connection, message) for message in messages]
        if self.answer_with is not None:
            connection.answer([(message, self.answer_with) for message in messages])


class Smscs:
    """The other end of a link, by hand: the reactor, and the connections as they are made."""

    def __init__(self, **options):
        self.reactor = MemoryReactorClock()
        self.receiver = Receiver()
        self.link = SmscLink(
            "north",
            link(**{"hosts": ("192.0.2.1:2775",), **options}),
            "secret",
            self.receiver,
            self.reactor,
            monotonic=self.reactor.seconds,
            wall=self.reactor.seconds,
            jitter=lambda: 1.0,
        )
        self.protocol = self.transport = None

    @property
    def tries(self):
        """(host, port) of each try to connect."""
        return [client[:2] for client in self.reactor.tcpClients]

    def accept(self):
        factory = self.reactor.tcpClients[-1][2]
        self.protocol, self.transport = factory.buildProtocol(None), Transport()
        self.protocol.makeConnection(self.transport)

    def refuse_connection(self, error=None):
        reason = Failure(error or ConnectionRefusedError())
        self.reactor.tcpClients[-1][2].clientConnectionFailed(None, reason)

    def say(self, command_id, number=1, body=b"", status=0):
        self.protocol.dataReceived(with_header(command_id, number, body, status))

    def bind(self, mode=CommandId.BIND_TRANSCEIVER):
        self.accept()
        self.heard()
        self.say(mode | RESPONSE, 1, b"smsc\0")

    def heard(self):
        return headers(self.transport)

    def lose(self):
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def pass_time(self, seconds):
        self.reactor.pump([0.5] * int(seconds * 2))


def start(**options):
    started = Smscs(**options)
    started.link.startService()
    return started
