from __future__ import annotations

import logging
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple
from smpplib import smpp as smpplib_smpp

from kmp_smsd.smpp import codec
from kmp_smsd.smpp.constants import CommandId, CommandStatus, Tag
from kmp_smsd.smpp.errors import PduError
from kmp_smsd.smpp.pdu import Bind
from tests.smpp.wire import ADDRESSES, BODIES, SUBMIT_TAIL, pdu

logging.getLogger("smpplib").disabled = True  # it warns of each TLV that it does not know

DELIVER_SM, DATA_SM = 0x00000005, 0x00000103
DECODERS = {DELIVER_SM: codec.decode_deliver_sm, DATA_SM: codec.decode_data_sm}
MANDATORY = (
    "source_addr_ton",
    "source_addr_npi",
    "source_addr",
    "dest_addr_ton",
    "dest_addr_npi",
    "destination_addr",
    "esm_class",
    "data_coding",
)


class Numbers:
    """What smpplib takes the sequence_number of a request from."""

    sequence = 0

    def next_sequence(self):
        return 1


def decode(command_id, body):
    return DECODERS[command_id](pdu(command_id, 7, body), 7)


def status_of(body, command_id=DELIVER_SM):
    with pytest.raises(PduError) as caught:
        decode(command_id, body)
    return caught.value.command_status


def smpplib_decodes(octets):
    """Return smpplib's view of a PDU, or None where it does not accept it."""
    try:
        return smpplib_smpp.parse_pdu(octets, client=Numbers(), allow_unknown_opt_params=True)
    except Exception:  # it has no one class for this; KeyError and struct.error are among them
        return None


def assert_agreement(octets):
    command_id = int.from_bytes(octets[4:8], "big")
    theirs = smpplib_decodes(octets)
    try:
        ours = DECODERS[command_id](octets, 7)
    except PduError:
        return False
    if theirs is None:
        return False
    for name in MANDATORY:
        expected = getattr(theirs, name)
        assert getattr(ours, name) == (expected.decode("latin-1") if isinstance(expected, bytes) else expected), name
    if command_id == DELIVER_SM:
        assert ours.short_message == (theirs.short_message or b"")
    sizes = {(tag, len(value)) for tag, value in ours.tlvs if tag != Tag.MESSAGE_PAYLOAD}
    read = b"".join(pack(">HH", tag, len(value)) + value for tag, value in ours.tlvs)
    if len(ours.tlv(Tag.MESSAGE_PAYLOAD)) == 1 and sizes <= {(Tag.SOURCE_PORT, 2)} and octets.endswith(read):
        # beyond this smpplib loses its place among the TLVs, see the traps below
        assert ours.tlv(Tag.MESSAGE_PAYLOAD) == [theirs.message_payload or b""]
    return True


def text(max_size):
    return st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=max_size)


octet = st.integers(0, 255)
texts = st.one_of(st.just(b""), st.binary(max_size=254))


@st.composite
def smpplib_messages(draw):
    """A deliver_sm or data_sm as smpplib writes it."""
    name = draw(st.sampled_from(["deliver_sm", "data_sm"]))
    made = smpplib_smpp.make_pdu(name, client=Numbers())
    made.sequence = 7
    made.service_type = draw(text(5))
    made.source_addr, made.destination_addr = draw(text(20)), draw(text(20))
    numbers = ["source_addr_ton", "source_addr_npi", "dest_addr_ton", "dest_addr_npi", "esm_class", "data_coding"]
    if name == "deliver_sm":
        numbers += ["protocol_id", "priority_flag", "registered_delivery"]
        made.short_message = draw(texts)
    for number in numbers:
        setattr(made, number, draw(octet))
    if not getattr(made, "short_message", None):  # smpplib refuses to write both
        made.message_payload = draw(st.one_of(st.none(), texts))
    made.source_port = draw(st.one_of(st.none(), st.integers(0, 65535)))
    return made


