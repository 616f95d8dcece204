from __future__ import annotations

import errno

import pytest
from twisted.internet.error import (
    ConnectBindError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
    getConnectError,
)
from twisted.internet.pollreactor import PollReactor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from kmp_smsd.service import connection as connection_module
from kmp_smsd.service.backoff import Backoff
from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.simulator.deliver import deliver_sm_body, with_header
from kmp_smsd.simulator.smsc import Smsc, SmscSettings
from kmp_smsd.smpp.constants import RESPONSE, CommandId, CommandStatus
from kmp_smsd.smpp.events import SubmitAnswered
from kmp_smsd.smpp.pdu import Bind
from kmp_smsd.smpp.session import SessionSettings
from kmp_smsd.smpp.submit import SubmitSm
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


@pytest.fixture
def smsc():
    started = Smscs()
    started.link.startService()
    return started


def start(**options):
    started = Smscs(**options)
    started.link.startService()
    return started


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (getConnectError((errno.ECONNREFUSED, "")), "Connection refused"),
        (getConnectError((errno.EHOSTUNREACH, "")), "No route to host"),
        (
            ConnectBindError(errno.EADDRNOTAVAIL, ""),
            "from local_address: Cannot assign requested address",
        ),
        (TimeoutError(), "no answer within connect_timeout_s"),
        (DNSLookupError("smsc.example"), "DNS lookup failed: smsc.example"),
    ],
)
def test_why_there_is_no_connection_is_told_in_the_words_of_the_kernel(smsc, error, told):
    smsc.refuse_connection(error)
    assert smsc.link.state.last_error == f"no connection: {told}"


# Bound, and at work


def test_link_connects_binds_and_says_so(smsc):
    assert smsc.tries == [("192.0.2.1", 2775)]
    assert smsc.link.state.word is LinkWord.CONNECTING
    smsc.accept()
    assert smsc.transport.no_delay
    assert smsc.heard() == [(CommandId.BIND_TRANSCEIVER, 0, 1)]
    assert smsc.link.state.word is LinkWord.BINDING
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"smsc\0")
    assert smsc.link.state.word is LinkWord.BOUND_TRANSCEIVER
    assert (smsc.link.state.binds, smsc.link.state.peer) == (1, "192.0.2.1:2775")


def test_messages_reach_the_receiver_and_their_answers_go_out_in_one_write(smsc):
    smsc.bind()
    smsc.protocol.dataReceived(
        with_header(CommandId.DELIVER_SM, 5, MO) + with_header(CommandId.DELIVER_SM, 6, MO)
    )  # fmt: skip
    (connection, first), (_, second) = smsc.receiver.received
    assert connection.link_name == "north"
    writes = []
    smsc.transport.write = writes.append
    connection.answer([(second, 0), (first, TEMPORARY)])
    assert len(writes) == 1
    assert smsc.link.state.traffic.messages == 2


def test_answers_for_a_connection_that_is_gone_are_dropped(smsc):
    smsc.bind()
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    smsc.lose()
    smsc.heard()
    ((connection, message),) = smsc.receiver.received
    connection.answer([(message, 0)])
    assert smsc.heard() == []


def test_messages_that_the_receiver_chokes_on_stay_with_the_smsc(smsc, events):
    smsc.bind()
    smsc.receiver.fails = True
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, TEMPORARY, 5)]
    assert any(event["log_level"] is LogLevel.critical for event in events)


def test_silent_link_is_enquired_and_then_dropped():
    smsc = start(enquire_after_s=30.0, response_timeout_s=10.0)
    smsc.bind()
    smsc.pass_time(30)
    assert smsc.heard() == [(CommandId.ENQUIRE_LINK, 0, 2)]
    smsc.pass_time(10)
    assert smsc.transport.disconnecting
    smsc.lose()
    assert "enquire_link" in smsc.link.state.last_error


def test_reading_pauses_while_too_many_messages_are_unanswered():
    smsc = start(in_flight_max=1)
    smsc.bind()
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    assert smsc.transport.producerState == "producing"
    smsc.say(CommandId.DELIVER_SM, 6, MO)
    assert smsc.transport.producerState == "paused"
    connection, message = smsc.receiver.received[0]
    connection.answer([(message, 0)])
    assert smsc.transport.producerState == "producing"


def test_reading_pauses_while_the_smsc_does_not_read(smsc):
    smsc.bind()
    smsc.transport.producer.pauseProducing()
    assert smsc.transport.producerState == "paused"
    smsc.transport.producer.resumeProducing()
    assert smsc.transport.producerState == "producing"


