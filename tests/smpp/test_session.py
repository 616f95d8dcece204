from __future__ import annotations

import os
from struct import unpack_from

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmp_smsd.smpp.constants import CommandId, CommandStatus
from kmp_smsd.smpp.events import BadPdu, BindRefused, BindUnanswered, Bound, Closed, LinkDead, Messages, PeerUnbound
from kmp_smsd.smpp.pdu import Bind
from kmp_smsd.smpp.session import EsmeSession, SessionSettings
from kmp_smsd.smpp.states import TRANSITIONS, Input, State
from tests.smpp.wire import BODIES, headers, pdu, reply_to

DELIVER_SM, DATA_SM, ENQUIRE_LINK, UNBIND = 0x05, 0x103, 0x15, 0x06
RESP, NACK = 0x80000000, 0x80000000
ROK = CommandStatus.ESME_ROK
BIND = Bind(command_id=CommandId.BIND_TRANSCEIVER, system_id="esme", password="secret")


def opened(**changes):
    session = EsmeSession(SessionSettings(bind=changes.pop("bind", BIND), **changes))
    session.connection_made(0.0)
    session.data_to_send()
    return session


def bound(**changes):
    session = opened(**changes)
    session.receive_data(pdu(0x80000009, 1), 0.0)
    assert session.is_bound
    return session


def sent(session):
    return headers(session.data_to_send())


def messages_of(events):
    return [message for event in events if isinstance(event, Messages) for message in event.messages]


def only(events):
    (event,) = events
    return event


# Bind


def test_bind_is_the_first_thing_on_the_wire():
    session = EsmeSession(SessionSettings(bind=BIND))
    session.connection_made(0.0)
    assert sent(session) == [(0x09, 0, 1)]
    assert session.state is State.OPEN


def test_accepted_bind_is_reported_with_the_version_of_the_smsc():
    session = opened()
    assert session.receive_data(pdu(0x80000009, 1), 0.0) == [Bound(CommandId.BIND_TRANSCEIVER, "smsc", 0x50)]
    assert session.state is State.BOUND_TRX


def test_receiver_is_bound_as_receiver():
    session = opened(bind=Bind(command_id=CommandId.BIND_RECEIVER, system_id="esme"))
    assert session.receive_data(pdu(0x80000001, 1, b"smsc\0"), 0.0) == [Bound(CommandId.BIND_RECEIVER, "smsc", None)]
    assert session.state is State.BOUND_RX


@pytest.mark.parametrize("body", [b"", b"\0", b"smsc\0", b"unterminated"])
def test_refused_bind_is_reported_whatever_its_body(body):
    session = opened()
    refusal = pdu(0x80000009, 1, body, status=0x0E)
    assert session.receive_data(refusal, 0.0) == [BindRefused(CommandId.BIND_TRANSCEIVER, 0x0E)]
    assert session.state is State.CLOSED


@pytest.mark.parametrize("number", [0, 1, 99])
def test_generic_nack_while_binding_refuses_the_bind_whatever_its_number(number):
    session = opened()
    refused = BindRefused(CommandId.BIND_TRANSCEIVER, 3, nacked=True)
    assert session.receive_data(pdu(NACK, number, status=3), 0.0) == [refused]


def test_bind_response_with_a_number_that_is_not_ours_binds_nothing():
    session = opened()
    assert isinstance(only(session.receive_data(pdu(0x80000009, 2), 0.0)), BadPdu)
    assert isinstance(only(session.receive_data(pdu(0x80000001, 1), 0.0)), BadPdu)
    assert session.state is State.OPEN


def test_message_in_the_segment_of_the_bind_response_is_received():
    session = opened()
    events = session.receive_data(pdu(0x80000009, 1) + pdu(DELIVER_SM, 9), 0.0)
    assert [type(event) for event in events] == [Bound, Messages]


@pytest.mark.parametrize(("command_id", "body"), [(DELIVER_SM, b"\0"), (DATA_SM, b"\0"), (CommandId.UNBIND, b"")])
def test_refusal_of_a_message_has_an_empty_message_id_and_any_other_no_body(command_id, body):
    session = opened()
    session.receive_data(pdu(command_id, 9), 0.0)
    assert session.data_to_send() == pdu(command_id | RESP, 9, body, status=CommandStatus.ESME_RINVBNDSTS)