@given(smpplib_messages())
def test_we_read_what_smpplib_writes(made):
    octets = made.generate()
    assert assert_agreement(octets)
    ours = DECODERS[int.from_bytes(octets[4:8], "big")](octets, 7)
    assert (ours.source_addr, ours.destination_addr) == (made.source_addr, made.destination_addr)
    assert ours.tlv(Tag.MESSAGE_PAYLOAD) == ([made.message_payload] if made.message_payload else [])
    assert ours.tlv(Tag.SOURCE_PORT) == ([] if made.source_port is None else [pack(">H", made.source_port)])


@settings(max_examples=400)
@given(smpplib_messages(), st.data())
def test_we_agree_with_smpplib_on_every_damaged_message_that_both_accept(made, data):
    octets = bytearray(made.generate()[16:])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(octets)))
        octets[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    assert_agreement(pdu(DELIVER_SM if made.command == "deliver_sm" else DATA_SM, 7, bytes(octets)))


@given(st.sampled_from([DELIVER_SM, DATA_SM]), st.binary(max_size=120))
def test_any_body_is_decoded_or_refused_with_a_status(command_id, body):
    try:
        message = decode(command_id, body)
    except PduError as error:
        outcome = error.command_status
    else:
        outcome = message.command_id
    assert outcome in (*CommandStatus, command_id)


@pytest.mark.parametrize("command_id", [DELIVER_SM, DATA_SM])
def test_body_that_ends_anywhere_in_its_mandatory_part_is_refused(command_id):
    whole = BODIES[DELIVER_SM] if command_id == DELIVER_SM else BODIES[DATA_SM][:-8]
    decode(command_id, whole)
    for end in range(len(whole)):
        assert status_of(whole[:end], command_id) != CommandStatus.ESME_ROK


def test_deliver_sm_is_decoded_field_by_field():
    body = (
        b"CMT\0\1\2" + b"861064\0" + b"\3\4" + b"1069\0" + b"\x44\x40\2" + b"\0\0" + b"\1\0\xf6\0\2hi" + b"\x14\0\0\1x"
    )
    assert astuple(decode(DELIVER_SM, body)) == (
        *(CommandId.DELIVER_SM, 7, 1, 2, "861064", 3, 4, "1069", 0x44, 0xF6, b"hi"),
        ((0x1400, b"x"),),
    )


def test_data_sm_is_decoded_field_by_field():
    body = b"CMT\0\1\2" + b"9" * 64 + b"\0\3\4" + b"1069\0" + b"\x40\0\4" + b"\x04\x24\0\2hi"
    assert astuple(decode(DATA_SM, body)) == (
        *(CommandId.DATA_SM, 7, 1, 2, "9" * 64, 3, 4, "1069", 0x40, 4, b""),
        ((0x0424, b"hi"),),
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"123456\0" + ADDRESSES + SUBMIT_TAIL, CommandStatus.ESME_RINVSERTYP),
        (b"\0\1\1" + b"1" * 21 + b"\0\0\0" + b"1069\0" + SUBMIT_TAIL, CommandStatus.ESME_RINVSRCADR),
        (b"\0\1\1123\0\0\0" + b"1" * 21 + b"\0" + SUBMIT_TAIL, CommandStatus.ESME_RINVDSTADR),
        (b"\0" + ADDRESSES + b"\0\0\0" + b"1" * 17 + b"\0\0" + SUBMIT_TAIL[5:], CommandStatus.ESME_RINVSCHED),
        (b"\0" + ADDRESSES + b"\0\0\0\0" + b"1" * 17 + b"\0" + SUBMIT_TAIL[5:], CommandStatus.ESME_RINVEXPIRY),
        (b"\0" + ADDRESSES + SUBMIT_TAIL[:-1], CommandStatus.ESME_RINVMSGLEN),
        (b"\0" + ADDRESSES + SUBMIT_TAIL[:9], CommandStatus.ESME_RINVCMDLEN),
    ],
)
def test_wrong_field_is_refused_with_its_own_status(body, status):
    assert status_of(body) == status


def test_times_and_text_of_full_size_are_accepted():
    body = b"\0" + ADDRESSES + b"\0\0\0" + b"261123120000000+\0" * 2 + b"\0\0\0\0\xff" + b"x" * 255
    assert decode(DELIVER_SM, body).short_message == b"x" * 255


