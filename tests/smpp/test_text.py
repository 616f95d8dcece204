from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.smpp.codec import decode_data_sm, decode_deliver_sm
from kmp_smsd.smpp.constants import CommandStatus, Tag
from kmp_smsd.smpp.errors import PduError
from kmp_smsd.smpp.pdu import Message
from kmp_smsd.smpp.text import DATA_CODINGS, Alphabet, read_user_data, reads_like_receipt

RECEIPT_TEXT = b"id:0123456789 sub:001 dlvrd:001 submit date:2611231200 done date:2611231201 stat:DELIVRD err:000 text:"
PORTS_UDH = bytes.fromhex("06 0504 1388 0007")
PART_UDH = bytes.fromhex("05 0003 fe 02 01")


def message(short_message=b"", *, esm_class=0, data_coding=0, tlvs=()):
    return decode_deliver_sm(
        bytes(16) + b"\0\1\x01123\0\0\x01456\0" + bytes((esm_class, 0, 0, 0, 0, 0, 0, data_coding, 0))
        + bytes([len(short_message)]) + short_message
        + b"".join(tag.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for tag, value in tlvs),
        1,
    )  # fmt: skip


def read(*args, alphabets=DATA_CODINGS, **fields):
    return read_user_data(message(*args, **fields), alphabets)


def status_of(*args, **fields):
    with pytest.raises(PduError) as caught:
        read(*args, **fields)
    return caught.value.command_status


def test_text_is_in_short_message():
    data = read(b"K1:A")
    assert (data.octets, data.source_port, data.destination_port, data.concatenated) == (b"K1:A", None, None, False)


def test_text_is_in_message_payload_where_short_message_is_empty():
    assert read(tlvs=[(Tag.MESSAGE_PAYLOAD, b"K1:A" * 100)]).octets == b"K1:A" * 100


def test_data_sm_carries_its_text_in_message_payload():
    pdu = bytes(16) + b"\0\1\x01123\0\0\x01456\0\0\0\0" + bytes.fromhex("0424 0004") + b"K1:A"
    assert read_user_data(decode_data_sm(pdu, 1)).octets == b"K1:A"


def test_text_given_twice_is_read_where_it_is_the_same_and_refused_where_not():
    assert read(b"K1:A", tlvs=[(Tag.MESSAGE_PAYLOAD, b"K1:A")]).octets == b"K1:A"
    assert status_of(b"K1:A", tlvs=[(Tag.MESSAGE_PAYLOAD, b"K1:B")]) == CommandStatus.ESME_RX_R_APPN


def test_empty_message_is_read_as_nothing():
    assert read().octets == b""


def test_header_is_removed_from_short_message_and_from_message_payload():
    for fields in ({"short_message": PORTS_UDH + b"K1:A"}, {"tlvs": [(Tag.MESSAGE_PAYLOAD, PORTS_UDH + b"K1:A")]}):
        data = read(esm_class=0x40, **fields)
        assert (data.octets, data.destination_port, data.source_port) == (b"K1:A", 5000, 7)


def test_octets_that_look_like_a_header_are_text_without_the_bit_that_says_so():
    assert read(PORTS_UDH + b"K1:A").octets == PORTS_UDH + b"K1:A"


def test_part_of_a_longer_text_is_told_by_header_or_by_parameters():
    sar = [(Tag.SAR_MSG_REF_NUM, b"\0\1"), (Tag.SAR_TOTAL_SEGMENTS, b"\2"), (Tag.SAR_SEGMENT_SEQNUM, b"\1")]
    assert read(PART_UDH + b"K1", esm_class=0x40).concatenated
    assert read(b"K1", tlvs=sar).concatenated
    assert not read(b"K1", tlvs=sar[:2]).concatenated
    assert not read(b"K1", tlvs=[*sar[:2], (Tag.SAR_SEGMENT_SEQNUM, b"\3")]).concatenated
    assert status_of(PART_UDH + b"K1", esm_class=0x40, tlvs=sar) == CommandStatus.ESME_RINVOPTPARAMVAL


@pytest.mark.parametrize("value", [b"\x88", b"\x00\x88", b"\x00\x00\x00\x88"])
def test_port_parameters_are_read_in_every_width_that_smscs_send(value):
    data = read(b"K1", tlvs=[(Tag.DESTINATION_PORT, value), (Tag.SOURCE_PORT, value)])
    assert (data.destination_port, data.source_port) == (0x88, 0x88)