def test_pdu_that_begins_while_we_do_not_read_has_its_whole_time_when_we_do():
    smsc = start(pdu_timeout_s=10.0, enquire_after_s=0)
    smsc.bind()
    smsc.protocol.dataReceived(with_header(CommandId.DELIVER_SM, 5, MO)[:20])
    smsc.transport.producer.pauseProducing()
    smsc.pass_time(60)
    smsc.transport.producer.resumeProducing()
    smsc.pass_time(9.5)
    assert not smsc.transport.disconnecting
    smsc.pass_time(0.5)
    assert smsc.transport.disconnecting


def test_message_with_octets_behind_it_that_are_no_parameter_is_a_message(smsc):
    smsc.bind()
    smsc.protocol.dataReceived(
        with_header(CommandId.DELIVER_SM, 5, MO + b"\0") + with_header(CommandId.DELIVER_SM, 6, MO)
    )  # fmt: skip
    assert (smsc.link.state.traffic.messages, smsc.link.state.traffic.bad_pdus) == (2, 0)


def test_peer_that_does_not_take_our_last_octets_is_cut_off(smsc):
    smsc.bind()
    smsc.protocol.dataReceived(b"HTTP/1.1 400 Bad Request")
    assert smsc.heard() == [(CommandId.GENERIC_NACK, 2, 0)]
    assert smsc.transport.disconnecting
    assert smsc.transport.producer is None
    smsc.pass_time(connection_module.CLOSE_WITHIN_S)
    assert smsc.transport.aborted


def test_bad_pdus_are_counted_all_and_logged_seldom(smsc, events):
    smsc.bind()
    for number in range(100):
        smsc.say(CommandId.DELIVER_SM, number, b"\0")
    assert smsc.link.state.traffic.bad_pdus == 100
    assert len([event for event in events if "bad PDU" in (event["log_format"] or "")]) == 1


# Reconnecting


def test_link_comes_back_for_ever_at_growing_waits():
    smsc = start(reconnect_min_s=1.0, reconnect_max_s=8.0)
    waits = []
    for _ in range(6):
        smsc.refuse_connection()
        before, tries = smsc.reactor.seconds(), len(smsc.tries)
        while len(smsc.tries) == tries:
            smsc.reactor.advance(0.25)
        waits.append(smsc.reactor.seconds() - before)
    assert waits == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize(("lived_s", "wait_s"), [(59, 4.0), (61, 1.0)])
def test_only_a_lasting_bind_makes_the_next_wait_short_again(lived_s, wait_s):
    smsc = start(reconnect_min_s=1.0, stable_after_s=60.0, enquire_after_s=0)
    for wait in (1.0, 2.0):
        smsc.refuse_connection()
        smsc.reactor.advance(wait)
    smsc.bind()
    smsc.pass_time(lived_s)
    smsc.lose()
    smsc.reactor.advance(wait_s - 0.1)
    assert len(smsc.tries) == 3
    smsc.reactor.advance(0.1)
    assert len(smsc.tries) == 4


def test_hosts_take_turns():
    smsc = start(hosts=("192.0.2.1:1", "192.0.2.2:2"), reconnect_max_s=1.0)
    for _ in range(3):
        smsc.refuse_connection()
        smsc.reactor.advance(1.0)
    assert smsc.tries == [("192.0.2.1", 1), ("192.0.2.2", 2), ("192.0.2.1", 1), ("192.0.2.2", 2)]


def test_link_leaves_from_the_local_address_that_it_is_told():
    assert start(local_address="192.0.2.9").reactor.tcpClients[0][4] == ("192.0.2.9", 0)


def bind_sent(smsc):
    """Return the bind on the connection that is being made now."""
    smsc.accept()
    return [command_id for command_id, _, _ in smsc.heard()]


NO_TRANSCEIVER = [
    (CommandId.BIND_TRANSCEIVER_RESP, CommandStatus.ESME_RINVCMDID),
    (CommandId.BIND_TRANSCEIVER_RESP, CommandStatus.ESME_RINVBNDSTS),
    (CommandId.GENERIC_NACK, CommandStatus.ESME_RINVCMDID),
    (CommandId.GENERIC_NACK, CommandStatus.ESME_RUNKNOWNERR),
]


@pytest.mark.parametrize(("answer", "status"), NO_TRANSCEIVER)
def test_smsc_that_takes_no_transceiver_gets_a_receiver(smsc, answer, status):
    smsc.accept()
    smsc.say(answer, 1, b"", status)
    assert smsc.transport.disconnecting
    smsc.lose()
    smsc.reactor.advance(1.0)
    smsc.bind(CommandId.BIND_RECEIVER)
    assert smsc.link.state.word is LinkWord.BOUND_RECEIVER


