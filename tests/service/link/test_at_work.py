"""A link that is bound: messages and answers, when it reads, and when it gives the connection up."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel

from kmp_smsd.service import connection as connection_module
from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.simulator.deliver import with_header
from kmp_smsd.smpp.constants import CommandId
from tests.service.link.stage import MO, TEMPORARY, Smscs, start


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


def test_link_that_is_never_to_enquire_is_never_enquired():
    smsc = start(enquire_after_s=0)
    smsc.bind()
    smsc.pass_time(3600)
    assert smsc.heard() == []


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
