"""What a trace shows of a PDU, and what it must not: two PDUs that differ in their secrets alone look the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.shown import masked
from kmp_smsd.simulator.deliver import deliver_sm_body, with_header
from kmp_smsd.smpp import codec
from kmp_smsd.smpp.codec import HEADER
from kmp_smsd.smpp.constants import HEADER_OCTETS, CommandId, CommandStatus, Tag
from kmp_smsd.smpp.pdu import BINDS, Bind
from kmp_smsd.smpp.submit import SubmitSm
from kmp_smsd.smpp.trace import FIELDS_MAX, HEX_OCTETS_MAX, traced

PAGE = Path(__file__).resolve().parents[2] / "docs" / "logs.rst"
MDN = "8613812345678"
numbers = st.integers(0, 0xFFFFFFFF)
octet = st.integers(0, 0xFF)


def strings(size: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(min_codepoint=1, max_codepoint=0xFF), max_size=size)


def two(lengths: st.SearchStrategy[int], characters: str | None = None) -> st.SearchStrategy[tuple[bytes, bytes]]:
    """Two secrets of the same length, with any octet but NUL, which would end a string."""
    octets = st.sampled_from(characters.encode()) if characters else st.integers(1, 0xFF)
    return lengths.flatmap(lambda n: st.tuples(*[st.lists(octets, min_size=n, max_size=n).map(bytes)] * 2))


def hidden_digits(digits: bytes, others: bytes) -> bytes:
    """`digits` with those of `others` where a mask hides them."""
    seen = masked(digits.decode())
    return bytes(other if mark == "*" else digit for mark, digit, other in zip(seen, digits, others, strict=True))


def pdu(command_id: int, body: bytes, sequence_number: int = 7) -> bytes:
    return HEADER.pack(HEADER_OCTETS + len(body), command_id, 0, sequence_number) + body


def message(source: bytes, destination: bytes, text: bytes, payload: bytes, service_type: bytes = b"") -> bytes:
    body = b"".join(
        (
            service_type + b"\0\1\1" + source + b"\0\0\1" + destination + b"\0\x40\0\0\0\0\0\0\4\0",
            bytes((len(text),)) + text,
            b"\x04\x24" + len(payload).to_bytes(2, "big") + payload,
            b"\x14\x01" + len(payload).to_bytes(2, "big") + payload,  # a tag of the network's own
        )
    )
    return pdu(CommandId.DELIVER_SM, body)


digits = two(st.integers(0, 20), "0123456789")


@given(digits, digits, two(st.integers(0, 254)), two(st.integers(0, 300)), st.sampled_from([b"", b"CMT"]), st.data())
def test_messages_that_differ_in_text_and_hidden_digits_alone_look_the_same(
    source: tuple[bytes, bytes],
    destination: tuple[bytes, bytes],
    text: tuple[bytes, bytes],
    payload: tuple[bytes, bytes],
    service_type: bytes,
    data: st.DataObject,
) -> None:
    one = message(source[0], destination[0], text[0], payload[0], service_type)
    other = message(hidden_digits(*source), hidden_digits(*destination), text[1], payload[1], service_type)
    cut = data.draw(st.integers(HEADER_OCTETS, len(one)))  # one that ends too early shows no more
    assert traced(one[:cut], masked) == traced(other[:cut], masked)


@given(st.sampled_from(sorted(BINDS)), two(st.integers(0, 127)), strings(15), strings(12), st.data())
def test_binds_that_differ_in_their_password_alone_look_the_same(
    command_id: CommandId, passwords: tuple[bytes, bytes], system_id: str, system_type: str, data: st.DataObject
) -> None:
    bind = Bind(
        command_id=command_id,
        system_id=system_id,
        password=passwords[0].decode("latin-1"),
        system_type=system_type,
        address_range="10690001",
        allow_long_password=True,
    )
    other = replace(bind, password=passwords[1].decode("latin-1"))
    one, two = codec.encode_bind(bind, 1), codec.encode_bind(other, 1)
    cut = data.draw(st.integers(HEADER_OCTETS, len(one)))
    assert traced(one[:cut], masked) == traced(two[:cut], masked)


def test_password_of_asterisks_looks_like_any_other() -> None:
    asterisks, other = (
        codec.encode_bind(Bind(command_id=CommandId.BIND_RECEIVER, system_id="kmp", password=password), 1)
        for password in ("****", "abcd")
    )
    assert traced(asterisks, masked) == traced(other, masked)


@given(two(st.integers(0, 254)), digits)
def test_replies_that_differ_in_text_and_hidden_digits_alone_look_the_same(
    text: tuple[bytes, bytes], to: tuple[bytes, bytes]
) -> None:
    def reply(destination: bytes, short_message: bytes) -> bytes:
        submit_sm = SubmitSm(
            source_addr_ton=0,
            source_addr_npi=1,
            source_addr="10690001",
            dest_addr_ton=1,
            dest_addr_npi=1,
            destination_addr=destination.decode(),
            validity_period="000001000000000R",
            short_message=short_message,
        )
        return codec.encode_submit_sm(submit_sm, 3)

    assert traced(reply(to[0], text[0]), masked) == traced(reply(hidden_digits(*to), text[1]), masked)


@given(numbers, st.binary(max_size=600), st.binary(max_size=600))
def test_of_an_unknown_pdu_only_the_header_is_shown(command_id: int, body: bytes, other: bytes) -> None:
    if command_id in {one.value for one in CommandId}:
        command_id ^= 0x00010000
    size = min(len(body), len(other))
    assert traced(pdu(command_id, body[:size]), masked) == traced(pdu(command_id, other[:size]), masked)


@given(st.sampled_from(list(CommandId)), st.binary(max_size=800))
def test_a_trace_is_one_line_of_bounded_length_whatever_the_peer_sends(command_id: CommandId, body: bytes) -> None:
    line = traced(pdu(command_id, body), masked)
    assert line.isprintable()
    assert len(line) < 200 + FIELDS_MAX * 400 + HEX_OCTETS_MAX * 3


def test_a_message_is_shown_with_all_but_its_text_and_the_middle_of_its_numbers() -> None:
    body = deliver_sm_body(MDN, b"K1:SECRET")
    line = traced(pdu(CommandId.DELIVER_SM, body), masked)
    assert line.startswith("deliver_sm: sequence_number=7, command_status=ESME_ROK (0x00), service_type=''")
    assert "source_addr='86138*****678'" in line
    assert "short_message=<9 octets hidden>" in line
    decoded, _, octets = line.partition(" | ")
    assert octets.count("**") == 5 + 5 + 9
    assert b"K1:SECRET".hex() not in octets.replace(" ", "")
    assert MDN not in decoded


def test_a_bind_is_shown_without_its_password() -> None:
    bind = Bind(command_id=CommandId.BIND_TRANSCEIVER, system_id="esme", password="secret99", system_type="VMA")
    assert traced(codec.encode_bind(bind, 1), masked) == (
        "bind_transceiver: sequence_number=1, command_status=ESME_ROK (0x00), system_id='esme', "
        "password=<8 octets hidden>, system_type='VMA', interface_version=0x34, addr_ton=0x00, addr_npi=0x00, "
        "address_range='' | 00000026 00000009 00000000 00000001 65736d65 00****** "
        "******** **00564d 41003400 0000"
    )


@pytest.mark.parametrize(
    ("command_id", "body", "said"),
    [
        (CommandId.ENQUIRE_LINK, b"", "enquire_link: sequence_number=7, command_status=ESME_ROK (0x00) | 0000"),
        (CommandId.ENQUIRE_LINK, b"ab", "2 octets hidden | "),
        (CommandId.SUBMIT_SM_RESP, b"id-7\0", "message_id='id-7'"),
        (CommandId.SUBMIT_SM_RESP, b"id-7", "no whole message_id, 4 octets hidden"),
        (CommandId.BIND_RECEIVER_RESP, b"smsc\0\x02\x10\0\x01\x34", "system_id='smsc', sc_interface_version=0x34 | "),
        (CommandId.DELIVER_SM, b"8613812345678\0", "no whole service_type, 14 octets hidden"),
        (CommandId.SUBMIT_SM, b"\0\0\0\0\0\0\0\0\0\x008613812345678\0", "schedule_delivery_time=<13 octets hidden>"),
    ],
)
def test_a_pdu_is_decoded_as_far_as_it_goes(command_id: CommandId, body: bytes, said: str) -> None:
    assert said in traced(pdu(command_id, body), masked)


def test_a_status_has_its_name() -> None:
    refusal = codec.encode_refusal(CommandId.BIND_RECEIVER, CommandStatus.ESME_RINVPASWD, 1)
    assert "command_status=ESME_RINVPASWD (0x0E)" in traced(refusal, masked)


def test_a_long_pdu_is_cut_in_hex_and_in_fields() -> None:
    many = b"\x02\x0a\0\x02\x13\x88" * 1000
    line = traced(pdu(CommandId.SUBMIT_SM_RESP, b"\0" + many), masked)
    assert line.count("source_port=0x1388") == FIELDS_MAX - 1
    assert "and 937 fields more" in line
    assert line.endswith(f" and {HEADER_OCTETS + 1 + len(many) - HEX_OCTETS_MAX} octets more")


def test_a_tag_with_a_value_too_long_for_it_stays_hidden() -> None:
    body = b"\0" + Tag.SOURCE_PORT.to_bytes(2, "big") + b"\0\x0d" + MDN.encode()
    assert "tag 0x020A=<13 octets hidden>" in traced(pdu(CommandId.SUBMIT_SM_RESP, body), masked)


def test_the_page_on_logs_shows_a_trace_as_it_is() -> None:
    shown = " ".join(PAGE.read_text(encoding="utf-8").split())
    message = with_header(CommandId.DELIVER_SM, 7, deliver_sm_body(MDN, b"K1:A1B2C3"))
    assert f"link north: received {traced(message, masked)} An octet" in shown