def test_message_before_the_bind_response_is_refused():
    session = opened()
    event = only(session.receive_data(pdu(DELIVER_SM, 9), 0.0))
    assert (event.command_id, event.command_status) == (DELIVER_SM, CommandStatus.ESME_RINVBNDSTS)
    assert sent(session) == [(DELIVER_SM | RESP, 4, 9)]
    assert session.state is State.OPEN


def test_bind_without_an_answer_ends_the_session():
    session = opened(bind_timeout_s=30.0)
    assert session.check_timers(29.9) == []
    assert isinstance(only(session.check_timers(30.0)), BindUnanswered)
    assert session.state is State.CLOSED


def test_session_cannot_bind_with_another_command():
    with pytest.raises(ValueError, match="not a bind"):
        Bind(command_id=CommandId.SUBMIT_SM, system_id="esme")


# Messages and answers


def test_messages_of_one_segment_come_together_in_order():
    session = bound()
    event = only(session.receive_data(pdu(DELIVER_SM, 5) + pdu(DATA_SM, 3) + pdu(DELIVER_SM, 4), 0.0))
    assert [(message.command_id, message.sequence_number) for message in event.messages] == [(5, 5), (0x103, 3), (5, 4)]
    assert sent(session) == []


def test_each_message_is_answered_once_with_its_own_response_number_and_status():
    session = bound()
    first, second = messages_of(session.receive_data(pdu(DELIVER_SM, 0) + pdu(DATA_SM, 0xFFFFFFFF), 0.0))
    assert session.unanswered == 2
    session.answer([(second, 0x64), (first, ROK)])
    session.answer([(first, ROK)])
    assert sent(session) == [(DATA_SM | RESP, 0x64, 0xFFFFFFFF), (DELIVER_SM | RESP, 0, 0)]
    assert session.unanswered == 0


def test_number_used_twice_is_answered_twice():
    session = bound()
    first, second = messages_of(session.receive_data(pdu(DELIVER_SM, 7) * 2, 0.0))
    session.answer([(first, ROK), (second, ROK)])
    assert sent(session) == [(DELIVER_SM | RESP, 0, 7)] * 2


def test_message_of_another_session_is_not_answered():
    (message,) = messages_of(bound().receive_data(pdu(DELIVER_SM, 7), 0.0))
    session = bound()
    session.answer([(message, ROK)])
    assert sent(session) == []


def test_message_with_a_bad_body_is_answered_and_its_neighbours_received():
    session = bound()
    events = session.receive_data(
        pdu(DELIVER_SM, 1) + pdu(DELIVER_SM, 2, b"\0\1\x0115551234567") + pdu(DATA_SM, 3), 0.0
    )
    before, bad, after = events  # in the order of their arrival
    assert [message.sequence_number for message in before.messages + after.messages] == [1, 3]
    assert (bad.sequence_number, bad.command_status) == (2, CommandStatus.ESME_RINVSRCADR)
    assert "1555" not in bad.reason
    assert sent(session) == [(DELIVER_SM | RESP, CommandStatus.ESME_RINVSRCADR, 2)]


def test_answer_after_the_end_goes_nowhere():
    session = bound()
    (message,) = messages_of(session.receive_data(pdu(DELIVER_SM, 7), 0.0))
    session.connection_lost()
    session.answer([(message, ROK)])
    assert session.data_to_send() == b""
    assert session.receive_data(pdu(DELIVER_SM, 8), 0.0) == []


# Every operation, by the book


def feed_and_check(session, octets):
    """Feed a bound session and check that what it owes is what it sends, and that it lives on where it may."""
    session.answer([(message, ROK) for message in messages_of(session.receive_data(octets, 1.0))])
    owed, rest, lives_on = [], octets, True
    while lives_on and len(rest) >= 4:
        length = int.from_bytes(rest[:4], "big")
        lives_on = 16 <= length <= 70_000
        if not lives_on:
            owed.append((NACK, 0x02, 0))
        elif length > len(rest):
            break
        else:
            command_id, _, number = unpack_from(">III", rest, 4)
            owed += [reply] if (reply := reply_to(command_id, number)) else []
            lives_on = command_id != UNBIND
            rest = rest[length:]
    for answer, (command_id, status, number) in zip(sent(session), owed, strict=True):
        assert answer == (command_id, answer[1] if status is None else status, number)
    if lives_on and rest:
        assert isinstance(only(session.check_timers(1e6)), LinkDead)
    elif lives_on:
        session.receive_data(pdu(ENQUIRE_LINK, 4711), 1.0)
        assert sent(session) == [(ENQUIRE_LINK | RESP, 0, 4711)]
    assert session.is_bound == (lives_on and not rest)