def test_bind_response_is_read_whatever_its_body():
    for body, expected in {
        b"": ("", None),
        b"\0": ("", None),
        b"smsc": ("smsc", None),
        b"smsc\0\x02\x10\0\1\x34": ("smsc", 0x34),
        b"smsc\0\x02\x10\0\0": ("smsc", 0),
        b"smsc\0\x02\x10\0\xff": ("smsc", None),
        b"s" * 99: ("s" * 15, None),
    }.items():
        resp = codec.decode_bind_resp(pdu(0x80000009, 1, body))
        assert (resp.system_id, resp.sc_interface_version) == expected


def test_bind_is_written_field_by_field():
    bind = Bind(
        command_id=CommandId.BIND_TRANSCEIVER,
        system_id="esme",
        password="secret12",
        system_type="VMA",
        interface_version=0x50,
        addr_ton=1,
        addr_npi=2,
        address_range="^1069",
    )
    body = b"esme\0secret12\0VMA\0\x50\1\2^1069\0"
    assert codec.encode_bind(bind, 0x7FFFFFFF) == pdu(0x00000009, 0x7FFFFFFF, body)


def test_password_of_a_bind_is_never_shown():
    assert "secret" not in repr(Bind(command_id=CommandId.BIND_RECEIVER, system_id="esme", password="secret"))


@pytest.mark.parametrize("status", [0, 0x66, 0x400])
def test_response_to_a_message_has_an_empty_message_id(status):
    assert codec.encode_message_resp(DELIVER_SM, status, 9) == pdu(0x80000005, 9, b"\0", status=status)
    assert codec.encode_message_resp(DATA_SM, status, 9) == pdu(0x80000103, 9, b"\0", status=status)


@pytest.mark.parametrize(
    "name", ["ENQUIRE_LINK", "ENQUIRE_LINK_RESP", "UNBIND", "UNBIND_RESP", "GENERIC_NACK"]
)  # fmt: skip
def test_pdu_without_a_body_is_its_header(name):
    for number in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF):
        assert codec.encode_empty(CommandId[name], number, 3) == pdu(CommandId[name], number, b"", status=3)


# What smpplib does wrong and we must do right, one test each.


def test_trap_source_addr_without_its_nul_is_never_cut_to_another_number():
    assert status_of(b"\0\1\1" + b"15551234567") == CommandStatus.ESME_RINVSRCADR


def test_trap_body_that_stops_early_is_no_message():
    assert status_of(b"\0\1") == CommandStatus.ESME_RINVSRCADR
    assert status_of(b"\0" + ADDRESSES) == CommandStatus.ESME_RINVSCHED
    assert status_of(b"\0" + ADDRESSES + SUBMIT_TAIL[:9]) == CommandStatus.ESME_RINVCMDLEN


def test_trap_sm_length_beyond_the_end_is_refused_instead_of_cutting_the_text():
    body = BODIES[DELIVER_SM]
    assert status_of(body[:-5] + b"\x10" + body[-4:]) == CommandStatus.ESME_RINVMSGLEN


@pytest.mark.parametrize("tail", [b"\0", b"\0\0", b"\0\0\0", b"\1\2\3"])
def test_trap_octets_after_the_text_that_are_no_tlv_do_no_harm(tail):
    message = decode(DELIVER_SM, BODIES[DELIVER_SM] + tail)
    assert (message.short_message, message.tlvs) == (b"K1:A", ())


@pytest.mark.parametrize(
    "tag", [0x0005, 0x0006, 0x0007, 0x000D, 0x000E, 0x000F, 0x0204, 0x0210, 0x0501, 0x1203, 0x1380]
)
def test_trap_tlv_that_is_not_expected_in_deliver_sm_is_kept_and_harmless(tag):
    message = decode(DELIVER_SM, BODIES[DELIVER_SM] + pack(">HHB", tag, 1, 5) + b"\x04\x24\0\0")
    assert message.tlvs == ((tag, b"\5"), (0x0424, b""))


