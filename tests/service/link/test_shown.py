"""What is counted, what people see of a link, and its PDUs where they are traced."""

from __future__ import annotations

from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.smpp.constants import CommandId, CommandStatus
from tests.service.link.stage import MO, Smscs, start

# What is counted and shown


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


def test_times_for_people_are_of_the_wall_clock():
    smsc = Smscs()
    smsc.link.wall = lambda: 1_732_380_000.0
    smsc.link.startService()
    smsc.bind()
    state = smsc.link.state
    assert (state.since, state.traffic.last_received_at, state.traffic.last_sent_at) == (1_732_380_000.0,) * 3


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