@pytest.mark.parametrize("number", [0, 13, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("command_id", [*BODIES, 0, 0x0A, 0x10201, 0x7FFFFFFF, 0x80010201, 0xFFFFFFFF])
def test_operation_is_answered_by_the_book(command_id, number):
    for body in (BODIES.get(command_id, b"vendor"), b"", b"\xff" * 5):
        feed_and_check(bound(), pdu(command_id, number, body))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([*BODIES, 0x10201]), st.integers(0, 0xFFFFFFFF), st.binary(max_size=50))))
def test_any_operation_with_any_body_is_answered_by_the_book(pdus):
    session = bound()
    for each in pdus:
        if session.is_bound:
            feed_and_check(session, pdu(*each))


if "KMP_PDU_VECTORS" in os.environ:  # a file of PDUs from the suites of other implementations, first column in hex
    with open(os.environ["KMP_PDU_VECTORS"], encoding="utf-8") as file:
        VECTORS = [line.split("\t")[0] for line in file if line.strip() and not line.startswith("#")]

    @pytest.mark.parametrize("vector", VECTORS)
    def test_pdu_of_another_implementation_is_answered_by_the_book(vector):
        feed_and_check(bound(), bytes.fromhex(vector))

elif os.environ.get("CI") == "true":

    def test_vectors_of_other_implementations_are_there():
        pytest.fail("KMP_PDU_VECTORS names no file of PDUs")


@pytest.mark.parametrize("state", ["open", "bound", "unbinding", "unbound"])
def test_enquire_link_is_answered_in_every_state(state):
    session = opened() if state == "open" else bound()
    if state == "unbinding":
        session.unbind(0.0)
    if state == "unbound":
        session.receive_data(pdu(DELIVER_SM, 1) + pdu(UNBIND, 2), 0.0)
    session.data_to_send()
    session.receive_data(pdu(ENQUIRE_LINK, 0), 0.0)
    assert sent(session) == [(ENQUIRE_LINK | RESP, 0, 0)]


def test_response_to_nothing_is_reported_and_never_answered():
    session = bound()
    for command_id in (NACK, 0x80000004, 0x80000005, 0x80000015, 0x80000009, 0xFFFFFFFF):
        event = only(session.receive_data(pdu(command_id, 99, b""), 0.0))
        assert (event.command_id, event.command_status) == (command_id, None)
    assert sent(session) == []
    assert session.is_bound


# The stream


def flat(events):
    return [part for event in events for part in (event.messages if isinstance(event, Messages) else [event])]


stream_parts = st.one_of(
    st.builds(pdu, st.sampled_from([*BODIES]), st.integers(0, 5)),
    st.builds(pdu, st.sampled_from([DELIVER_SM, DATA_SM, NACK]), st.integers(0, 5), st.binary(max_size=40)),
    st.binary(max_size=30),
)


@settings(max_examples=300)
@given(st.lists(stream_parts, max_size=8), st.lists(st.integers(1, 60), max_size=40), st.booleans())
def test_any_octets_in_any_cutting_give_the_same_events_and_answers(parts, cuts, is_bound):
    stream = b"".join(parts)
    whole, cut = (bound(), bound()) if is_bound else (opened(), opened())
    expected = flat(whole.receive_data(stream, 1.0))
    found = []
    for size in cuts:
        found += flat(cut.receive_data(stream[:size], 1.0))
        stream = stream[size:]
    found += flat(cut.receive_data(stream, 1.0))
    assert found == expected
    assert cut.state is whole.state
    assert cut.data_to_send() == whole.data_to_send()