def test_port_that_is_none_or_is_given_twice_is_refused():
    refused = CommandStatus.ESME_RINVOPTPARAMVAL
    assert status_of(b"K1", tlvs=[(Tag.DESTINATION_PORT, b"\0\1\0\0")]) == refused
    assert status_of(b"K1", tlvs=[(Tag.DESTINATION_PORT, b"\0\1"), (Tag.DESTINATION_PORT, b"\0\2")]) == refused
    assert status_of(PORTS_UDH, esm_class=0x40, tlvs=[(Tag.DESTINATION_PORT, b"\0\1")]) == refused
    assert read(PORTS_UDH, esm_class=0x40, tlvs=[(Tag.DESTINATION_PORT, b"\x13\x88")]).destination_port == 5000


def test_ucs2_is_read_as_ascii_in_the_order_that_a_mark_or_the_link_says():
    assert read("K1:A".encode("utf-16-be"), data_coding=8).octets == b"K1:A"
    assert read(b"\xfe\xff" + "K1:A".encode("utf-16-be"), data_coding=8).octets == b"K1:A"
    assert read(b"\xff\xfe" + "K1:A".encode("utf-16-le"), data_coding=8).octets == b"K1:A"
    little = {8: Alphabet.UCS2_LITTLE_ENDIAN}
    assert read("K1:A".encode("utf-16-le"), data_coding=8, alphabets=little).octets == b"K1:A"
    assert read("K1:A".encode("utf-16-be"), data_coding=0x18, alphabets={0x18: Alphabet.UCS2}).octets == b"K1:A"
    assert read(b"K1:A", data_coding=8, alphabets={8: None}).octets == b"K1:A"


def test_ucs2_behind_a_header_is_read():
    assert read(PORTS_UDH + "K1:A".encode("utf-16-be"), esm_class=0x48, data_coding=8).octets == b"K1:A"


@pytest.mark.parametrize(
    "octets",
    [
        "K1:Ä".encode("utf-16-be"),
        "K1:Ａ".encode("utf-16-be"),
        "K1:A".encode("utf-16-le"),
        b"K1:ACME",  # octets that say they are UCS-2
        "K1:A".encode("utf-16-be") + b"\0",
        bytes.fromhex("d800 004b 0031"),
    ],
)
def test_ucs2_that_is_not_ascii_cannot_be_taken_for_a_payload(octets):
    assert any(octet > 0x7F for octet in read(octets, data_coding=8).octets)


@pytest.mark.parametrize("data_coding", [0, 1, 2, 3, 4, 0xF0, 0xF4, 0x0B])
def test_any_other_data_coding_is_octets(data_coding):
    assert read(b"K1:A", data_coding=data_coding).octets == b"K1:A"


def test_receipt_is_known_by_its_text():
    for receipt in (message(RECEIPT_TEXT), message(tlvs=[(Tag.MESSAGE_PAYLOAD, RECEIPT_TEXT)])):
        assert reads_like_receipt(receipt)
    assert not reads_like_receipt(message(b"K1:id.stat"))


def test_parameters_of_a_receipt_do_not_make_a_message_one():
    receipted_message_id, message_state = 0x001E, 0x0427
    ordinary = message(b"K1:A", tlvs=[(receipted_message_id, b"42\0"), (message_state, b"\2")])
    assert not reads_like_receipt(ordinary)


def test_repr_hides_the_text():
    assert "K1" not in repr(message(b"K1:A", tlvs=[(Tag.MESSAGE_PAYLOAD, b"K1:A")]))
    assert "K1" not in repr(read(b"K1:A"))


@given(st.binary(max_size=80), st.integers(0, 255), st.integers(0, 255), st.lists(st.tuples(
    st.sampled_from([*Tag, 0x1400]), st.binary(max_size=6)), max_size=6))  # fmt: skip
def test_any_message_is_read_or_refused(text, esm_class, data_coding, tlvs):
    any_message: Message = message(text, esm_class=esm_class, data_coding=data_coding, tlvs=tlvs)
    reads_like_receipt(any_message)
    try:
        read_user_data(any_message)
    except PduError as error:
        refused_with = error.command_status
    else:
        refused_with = CommandStatus.ESME_ROK
    assert refused_with in list(CommandStatus)