def test_smsc_that_is_silent_about_a_transceiver_gets_a_receiver():
    smsc = start(bind_timeout_s=5.0)
    smsc.accept()
    smsc.pass_time(5)
    smsc.lose()
    smsc.reactor.advance(1.0)
    assert bind_sent(smsc) == [CommandId.BIND_RECEIVER]


def refuse_transceiver(smsc):
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", CommandStatus.ESME_RINVCMDID)
    smsc.lose()
    smsc.reactor.advance(1.0)


@pytest.mark.parametrize(("lived_s", "mode"), [(29, CommandId.BIND_RECEIVER), (31, CommandId.BIND_TRANSCEIVER)])
def test_transceiver_is_tried_again_after_a_receiver_that_lasted(lived_s, mode):
    smsc = start(stable_after_s=30.0, enquire_after_s=0)
    refuse_transceiver(smsc)
    smsc.bind(CommandId.BIND_RECEIVER)
    smsc.pass_time(lived_s)
    smsc.lose()
    smsc.reactor.advance(2.0)
    assert bind_sent(smsc) == [mode]


def test_transceiver_is_tried_again_where_a_receiver_is_not_taken_either(smsc):
    refuse_transceiver(smsc)
    smsc.accept()
    smsc.say(CommandId.BIND_RECEIVER_RESP, 1, b"", CommandStatus.ESME_RINVCMDID)
    smsc.lose()
    smsc.reactor.advance(2.0)
    assert bind_sent(smsc) == [CommandId.BIND_TRANSCEIVER]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 503 Unavailable"])
def test_connection_that_is_lost_before_the_bind_is_answered_says_nothing_about_transceivers(smsc, said):
    for wait_s in (1.0, 2.0, 4.0):
        smsc.accept()
        smsc.protocol.dataReceived(said)
        smsc.lose()
        smsc.reactor.advance(wait_s)
    assert bind_sent(smsc) == [CommandId.BIND_TRANSCEIVER]


def test_refusal_for_another_reason_moves_on_to_the_next_host():
    smsc = start(hosts=("192.0.2.1:1", "192.0.2.2:2"))
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", CommandStatus.ESME_RUNKNOWNERR)
    smsc.lose()
    smsc.reactor.advance(1.0)
    assert smsc.tries[-1] == ("192.0.2.2", 2)
    assert bind_sent(smsc) == [CommandId.BIND_TRANSCEIVER]


@pytest.mark.parametrize(
    ("bind", "command_ids"),
    [
        ("transceiver", [CommandId.BIND_TRANSCEIVER] * 2),
        ("receiver", [CommandId.BIND_RECEIVER] * 2),
        ("auto", [CommandId.BIND_TRANSCEIVER, CommandId.BIND_RECEIVER]),
    ],
)
def test_bind_says_in_which_modes_is_tried(bind, command_ids):
    smsc = start(bind=bind)
    tried = bind_sent(smsc)
    smsc.say(CommandId.GENERIC_NACK, 1, b"", CommandStatus.ESME_RINVCMDID)
    smsc.lose()
    smsc.reactor.advance(1.0)
    assert tried + bind_sent(smsc) == command_ids


@pytest.mark.parametrize(
    ("status", "wait_s", "is_alarm"),
    [
        (CommandStatus.ESME_RINVPASWD, 450.0, True),
        (CommandStatus.ESME_RINVSYSID, 450.0, True),
        (CommandStatus.ESME_RINVSYSTYP, 450.0, True),
        (CommandStatus.ESME_RPROHIBITED, 450.0, True),
        (CommandStatus.ESME_RALYBND, 90.0, False),
        (CommandStatus.ESME_RBINDFAIL, 90.0, False),
        (CommandStatus.ESME_RTHROTTLED, 1.0, False),
    ],
)
def test_wait_after_a_refused_bind_fits_its_reason(events, status, wait_s, is_alarm):
    smsc = start(
        reconnect_refused_s=300.0, reconnect_already_bound_s=60.0
    )  # and half of it more, by the jitter of these tests
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", status)
    smsc.lose()
    smsc.reactor.advance(wait_s - 0.1)
    assert len(smsc.tries) == 1
    smsc.reactor.advance(0.1)
    assert len(smsc.tries) == 2
    assert status.name in smsc.link.state.last_error
    assert any(event["log_level"] is LogLevel.error for event in events) == is_alarm


def test_unbind_of_the_smsc_is_answered_and_the_link_comes_back(smsc):
    smsc.bind()
    smsc.say(CommandId.UNBIND, 9)
    assert smsc.heard() == [(CommandId.UNBIND_RESP, 0, 9)]
    assert smsc.transport.disconnecting
    smsc.lose()
    assert smsc.link.state.word is LinkWord.WAITING
    smsc.reactor.advance(1.0)
    assert len(smsc.tries) == 2