def test_stream_that_cannot_be_cut_is_nacked_and_ends_the_session_after_what_came_before():
    session = bound()
    events = session.receive_data(pdu(DELIVER_SM, 9) + b"HTTP/1.1 400 Bad Request", 0.0)
    assert [type(event) for event in events] == [Messages, LinkDead]
    assert "HTTP" in events[1].reason
    assert sent(session) == [(NACK, 2, 0)]
    assert session.state is State.CLOSED


def test_pdu_that_never_ends_ends_the_session():
    session = bound(pdu_timeout_s=10.0)
    session.receive_data(pdu(DELIVER_SM, 9)[:20], 5.0)
    session.receive_data(pdu(DELIVER_SM, 9)[20:22], 14.0)
    assert session.check_timers(14.9) == []
    assert isinstance(only(session.check_timers(15.0)), LinkDead)


def test_pdu_that_ends_in_time_stops_its_timer():
    session = bound(pdu_timeout_s=10.0)
    session.receive_data(pdu(DELIVER_SM, 9)[:20], 5.0)
    session.receive_data(pdu(DELIVER_SM, 9)[20:], 14.0)
    assert session.check_timers(16.0) == []


def test_time_in_which_we_do_not_read_is_not_counted():
    session = bound(pdu_timeout_s=10.0, enquire_after_s=None)
    session.receive_data(pdu(DELIVER_SM, 9)[:20], 5.0)
    session.reading_paused()
    assert session.check_timers(100.0) == []
    session.reading_resumed(100.0)
    assert session.check_timers(109.9) == []
    assert isinstance(only(session.check_timers(110.0)), LinkDead)


def test_reading_again_between_two_pdus_awaits_nothing():
    session = bound(pdu_timeout_s=10.0, enquire_after_s=None)
    session.reading_paused()
    session.reading_resumed(5.0)
    assert session.check_timers(100.0) == []


# Liveness


def test_silent_link_is_enquired_and_then_dropped():
    session = bound(enquire_after_s=30.0, response_timeout_s=10.0)
    assert session.check_timers(29.9) == []
    assert sent(session) == []
    assert session.check_timers(30.0) == []
    assert sent(session) == [(ENQUIRE_LINK, 0, 2)]
    assert session.check_timers(39.9) == []
    assert isinstance(only(session.check_timers(40.0)), LinkDead)
    assert session.state is State.CLOSED


def test_round_trip_is_that_of_the_last_enquire_link_that_was_answered():
    session = bound(enquire_after_s=30.0, response_timeout_s=10.0)
    assert session.enquire_rtt_s is None
    session.check_timers(30.0)
    session.receive_data(pdu(DELIVER_SM, 9), 31.0)
    assert session.enquire_rtt_s is None
    session.receive_data(pdu(ENQUIRE_LINK | RESP, 2), 32.5)
    assert session.enquire_rtt_s == 2.5
    session.receive_data(pdu(ENQUIRE_LINK | RESP, 2), 40.0)  # to nothing that we asked
    assert session.enquire_rtt_s == 2.5


@pytest.mark.parametrize("sign", [pdu(ENQUIRE_LINK | RESP, 2), pdu(ENQUIRE_LINK, 9), pdu(DELIVER_SM, 9), pdu(NACK, 2)])
def test_any_pdu_is_a_sign_of_life(sign):
    session = bound(enquire_after_s=30.0, response_timeout_s=10.0)
    session.check_timers(30.0)
    session.receive_data(sign, 39.0)
    session.data_to_send()
    assert session.check_timers(68.9) == []
    assert sent(session) == []
    assert session.check_timers(69.0) == []
    assert sent(session) == [(ENQUIRE_LINK, 0, 3)]


def test_nothing_is_enquired_before_the_bind_or_where_it_is_switched_off():
    session = opened(enquire_after_s=1.0, bind_timeout_s=100.0)
    assert session.check_timers(50.0) == []
    assert sent(session) == []
    session = bound(enquire_after_s=None)
    assert session.check_timers(1e6) == []
    assert sent(session) == []


def test_nothing_is_enquired_while_unbinding():
    session = bound(enquire_after_s=1.0, response_timeout_s=60.0)
    session.unbind(0.5)
    session.data_to_send()
    assert session.check_timers(50.0) == []
    assert sent(session) == []


# Unbind


