"""Messages of ours: submit_sm as octets, and what the SMSC says about them."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smpplib import smpp as smpplib_smpp

from kmp_smsd.smpp import codec
from kmp_smsd.smpp.constants import CommandId
from kmp_smsd.smpp.events import BadPdu, Bound, Closed, LinkDead, PeerUnbound, SubmitAnswered, SubmitUnanswered
from kmp_smsd.smpp.pdu import Bind
from kmp_smsd.smpp.session import EsmeSession, SessionSettings
from kmp_smsd.smpp.states import TRANSITIONS, Input, State
from kmp_smsd.smpp.submit import SubmitSm, relative_time
from kmp_smsd.smpp.udh import UserDataHeader, ports_header, split_udh
from tests.smpp.wire import headers, pdu

SUBMIT_SM, DELIVER_SM, UNBIND, RESP, NACK = 0x04, 0x05, 0x06, 0x80000000, 0x80000000
SUBMIT = SubmitSm(
    source_addr_ton=0,
    source_addr_npi=1,
    source_addr="10690001",
    dest_addr_ton=1,
    dest_addr_npi=1,
    destination_addr="8613912345678",
    validity_period="000000010000000R",
    short_message=b"K1:ok:A:meter",
)
octet = st.integers(0, 255)
addresses = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=20)
submits = st.builds(
    SubmitSm,
    source_addr_ton=octet,
    source_addr_npi=octet,
    source_addr=addresses,
    dest_addr_ton=octet,
    dest_addr_npi=octet,
    destination_addr=addresses,
    esm_class=octet,
    validity_period=st.sampled_from(["", "000000010000000R"]),
    data_coding=octet,
    short_message=st.binary(max_size=254),
)


class Numbers:
    """What smpplib takes the sequence_number of a request from."""

    def next_sequence(self):
        return 1


def bound(mode=CommandId.BIND_TRANSMITTER, **changes):
    bind = Bind(command_id=mode, system_id="esme", password="secret")
    session = EsmeSession(SessionSettings(bind=bind, **changes))
    session.connection_made(0.0)
    assert headers(session.data_to_send()) == [(mode, 0, 1)]
    assert session.receive_data(pdu(mode | RESP, 1, b"smsc\0"), 0.0) == [Bound(mode, "smsc", None)]
    assert session.is_bound
    return session


def sent(session):
    return headers(session.data_to_send())


# Octets


def test_submit_sm_has_the_octets_of_the_specification():
    body = (
        b"\0" + b"\0\x0110690001\0" + b"\1\x018613912345678\0" + b"\0\0\0" + b"\0" + b"000000010000000R\0"
        + b"\0\0\0\0\x0d" + b"K1:ok:A:meter"
    )  # fmt: skip
    assert codec.encode_submit_sm(SUBMIT, 7) == pack(">IIII", 16 + len(body), 4, 0, 7) + body


@given(submits, st.integers(1, 0x7FFFFFFF))
def test_smpplib_reads_what_we_wrote(submit, number):
    octets = codec.encode_submit_sm(submit, number)
    (header,) = headers(octets)
    assert header == (SUBMIT_SM, 0, number)
    read = smpplib_smpp.parse_pdu(octets, client=Numbers())
    for name in ("source_addr_ton", "source_addr_npi", "dest_addr_ton", "dest_addr_npi", "esm_class", "data_coding"):
        assert getattr(read, name) == getattr(submit, name)
    assert read.source_addr == submit.source_addr.encode("latin-1")
    assert read.destination_addr == submit.destination_addr.encode("latin-1")
    assert (read.short_message or b"") == submit.short_message  # it reads an empty one as none
    assert (read.service_type, read.validity_period) == (b"", submit.validity_period.encode())
    assert (read.registered_delivery, read.replace_if_present_flag, read.priority_flag, read.protocol_id) == (0,) * 4


@pytest.mark.parametrize("change", [
    {"source_addr": "1" * 21}, {"destination_addr": "1\0002"}, {"destination_addr": "€"}, {"esm_class": 256},
    {"dest_addr_ton": -1}, {"short_message": bytes(255)}, {"validity_period": "0" * 17},
])  # fmt: skip
def test_value_that_does_not_fit_is_refused_instead_of_cut(change):
    values = {name: getattr(SUBMIT, name) for name in SubmitSm.__slots__}
    with pytest.raises(ValueError, match=next(iter(change))):
        SubmitSm(**{**values, **change})


def test_text_is_not_shown():
    assert "K1" not in repr(SUBMIT)


@pytest.mark.parametrize(("seconds", "written"), [
    (-5, "000000000001000R"), (59.9, "000000000059000R"), (3600, "000000010000000R"),
    (604_800, "000007000000000R"), (1e9, "000030000000000R"),
])  # fmt: skip
def test_relative_time_is_written_in_days_hours_minutes_and_seconds(seconds, written):
    assert relative_time(seconds) == written


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(min_size=1))
def test_header_of_ports_is_read_as_it_was_written(destination, source, text):
    header = ports_header(destination_port=destination, source_port=source)
    assert split_udh(header + text) == (UserDataHeader(source, destination), text)


# What the SMSC says


@pytest.mark.parametrize("mode", [CommandId.BIND_TRANSMITTER, CommandId.BIND_TRANSCEIVER])
def test_answers_are_told_by_their_number_in_any_order(mode):
    session = bound(mode)
    assert [session.submit(SUBMIT, 0.0) for _ in range(3)] == [2, 3, 4]
    assert sent(session) == [(SUBMIT_SM, 0, 2), (SUBMIT_SM, 0, 3), (SUBMIT_SM, 0, 4)]
    answers = (
        pdu(SUBMIT_SM | RESP, 4, b"id-4\0") + pdu(NACK, 2, b"", status=0x58) + pdu(SUBMIT_SM | RESP, 3, b"", status=69)
    )
    assert session.receive_data(answers, 1.0) == [
        SubmitAnswered(4, 0, "id-4"),
        SubmitAnswered(2, 0x58, ""),
        SubmitAnswered(3, 69, ""),
    ]
    assert sent(session) == []


@pytest.mark.parametrize(("body", "message_id"), [
    (b"", ""), (b"\0", ""), (b"no end", ""), (b"x" * 64 + b"\0", "x" * 64), (b"x" * 65 + b"\0", ""),
    (b"id\0\x04\x25\0\1x", "id"),
])  # fmt: skip
def test_message_id_is_taken_where_there_is_one(body, message_id):
    session = bound()
    session.submit(SUBMIT, 0.0)
    assert session.receive_data(pdu(SUBMIT_SM | RESP, 2, body), 0.0) == [SubmitAnswered(2, 0, message_id)]


@pytest.mark.parametrize("answer", [pdu(SUBMIT_SM | RESP, 3), pdu(NACK, 0, b"", status=0x58), pdu(0x80000103, 2)])
def test_answer_to_nothing_that_we_sent_answers_no_submit(answer):
    session = bound()
    session.submit(SUBMIT, 0.0)
    (event,) = session.receive_data(answer, 0.0)
    assert isinstance(event, BadPdu)
    assert session.receive_data(pdu(SUBMIT_SM | RESP, 2), 0.0) == [SubmitAnswered(2, 0, "id-1")]
    (event,) = session.receive_data(pdu(SUBMIT_SM | RESP, 2), 0.0)  # a second time
    assert isinstance(event, BadPdu)


def test_submit_without_an_answer_is_unknown_and_the_session_goes_on():
    session = bound(response_timeout_s=10.0, enquire_after_s=None)
    session.submit(SUBMIT, 0.0)
    session.submit(SUBMIT, 5.0)
    assert session.check_timers(9.9) == []
    assert session.check_timers(10.0) == [SubmitUnanswered(2)]
    assert session.check_timers(15.0) == [SubmitUnanswered(3)]
    assert session.is_bound


@pytest.mark.parametrize("mode", [CommandId.BIND_TRANSMITTER, CommandId.BIND_TRANSCEIVER])
def test_answer_that_comes_while_unbinding_is_told(mode):
    session = bound(mode)
    session.submit(SUBMIT, 0.0)
    session.unbind(0.0)
    assert session.submit(SUBMIT, 0.0) is None
    assert sent(session) == [(SUBMIT_SM, 0, 2), (UNBIND, 0, 3)]
    answers = pdu(SUBMIT_SM | RESP, 2) + pdu(UNBIND | RESP, 3)
    assert session.receive_data(answers, 0.0) == [SubmitAnswered(2, 0, "id-1"), Closed("unbound by us")]


# States


@pytest.mark.parametrize("end", ["before the bind", "receiver", "unbound by us", "unbound by them", "lost"])
def test_nothing_is_submitted_where_the_session_cannot(end):
    session = bound(CommandId.BIND_RECEIVER) if end == "receiver" else bound()
    if end == "before the bind":
        session = EsmeSession(SessionSettings(bind=Bind(command_id=CommandId.BIND_TRANSMITTER, system_id="esme")))
        session.connection_made(0.0)
    elif end == "unbound by us":
        session.unbind(0.0)
    elif end == "unbound by them":
        session.receive_data(pdu(UNBIND, 9), 0.0)
    elif end == "lost":
        session.connection_lost()
    session.data_to_send()
    assert not session.can_submit
    assert session.submit(SUBMIT, 0.0) is None
    assert sent(session) == []


@pytest.mark.parametrize("unbinding", [False, True])
@pytest.mark.parametrize("command_id", [DELIVER_SM, 0x103])
def test_message_to_a_transmitter_is_refused(command_id, unbinding):
    session = bound()
    if unbinding:
        session.unbind(0.0)
        session.data_to_send()
    (event,) = session.receive_data(pdu(command_id, 9), 0.0)
    assert isinstance(event, BadPdu)
    assert sent(session) == [(command_id | RESP, 4, 9)]


def test_silent_transmitter_is_enquired_unbound_and_dropped_like_any_other():
    session = bound(enquire_after_s=30.0, response_timeout_s=10.0)
    session.check_timers(30.0)
    assert sent(session) == [(0x15, 0, 2)]
    assert isinstance(session.check_timers(40.0)[0], LinkDead)
    session = bound()
    assert session.receive_data(pdu(UNBIND, 9), 0.0)[-1] == Closed("unbound by the SMSC")
    assert sent(session) == [(UNBIND | RESP, 0, 9)]


def test_submits_leave_in_no_state_but_those_of_the_table():
    assert {state for state, happened in TRANSITIONS if happened is Input.SUBMIT} == {State.BOUND_TX, State.BOUND_TRX}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.none()),
        st.tuples(st.sampled_from([SUBMIT_SM | RESP, NACK, DELIVER_SM, UNBIND, UNBIND | RESP]), st.integers(0, 12)),
        st.tuples(st.sampled_from(["unbind", "lose"]), st.none()),
        st.tuples(st.just("wait"), st.floats(0.0, 12.0)),
    ),
    max_size=40,
)


@given(steps, st.sampled_from([CommandId.BIND_TRANSMITTER, CommandId.BIND_TRANSCEIVER]))
def test_each_submit_is_told_about_once_at_most_and_always_where_the_session_lives(steps, mode):
    session = bound(mode, response_timeout_s=8.0, enquire_after_s=5.0)
    now, told, submitted = 0.0, [], {}
    for step, argument in steps:
        events = []
        if step == "submit":
            number = session.submit(SUBMIT, now)
            if number is not None:
                assert number not in submitted
                submitted[number] = now
        elif step == "unbind":
            session.unbind(now)
        elif step == "lose":
            session.connection_lost()
        elif step == "wait":
            now += argument
            events = session.check_timers(now)
        else:
            events = session.receive_data(pdu(step, argument, b""), now)
        told += [e.sequence_number for e in events if isinstance(e, SubmitAnswered | SubmitUnanswered)]
        assert len(told) == len(set(told))
        assert set(told) <= set(submitted)
        if step == "wait" and session.is_bound:
            assert set(told) >= {number for number, at in submitted.items() if now - at >= 8.0}
    headers(session.data_to_send())


def test_unbind_of_the_smsc_waits_for_its_answers_to_what_we_submitted():
    session = bound()
    number = session.submit(SUBMIT, 0.0)
    session.data_to_send()
    assert session.receive_data(pdu(UNBIND, 9), 0.1) == [PeerUnbound()]
    assert (session.data_to_send(), session.state) == (b"", State.UNBOUND)
    events = session.receive_data(pdu(SUBMIT_SM | RESP, number), 0.2)
    assert events == [SubmitAnswered(number, 0, "id-1"), Closed("unbound by the SMSC")]
    assert headers(session.data_to_send()) == [(UNBIND | RESP, 0, 9)]