def test_backing_off_unbinds_leaves_new_messages_to_the_smsc_and_comes_back(smsc):
    smsc.bind()
    smsc.link.back_off()
    smsc.link.back_off()
    assert smsc.heard() == [(CommandId.UNBIND, 0, 2)]
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, TEMPORARY, 5)]
    assert smsc.receiver.received == []
    smsc.say(CommandId.UNBIND_RESP, 2)
    smsc.lose()
    smsc.reactor.advance(1.0)
    smsc.bind()
    assert smsc.link.state.word is LinkWord.BOUND_TRANSCEIVER


# Ending


def test_draining_answers_what_is_in_hand_then_unbinds_and_closes(smsc):
    smsc.bind()
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    ended = []
    smsc.link.drain().addCallback(ended.append)
    smsc.say(CommandId.DELIVER_SM, 6, MO)
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, TEMPORARY, 6)]
    ((connection, message),) = smsc.receiver.received
    connection.answer([(message, 0)])
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, 0, 5), (CommandId.UNBIND, 0, 2)]
    smsc.say(CommandId.DELIVER_SM, 7, MO)
    smsc.say(CommandId.ENQUIRE_LINK, 8)
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, TEMPORARY, 7), (CommandId.ENQUIRE_LINK_RESP, 0, 8)]
    assert not smsc.transport.disconnecting
    smsc.say(CommandId.UNBIND_RESP, 2)
    assert smsc.transport.disconnecting
    assert ended == []
    smsc.lose()
    assert ended == [None]
    assert smsc.link.state.word is LinkWord.STOPPED
    smsc.pass_time(300)
    assert len(smsc.tries) == 1


def test_draining_ends_in_time_where_the_smsc_does_not_answer():
    smsc = start(unbind_timeout_s=10.0)
    smsc.bind()
    smsc.link.drain()
    smsc.pass_time(9.5)
    assert not smsc.transport.disconnecting
    smsc.pass_time(0.5)
    assert smsc.transport.disconnecting


def test_draining_a_link_that_waits_ends_at_once_for_everybody_who_asked(smsc):
    ended = []
    smsc.refuse_connection()
    smsc.link.drain().addCallback(ended.append)
    smsc.link.drain().addCallback(ended.append)
    assert ended == [None, None]
    assert smsc.reactor.getDelayedCalls() == []


def test_draining_a_link_that_connects_gives_the_try_up(smsc):
    ended = []
    connector = smsc.reactor.connectors[-1]
    smsc.link.drain().addCallback(ended.append)
    assert connector.stoppedConnecting
    smsc.refuse_connection()
    assert ended == [None]
    assert smsc.reactor.getDelayedCalls() == []


def test_stopping_the_service_drains_and_starting_it_again_connects(smsc):
    smsc.bind()
    smsc.link.stopService()
    assert smsc.heard() == [(CommandId.UNBIND, 0, 2)]
    smsc.lose()
    smsc.link.startService()
    assert len(smsc.tries) == 2


def test_a_connection_that_is_gone_leaves_no_timer_behind(smsc):
    smsc.bind()
    smsc.link.drain()
    smsc.lose()
    assert smsc.reactor.getDelayedCalls() == []


def test_password_is_neither_shown_nor_logged(smsc, events):
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", CommandStatus.ESME_RINVPASWD)
    smsc.lose()
    assert events
    assert "secret" not in repr(vars(smsc.link)) + repr(smsc.link.state) + repr(events)


# Options


EVERY_OPTION = {
    "hosts": ("a.example:1", "[2001:db8::1]:2"),
    "local_address": "192.0.2.9",
    "system_id": "kmp",
    "allow_long_password": True,
    "bind": "receiver",
    "system_type": "TYPE",
    "interface_version": 0x50,
    "addr_ton": 1,
    "addr_npi": 2,
    "address_range": "1069",
    "connect_timeout_s": 11.5,
    "bind_timeout_s": 12.5,
    "enquire_after_s": 13.5,
    "response_timeout_s": 14.5,
    "pdu_timeout_s": 15.5,
    "unbind_timeout_s": 16.5,
    "max_pdu_octets": 1024,
}


def test_session_and_socket_are_told_every_option_of_the_link():
    smsc = start(**EVERY_OPTION)
    assert smsc.link._sessions == [
        SessionSettings(
            bind=Bind(
                command_id=CommandId.BIND_RECEIVER,
                system_id="kmp",
                password="secret",
                system_type="TYPE",
                interface_version=0x50,
                addr_ton=1,
                addr_npi=2,
                address_range="1069",
                allow_long_password=True,
            ),
            bind_timeout_s=12.5,
            enquire_after_s=13.5,
            response_timeout_s=14.5,
            pdu_timeout_s=15.5,
            unbind_timeout_s=16.5,
            max_pdu_octets=1024,
        )
    ]
    host, port, _, timeout, bind_address = smsc.reactor.tcpClients[0]
    assert (host, port, timeout, bind_address) == ("a.example", 1, 11.5, ("192.0.2.9", 0))