@pytest.mark.parametrize("value", [b"\x88", b"\0\0\0\x88", b""])
def test_trap_integer_tlv_of_another_length_does_not_shift_what_follows(value):
    tlv = pack(">HH", Tag.SOURCE_PORT, len(value)) + value
    message = decode(DELIVER_SM, BODIES[DELIVER_SM] + tlv + b"\x14\0\0\1x")
    assert message.tlvs == ((Tag.SOURCE_PORT, value), (0x1400, b"x"))


def test_trap_string_tlv_without_a_nul_keeps_its_last_octet():
    tlv = b"\x00\x1e\x00\x02ab" + b"\x02\x02\x00\x03\x80cd"  # receipted_message_id, source_subaddress
    assert decode(DELIVER_SM, BODIES[DELIVER_SM] + tlv).tlvs == ((0x001E, b"ab"), (0x0202, b"\x80cd"))


def test_trap_flag_tlv_of_data_sm_does_not_shift_what_follows():
    body = BODIES[DATA_SM][:-8] + b"\x13\x0c\x00\x01\x01" + b"\x04\x24\x00\x04K1:A"
    assert decode(DATA_SM, body).tlvs == ((0x130C, b"\1"), (0x0424, b"K1:A"))


def test_trap_unknown_tlv_is_kept_without_a_word(caplog):
    assert decode(DELIVER_SM, BODIES[DELIVER_SM] + b"\x14\x01\x00\x01x").tlvs == ((0x1401, b"x"),)
    assert caplog.records == []


def test_trap_tlv_that_claims_more_than_there_is_is_dropped_alone():
    message = decode(DELIVER_SM, BODIES[DELIVER_SM] + b"\x14\x01\x00\x01x" + b"\x00\x1e\x00\x41abcde")
    assert (message.short_message, message.tlvs) == (b"K1:A", ((0x1401, b"x"),))


def test_trap_sequence_number_of_an_answer_is_the_one_given():
    for number in (0, 77, 0xFFFFFFFF):
        assert codec.encode_empty(CommandId.ENQUIRE_LINK, number)[12:16] == number.to_bytes(4, "big")
        assert codec.encode_message_resp(DELIVER_SM, 0, number)[12:16] == number.to_bytes(4, "big")


def test_trap_interface_version_is_the_one_given():
    bind = Bind(command_id=CommandId.BIND_RECEIVER, system_id="esme", interface_version=0x33)
    assert codec.encode_bind(bind, 1)[16:] == b"esme\0\0\0\x33\0\0\0"


@pytest.mark.parametrize(
    ("name", "size"), [("system_id", 15), ("password", 8), ("system_type", 12), ("address_range", 40)]
)
def test_trap_value_too_long_for_a_bind_is_refused_instead_of_cut(name, size):
    fields = {"command_id": CommandId.BIND_RECEIVER, "system_id": "esme"}
    assert b"x" * size + b"\0" in codec.encode_bind(Bind(**fields | {name: "x" * size}), 1)
    with pytest.raises(ValueError, match=name) as caught:
        Bind(**fields | {name: "x" * (size + 1)})
    assert "xx" not in str(caught.value)


def test_trap_long_password_is_sent_whole_where_the_setting_allows_it():
    bind = Bind(command_id=CommandId.BIND_RECEIVER, system_id="e", password="p" * 127, allow_long_password=True)
    assert codec.encode_bind(bind, 1)[16:] == b"e\0" + b"p" * 127 + b"\0\0\x34\0\0\0"


@pytest.mark.parametrize("value", ["a\0b", "Ā"])
def test_trap_value_that_cannot_be_written_is_refused_before_it_is_sent(value):
    with pytest.raises(ValueError, match="password"):
        Bind(command_id=CommandId.BIND_RECEIVER, system_id="esme", password=value)


def test_trap_decoding_uses_none_of_our_sequence_numbers_and_keeps_theirs():
    assert codec.decode_deliver_sm(pdu(DELIVER_SM, 0xFFFFFFFE), 0xFFFFFFFE).sequence_number == 0xFFFFFFFE