def test_unbind_of_ours_goes_on_receiving_and_answering_until_it_is_answered():
    session = bound()
    session.unbind(0.0)
    session.unbind(0.0)
    assert sent(session) == [(UNBIND, 0, 2)]
    (message,) = messages_of(session.receive_data(pdu(DELIVER_SM, 9), 0.0))
    session.answer([(message, 0x64)])
    assert sent(session) == [(DELIVER_SM | RESP, 0x64, 9)]
    assert session.receive_data(pdu(UNBIND | RESP, 2), 0.0) == [Closed("unbound by us")]
    assert session.state is State.CLOSED


def test_unbind_of_ours_without_an_answer_ends_the_session():
    session = bound(response_timeout_s=10.0, enquire_after_s=None)
    session.unbind(5.0)
    assert session.check_timers(14.9) == []
    assert "unbind" in only(session.check_timers(15.0)).reason


def test_unbind_before_the_bind_was_answered_ends_the_session():
    session = opened()
    session.unbind(0.0)
    assert session.state is State.CLOSED


def test_unbind_of_the_smsc_is_answered_at_once_where_nothing_is_left():
    session = bound()
    assert session.receive_data(pdu(UNBIND, 9), 0.0) == [PeerUnbound(), Closed("unbound by the SMSC")]
    assert sent(session) == [(UNBIND | RESP, 0, 9)]
    assert session.state is State.CLOSED


def test_unbind_of_the_smsc_is_answered_after_its_messages():
    session = bound()
    events = session.receive_data(pdu(DELIVER_SM, 8) + pdu(UNBIND, 9) + pdu(DELIVER_SM, 10), 0.0)
    assert [type(event) for event in events] == [Messages, PeerUnbound, BadPdu]
    assert sent(session) == [(DELIVER_SM | RESP, 4, 10)]
    session.answer([(messages_of(events)[0], ROK)])
    assert sent(session) == [(DELIVER_SM | RESP, 0, 8), (UNBIND | RESP, 0, 9)]
    assert session.state is State.CLOSED


def test_unbind_of_the_smsc_is_answered_in_time_even_with_messages_left():
    session = bound(unbind_timeout_s=2.0)
    session.receive_data(pdu(DELIVER_SM, 8) + pdu(UNBIND, 9), 0.0)
    assert session.check_timers(1.9) == []
    assert isinstance(only(session.check_timers(2.0)), Closed)
    assert sent(session) == [(UNBIND | RESP, 0, 9)]


def test_unbinds_that_cross_are_both_settled():
    session = bound()
    (message,) = messages_of(session.receive_data(pdu(DELIVER_SM, 8), 0.0))
    session.unbind(0.0)
    session.receive_data(pdu(UNBIND, 9) + pdu(UNBIND | RESP, 2), 0.0)
    session.answer([(message, ROK)])
    assert sent(session) == [(UNBIND, 0, 2), (DELIVER_SM | RESP, 0, 8), (UNBIND | RESP, 0, 9)]
    assert session.state is State.CLOSED


# Everything at once


@settings(max_examples=300)
@given(st.lists(st.one_of(
    st.tuples(st.just("receive"), stream_parts),
    st.tuples(st.sampled_from(["answer", "unbind", "lose"]), st.none()),
    st.tuples(st.just("wait"), st.floats(0.0, 20.0)),
), max_size=25))  # fmt: skip
def test_nothing_that_can_happen_raises_and_each_message_is_answered_once_or_lost(steps):
    session = bound(enquire_after_s=5.0, response_timeout_s=8.0)
    now, waiting = 0.0, []
    for step, argument in steps:
        if step == "receive":
            waiting += messages_of(session.receive_data(argument, now))
        elif step == "answer" and waiting:
            session.answer([(waiting.pop(0), ROK)])
        elif step == "unbind":
            session.unbind(now)
        elif step == "lose":
            session.connection_lost()
        elif step == "wait":
            now += argument
            session.check_timers(now)
        assert session.unanswered == (0 if session.state is State.CLOSED else len(waiting))
    headers(session.data_to_send())


# The table


def test_messages_are_taken_in_no_state_but_those_of_the_table():
    assert {state for state, happened in TRANSITIONS if happened is Input.MESSAGE} == {
        State.BOUND_RX,
        State.BOUND_TRX,
        State.UNBINDING,
    }


def test_every_state_is_reached_and_left():
    assert set(TRANSITIONS.values()) == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State)