def test_session_waits_as_long_as_the_options_say_where_it_is_told_nothing():
    (told, _), by_itself = Smscs().link._sessions, SessionSettings(bind=Bind(
        command_id=CommandId.BIND_TRANSCEIVER, system_id="kmp", password="secret"
    ))  # fmt: skip
    assert told == by_itself


def test_link_that_is_never_to_enquire_is_never_enquired():
    smsc = start(enquire_after_s=0)
    smsc.bind()
    smsc.pass_time(3600)
    assert smsc.heard() == []


# Back-off alone


def test_backoff_is_jittered_between_a_half_and_all_of_its_step():
    assert [Backoff(2.0, 100.0, lambda: 0.0).next_s(), Backoff(2.0, 100.0, lambda: 1.0).next_s()] == [1.0, 2.0]


# A real SMSC on a real port


class Loopback:
    """A simulated SMSC and a link in one reactor, which runs until the test has seen what it waits for."""

    def __init__(self, smsc_settings=None):
        self.reactor = PollReactor()
        self.receiver = Receiver()
        self.smsc = Smsc(smsc_settings or SmscSettings(retry_after_s=0.05), self.reactor)
        options = link(hosts=(f"127.0.0.1:{self.smsc.listen()}",), system_id="esme", reconnect_min_s=0.1)
        self.link = SmscLink("real", options, "secret", self.receiver, self.reactor)

    def run(self, *steps):
        """Run each step once its condition holds; the last one ends the run."""
        left = list(steps)
        timed_out = []

        def look():
            while left and left[0][0]():
                left.pop(0)[1]()
            if left:
                self.reactor.callLater(0.01, look)
            else:
                end()

        def end():
            if timer.active():
                timer.cancel()
            self.link.drain().addBoth(lambda _: self.smsc.close().addBoth(lambda _: self.reactor.stop()))

        def give_up():
            timed_out.append(self.smsc.counts)
            left.clear()

        timer = self.reactor.callLater(20.0, give_up)
        self.reactor.callWhenRunning(self.link.startService)
        self.reactor.callWhenRunning(look)
        self.reactor.run(installSignalHandlers=False)
        assert not timed_out


def nothing():
    pass


def test_thousand_messages_cross_a_real_connection():
    loopback = Loopback()
    loopback.receiver.answer_with = 0
    loopback.smsc.store([MO] * 1000)
    loopback.run((lambda: loopback.smsc.waiting == 0, nothing))
    assert loopback.smsc.counts.accepted == loopback.smsc.counts.sent == 1000
    assert loopback.link.state.word is LinkWord.STOPPED


def test_real_smsc_without_transceivers_is_bound_as_receiver():
    loopback = Loopback(SmscSettings(takes_transceivers=False))
    loopback.run((lambda: loopback.smsc.bound == 1, nothing))
    assert (loopback.smsc.counts.binds, loopback.smsc.counts.binds_refused) == (1, 1)


def test_message_that_was_put_off_comes_again():
    loopback = Loopback()
    loopback.receiver.answer_with = TEMPORARY
    statuses = []
    loopback.smsc.send("8613912345678", "K1:A").addCallback(statuses.append)
    loopback.run(
        (lambda: loopback.smsc.counts.put_off >= 2, lambda: setattr(loopback.receiver, "answer_with", 0)),
        (lambda: statuses == [0], nothing),
    )
    assert loopback.smsc.counts.accepted == 1


def test_message_that_was_not_answered_when_the_line_broke_comes_again():
    loopback = Loopback()
    loopback.smsc.store([MO] * 3)

    def cut():
        loopback.receiver.answer_with = 0
        loopback.smsc.drop()

    loopback.run(
        (lambda: len(loopback.receiver.received) == 3, cut),
        (lambda: loopback.smsc.waiting == 0, nothing),
    )
    assert (loopback.smsc.counts.lost, loopback.smsc.counts.accepted, loopback.smsc.counts.binds) == (3, 3, 2)


def test_change_of_the_wall_clock_enquires_nobody():
    monotonic = Clock()
    smsc = Smscs()
    smsc.link.monotonic = monotonic.seconds
    smsc.link.startService()
    smsc.bind()
    smsc.reactor.advance(3600.0)
    assert smsc.heard() == []
    monotonic.advance(30.0)
    smsc.reactor.advance(0.5)
    assert smsc.heard() == [(CommandId.ENQUIRE_LINK, 0, 2)]


def test_times_for_people_are_of_the_wall_clock():
    smsc = Smscs()
    smsc.link.wall = lambda: 1_732_380_000.0
    smsc.link.startService()
    smsc.bind()
    state = smsc.link.state
    assert (state.since, state.traffic.last_received_at, state.traffic.last_sent_at) == (1_732_380_000.0,) * 3


# Replies

SUBMIT = SubmitSm(
    source_addr_ton=0,
    source_addr_npi=1,
    source_addr="10690001",
    dest_addr_ton=1,
    dest_addr_npi=1,
    destination_addr="8613912345678",
    short_message=b"K1:ok:A:meter",
)


class Pair(Smscs):
    """A receiver and its transmitter; `use` chooses the one that the other methods speak to."""

    def __init__(self, **options):
        super().__init__(bind="pair", **options)
        self.receiving = self.link
        self.transmitting = SmscLink(
            "north (transmitter)",
            self.link.options,
            "secret",
            self.receiver,
            self.reactor,
            receiver_of_pair=self.link,
            monotonic=self.reactor.seconds,
            jitter=lambda: 1.0,
        )
        self.ends = {}

    def connect(self, one, mode):
        """Have the link begin to connect, and bind."""
        one.startService()
        self.bind(mode)
        self.ends[one] = self.protocol, self.transport

    def bind_both(self):
        self.connect(self.receiving, CommandId.BIND_RECEIVER)
        self.connect(self.transmitting, CommandId.BIND_TRANSMITTER)

    def use(self, one):
        self.protocol, self.transport = self.ends[one]


def test_transceiver_submits_and_tells_what_became_of_it(smsc):
    told = []
    assert not smsc.link.can_submit
    assert not smsc.link.submit(SUBMIT, told.append)
    smsc.bind()
    assert smsc.link.can_submit
    assert all(smsc.link.submit(SUBMIT, told.append) for _ in range(3))
    assert smsc.heard() == [(CommandId.SUBMIT_SM, 0, number) for number in (2, 3, 4)]
    smsc.say(CommandId.SUBMIT_SM_RESP, 3, b"id-3\0")
    smsc.say(CommandId.GENERIC_NACK, 2, status=0x58)
    assert told == [SubmitAnswered(3, 0, "id-3"), SubmitAnswered(2, 0x58, "")]
    smsc.lose()
    assert told[2:] == [None]
    assert not smsc.link.can_submit


def test_submit_without_an_answer_is_told_as_unknown_and_the_link_stays():
    smsc, told = start(response_timeout_s=2.0, enquire_after_s=0), []
    smsc.bind()
    smsc.link.submit(SUBMIT, told.append)
    smsc.pass_time(3)
    assert told == [None]
    smsc.say(CommandId.SUBMIT_SM_RESP, 2, b"id\0")
    assert told == [None]
    assert smsc.link.state.traffic.bad_pdus == 1
    assert smsc.link.can_submit


def test_link_that_drains_or_whose_smsc_does_not_read_submits_nothing(smsc):
    smsc.bind()
    smsc.protocol.pauseProducing()
    assert not smsc.link.can_submit
    smsc.protocol.resumeProducing()
    assert smsc.link.can_submit
    told = []
    smsc.link.submit(SUBMIT, told.append)
    smsc.link.drain()
    assert not smsc.link.submit(SUBMIT, told.append)
    assert smsc.heard() == [(CommandId.SUBMIT_SM, 0, 2)]
    smsc.say(CommandId.SUBMIT_SM_RESP, 2, b"id\0")
    assert told == [SubmitAnswered(2, 0, "id")]
    assert smsc.heard() == [(CommandId.UNBIND, 0, 3)]


@pytest.mark.parametrize("end", [SmscLink.drain, SmscLink.back_off])
def test_answers_to_submits_are_awaited_before_unbinding_but_not_for_ever(end):
    """Some SMSCs answer unbind first, and close."""
    smsc, told = start(unbind_timeout_s=5.0), []
    smsc.bind()
    smsc.link.submit(SUBMIT, told.append)
    smsc.link.submit(SUBMIT, told.append)
    smsc.heard()
    end(smsc.link)
    smsc.say(CommandId.SUBMIT_SM_RESP, 2, b"id\0")
    assert smsc.heard() == []
    smsc.pass_time(4.5)
    assert not smsc.transport.disconnecting
    smsc.pass_time(0.5)
    assert smsc.transport.disconnecting
    smsc.lose()
    assert told == [SubmitAnswered(2, 0, "id"), None]


def test_receiver_submits_nothing():
    other = start(bind="receiver")
    other.bind(CommandId.BIND_RECEIVER)
    assert not other.link.can_submit
    assert other.heard() == []


def test_pair_submits_by_its_transmitter_while_both_are_bound():
    pair, told = Pair(), []
    pair.connect(pair.receiving, CommandId.BIND_RECEIVER)
    assert not pair.receiving.can_submit
    pair.connect(pair.transmitting, CommandId.BIND_TRANSMITTER)
    assert pair.transmitting.state.word is LinkWord.BOUND_TRANSMITTER
    assert pair.receiving.submit(SUBMIT, told.append)
    assert pair.heard() == [(CommandId.SUBMIT_SM, 0, 2)]
    pair.use(pair.receiving)
    assert pair.heard() == []
    pair.lose()
    assert not pair.receiving.can_submit
    assert pair.transmitting.state.word is LinkWord.BOUND_TRANSMITTER


def test_receiver_of_a_pair_lives_without_its_transmitter():
    pair = Pair()
    pair.connect(pair.receiving, CommandId.BIND_RECEIVER)
    pair.transmitting.startService()
    pair.accept()
    pair.heard()
    pair.say(CommandId.BIND_TRANSMITTER_RESP, 1, status=CommandStatus.ESME_RBINDFAIL)
    pair.lose()
    assert pair.transmitting.state.word is LinkWord.WAITING
    assert pair.receiving.state.word is LinkWord.BOUND_RECEIVER
    pair.use(pair.receiving)
    pair.receiver.answer_with = 0
    pair.say(CommandId.DELIVER_SM, 5, MO)
    assert pair.heard() == [(CommandId.DELIVER_SM_RESP, 0, 5)]


def test_transmitter_follows_its_receiver_to_another_host():
    pair = Pair(hosts=("192.0.2.1:2775", "192.0.2.2:2775"), reconnect_min_s=1, stable_after_s=0)
    pair.bind_both()
    assert pair.tries == [("192.0.2.1", 2775)] * 2
    pair.use(pair.receiving)
    pair.lose()
    pair.pass_time(1)
    pair.refuse_connection()
    pair.pass_time(3)
    assert pair.tries[2:] == [("192.0.2.1", 2775), ("192.0.2.2", 2775)]
    pair.bind(CommandId.BIND_RECEIVER)
    pair.use(pair.transmitting)
    assert pair.heard() == [(CommandId.UNBIND, 0, 2)]
    pair.say(CommandId.UNBIND_RESP, 2)
    pair.lose()
    pair.pass_time(2)
    assert pair.tries[4:] == [("192.0.2.2", 2775)]


def test_link_that_should_reply_and_is_bound_as_a_receiver_says_so_once(events):
    smsc = start(reply="confirmed", bind="auto", bind_timeout_s=1.0, reconnect_min_s=1.0, stable_after_s=100)
    for _ in range(2):
        smsc.accept()
        smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, status=CommandStatus.ESME_RINVCMDID)
        smsc.lose()
        smsc.pass_time(5)
        smsc.bind(CommandId.BIND_RECEIVER)
        smsc.lose()
        smsc.pass_time(10)
        smsc.link._mode = 0
    warned = [event for event in events if "terminals get no replies" in event["log_format"]]
    assert len(warned) == 1


# Halts, and what is counted


def test_halted_link_drains_and_stays_so_whoever_starts_it(smsc):
    smsc.bind()
    halted = []
    smsc.link.halt().addCallback(halted.append)
    assert smsc.heard() == [(CommandId.UNBIND, 0, 2)]
    smsc.lose()
    assert (smsc.link.state.word, halted) == (LinkWord.STOPPED, [None])
    smsc.link.startService()
    smsc.pass_time(300)
    assert len(smsc.tries) == 1


def test_link_that_goes_on_connects_again(smsc):
    smsc.bind()
    smsc.link.halt()
    smsc.lose()
    smsc.link.go_on()
    assert len(smsc.tries) == 2
    smsc.bind()
    smsc.link.go_on()
    assert smsc.link.state.word is LinkWord.BOUND_TRANSCEIVER


def test_link_that_is_to_go_on_while_it_drains_connects_after_that(smsc):
    smsc.bind()
    smsc.link.halt()
    smsc.link.go_on()
    smsc.link.go_on()
    assert len(smsc.tries) == 1
    smsc.lose()
    assert len(smsc.tries) == 2


def test_link_that_was_halted_again_meanwhile_stays_away(smsc):
    smsc.bind()
    smsc.link.halt()
    smsc.link.go_on()
    smsc.link.halt()
    smsc.lose()
    smsc.pass_time(300)
    assert len(smsc.tries) == 1


def test_every_answer_is_counted_by_its_status(smsc):
    smsc.bind()
    smsc.receiver.answer_with = 0
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    smsc.say(CommandId.DELIVER_SM, 6, MO)
    smsc.receiver.answer_with = 0x400
    smsc.say(CommandId.DELIVER_SM, 7, MO)
    smsc.receiver.fails = True
    smsc.say(CommandId.DELIVER_SM, 8, MO)
    assert smsc.link.answers == {"ESME_ROK": 2, "ESME_RX_T_APPN": 1, "0x00000400": 1}


def test_answers_that_nobody_gets_are_not_counted(smsc):
    smsc.bind()
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    smsc.lose()
    ((connection, message),) = smsc.receiver.received
    connection.answer([(message, 0)])
    assert smsc.link.answers == {}


def test_round_trip_of_enquire_link_is_that_of_the_last_one():
    smsc = start(enquire_after_s=30.0)
    smsc.bind()
    assert smsc.link.state.enquire_rtt_s is None
    smsc.pass_time(30)
    smsc.pass_time(2)
    smsc.say(CommandId.ENQUIRE_LINK_RESP, 2)
    assert smsc.link.state.enquire_rtt_s == 2.0


def test_failed_binds_and_reconnects_are_counted(smsc):
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, status=CommandStatus.ESME_RINVPASWD)
    smsc.lose()
    smsc.pass_time(700)
    smsc.accept()
    smsc.pass_time(30)
    smsc.lose()
    smsc.pass_time(100)
    state = smsc.link.state
    assert state.bind_failures == {"ESME_RINVPASWD": 1, "unanswered": 1}
    assert (state.reconnects, state.binds) == (2, 0)
    assert state.last_error.startswith("the bind was not answered")
    assert state.last_error_at == 730.0


def test_next_try_is_told_while_a_link_waits_for_it(smsc):
    assert smsc.link.state.next_try_at is None
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, status=CommandStatus.ESME_RINVPASWD)
    smsc.lose()
    told = smsc.link.state.next_try_at
    assert told - smsc.reactor.seconds() >= smsc.link.options.reconnect_refused_s
    smsc.pass_time(told - smsc.reactor.seconds())
    assert smsc.link.state.word is LinkWord.CONNECTING
    assert smsc.link.state.next_try_at is None


def test_time_of_the_last_message_is_not_that_of_the_last_octet(smsc):
    smsc.bind()
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    smsc.pass_time(5)
    smsc.say(CommandId.ENQUIRE_LINK, 6)
    assert (smsc.link.state.traffic.last_message_at, smsc.link.state.traffic.last_received_at) == (0.0, 5.0)


def test_link_made_anew_goes_on_counting(smsc):
    smsc.bind()
    smsc.receiver.answer_with = 0
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    anew = Smscs()
    anew.link.succeed(smsc.link)
    anew.link.startService()
    anew.bind()
    anew.receiver.answer_with = 0
    anew.say(CommandId.DELIVER_SM, 5, MO)
    state = anew.link.state
    assert (state.traffic.messages, state.binds, state.reconnects, anew.link.answers) == (2, 2, 1, {"ESME_ROK": 2})


# Traced


def traced(events):
    return [(event["link"], event["direction"], event["pdu"]) for event in events if event.get("event") == "pdu_traced"]


def test_a_traced_link_shows_its_pdus_of_both_directions_without_what_is_secret(events):
    smsc = start()
    smsc.link.trace.start(10)
    smsc.receiver.answer_with = 0
    smsc.bind()
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    assert [(link, direction, pdu.split(":")[0]) for link, direction, pdu in traced(events)] == [
        ("north", "sent", "bind_transceiver"),
        ("north", "received", "bind_transceiver_resp"),
        ("north", "received", "deliver_sm"),
        ("north", "sent", "deliver_sm_resp"),
    ]
    said = " ".join(pdu for _, _, pdu in traced(events)).replace(" ", "")
    for secret in ("secret", "8613912345678", "K1:A"):
        assert secret not in said
        assert secret.encode().hex() not in said


def test_a_trace_outlives_the_connection_and_ends_when_it_is_told_to_or_the_link_stops(events):
    smsc = start()
    smsc.link.trace.start(10)
    smsc.bind()
    smsc.lose()
    smsc.pass_time(70)
    smsc.bind()
    assert [pdu.split(":")[0] for _, direction, pdu in traced(events) if direction == "sent"] == [
        "bind_transceiver"
    ] * 2
    smsc.link.trace.end("it was asked to")
    told = len(traced(events))
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    assert len(traced(events)) == told
    smsc.link.trace.start(10)
    smsc.link.drain()
    smsc.lose()
    assert [event["reason"] for event in events if event.get("event") == "trace_ended"] == [
        "it was asked to",
        "the link has stopped",
    ]
