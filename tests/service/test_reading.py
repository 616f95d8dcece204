from __future__ import annotations

import pytest

from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import MAX_PAYLOAD_OCTETS, Proof
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.service.reading import Reader
from kmp_smsd.smpp.constants import CommandId, Tag
from tests.service.by_hand import MDN, PLAN, link, mo

AT = 1_732_380_000_000
RECEIPT, UDHI = 0x04, 0x40
RECEIPT_TEXT = "id:123 sub:001 dlvrd:001 submit date:2411240000 done date:2411240000 stat:DELIVRD err:000 text:K1:KEY-1"


def read(message, *, short_codes=(), **options):
    return Reader("north", link(**options), Sync(short_codes=short_codes), PLAN).read(message, AT)


def unfit(outcome, **fields):
    return Unfit(outcome=outcome, received_at=AT, link="north", **fields)


def test_message_becomes_a_request():
    assert read(mo()) == SyncRequest(mdn=MDN, key_id="KEY-1", received_at=AT, link="north")


def test_everything_that_a_payload_names_is_in_the_request():
    assert read(mo(text="K1:KEY-1:meter:7:0123456789ABC")) == SyncRequest(
        mdn=MDN, key_id="KEY-1", app_id="meter", proof=Proof(7, "0123456789ABC"), received_at=AT, link="north"
    )


def test_first_row_that_applies_wins():
    """A message with every fault; then they are mended in the order of the rows."""
    faults = {"esm_class": RECEIPT, "destination_addr": "999", "source_addr": "bank", "short_message": b"hello"}
    outcomes = []
    for fault in list(faults):
        outcomes.append(read(mo(**faults), short_codes=("10690001",)).outcome)
        del faults[fault]
    assert outcomes == [Outcome.RECEIPT, Outcome.NOT_FOR_US, Outcome.INVALID_MDN, Outcome.MALFORMED]
    assert isinstance(read(mo(**faults), short_codes=("10690001",)), SyncRequest)


# Row 1


@pytest.mark.parametrize("kind", [kind << 2 for kind in range(1, 16)])
@pytest.mark.parametrize("other_bits", [0x00, 0x01, 0x02, 0x03, 0x40, 0x80, 0xC3])
def test_every_message_type_but_the_ordinary_one_is_a_receipt(kind, other_bits):
    assert read(mo(esm_class=kind | other_bits)) == unfit(Outcome.RECEIPT)


@pytest.mark.parametrize("other_bits", [0x01, 0x02, 0x03, 0x80])
def test_other_bits_of_esm_class_make_no_receipt(other_bits):
    assert isinstance(read(mo(esm_class=other_bits)), SyncRequest)


def test_text_of_a_receipt_makes_one_only_where_the_link_says_so():
    assert read(mo(text=RECEIPT_TEXT), receipts_by_text=True) == unfit(Outcome.RECEIPT)
    assert read(mo(text=RECEIPT_TEXT)).outcome is Outcome.MALFORMED


def test_ordinary_messages_are_no_receipts_where_receipts_are_told_by_text():
    assert isinstance(read(mo(), receipts_by_text=True), SyncRequest)


# Where a reply goes


def test_way_back_is_known_only_where_the_link_replies():
    message = mo(source_addr="+8613912345678", dest_addr_ton=3, dest_addr_npi=9)
    assert read(message).reply_to is None
    to = read(message, bind="pair", reply="confirmed").reply_to
    assert to == ReplyTo(1, 1, "+8613912345678", 3, 9, "10690001")


@pytest.mark.parametrize("message", [
    mo(text=b"\x06\x05\x04\x13\x88\x1f\x90K1:KEY-1", esm_class=UDHI),
    mo(tlvs=((Tag.DESTINATION_PORT, b"\x13\x88"), (Tag.SOURCE_PORT, b"\x1f\x90"))),
])  # fmt: skip
def test_ports_are_part_of_the_way_back(message):
    to = read(message, reply="confirmed").reply_to
    assert (to.our_port, to.terminal_port) == (5000, 8080)


def test_port_without_another_is_no_part_of_the_way_back():
    to = read(mo(tlvs=((Tag.DESTINATION_PORT, b"\x13\x88"),)), reply="confirmed").reply_to
    assert (to.our_port, to.terminal_port) == (None, None)


def test_address_of_a_data_sm_that_no_submit_sm_holds_is_no_way_back():
    values = {"command_id": CommandId.DATA_SM, "short_message": b"", "tlvs": ((Tag.MESSAGE_PAYLOAD, b"K1:KEY-1"),)}
    assert read(mo(**values, destination_addr="1" * 20), reply="confirmed").reply_to is not None
    assert read(mo(**values, destination_addr="1" * 21), reply="confirmed").reply_to is None


# Row 2


@pytest.mark.parametrize("destination", ["10690001", "+10690001"])
def test_our_short_code_may_be_written_with_a_plus(destination):
    assert isinstance(read(mo(destination_addr=destination), short_codes=("1", "10690001")), SyncRequest)


@pytest.mark.parametrize("destination", ["", "1069000", "106900011", "++10690001", "0010690001"])
def test_other_destinations_are_not_for_us(destination):
    assert read(mo(destination_addr=destination), short_codes=("10690001",)) == unfit(
        Outcome.NOT_FOR_US, why="not one of our short codes"
    )


def test_without_short_codes_every_destination_is_ours():
    assert isinstance(read(mo(destination_addr="")), SyncRequest)


NETWORK, BEARER = Tag.SOURCE_NETWORK_TYPE, Tag.SOURCE_BEARER_TYPE


@pytest.mark.parametrize(("tlvs", "is_ours"), [
    (((NETWORK, b"\x01"), (BEARER, b"\x01")), True),
    (((BEARER, b"\x01"), (NETWORK, b"\x03")), True),
    (((NETWORK, b"\x00\x01"), (BEARER, b"\x01")), True),  # wider than it should be
    (((NETWORK, b"\x00"), (BEARER, b"\x01")), False),
    (((NETWORK, b"\x01"), (BEARER, b"\x04")), False),
    (((NETWORK, b"\x01"),), False),
    (((NETWORK, b"\x01"), (BEARER, b"")), False),
    (((NETWORK, b"\x01"), (NETWORK, b"\x02"), (BEARER, b"\x01")), False),
    ((), False),
])  # fmt: skip
def test_only_what_comes_from_an_accepted_network_and_bearer_is_ours(tlvs, is_ours):
    found = read(mo(tlvs=tlvs), accepted_network_types=(1, 3), accepted_bearer_types=(1,))
    why = "not of an accepted network or bearer"
    assert isinstance(found, SyncRequest) if is_ours else found == unfit(Outcome.NOT_FOR_US, why=why)


def test_network_and_bearer_are_not_looked_at_where_the_link_accepts_all():
    assert isinstance(read(mo(tlvs=((NETWORK, b"\x00"), (BEARER, b"\x04")))), SyncRequest)
    assert isinstance(read(mo(tlvs=((NETWORK, b"\x01"),)), accepted_network_types=(1,)), SyncRequest)


# Row 3


def test_sender_that_is_no_mdn_is_told_by_its_class_only():
    assert read(mo(source_addr="8613912345")) == unfit(Outcome.INVALID_MDN, sender="86139/10")


def test_address_rules_of_the_link_say_how_a_sender_is_read():
    national = mo(source_addr="013912345678", source_addr_ton=0)
    assert read(national, unknown_ton="national").mdn == MDN
    assert read(national).outcome is Outcome.INVALID_MDN
    assert read(mo(source_addr_npi=8), accepted_npi=(8,)).mdn == MDN
    assert read(mo(source_addr_npi=8)).outcome is Outcome.INVALID_MDN


# Row 4


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (mo(text="hello"), "not a sync payload"),
        (mo(text=""), "not a sync payload"),
        (mo(text=" " * 200), "not a sync payload"),  # padding counts for nothing
        (mo(text="K1:" + "A" * MAX_PAYLOAD_OCTETS), "too long"),
        (mo(text=b"\x05\x00\x03\x07\x02\x01K1:KEY-1", esm_class=UDHI), "one of several parts"),
        (mo(text=b"\x7fK1:KEY-1", esm_class=UDHI), "the user data header is longer than the message"),
    ],
)
def test_malformed_message_is_journalled_with_its_mdn_and_why(message, why):
    assert read(message) == unfit(Outcome.MALFORMED, mdn=MDN, why=why)


def test_longest_payload_is_read_and_one_octet_more_is_too_long():
    longest = f"K1:{'K' * 64}:{'a' * 32}:{2**63 - 1}:0123456789ABC"
    assert len(longest) == MAX_PAYLOAD_OCTETS
    assert read(mo(text=longest + " \r\n\0")).key_id == "K" * 64
    assert read(mo(text="K" * MAX_PAYLOAD_OCTETS)).why == "not a sync payload"
    assert read(mo(text="K" * (MAX_PAYLOAD_OCTETS + 1))).why == "too long"


# Ports


def to_port_by_header(port):
    return mo(text=b"\x06\x05\x04" + port.to_bytes(2, "big") + b"\x00\x00K1:KEY-1", esm_class=UDHI)


def to_port_by_tlv(port):
    return mo(tlvs=((Tag.DESTINATION_PORT, port.to_bytes(2, "big")),))


@pytest.mark.parametrize("to_port", [to_port_by_header, to_port_by_tlv])
def test_only_our_port_is_ours_where_one_is_set(to_port):
    assert isinstance(read(to_port(7000), destination_port=7000), SyncRequest)
    assert read(to_port(7001), destination_port=7000) == unfit(
        Outcome.NOT_FOR_US, mdn=MDN, why="another application port"
    )
    assert isinstance(read(to_port(7001)), SyncRequest)


def test_message_without_a_port_is_not_for_us_where_one_is_set():
    assert read(mo(), destination_port=7000).outcome is Outcome.NOT_FOR_US
    assert read(mo(), destination_port=0).outcome is Outcome.NOT_FOR_US
    assert isinstance(read(to_port_by_tlv(0), destination_port=0), SyncRequest)


def test_part_for_another_port_is_not_for_us():
    part = b"\x0b\x05\x04\x1b\x59\x00\x00\x00\x03\x07\x02\x01K1:KEY-1"
    assert read(mo(text=part, esm_class=UDHI), destination_port=7000).outcome is Outcome.NOT_FOR_US


# How the text is written, and where it is


def test_ucs2_is_read_as_text():
    assert read(mo(text="K1:KEY-1".encode("utf-16-be"), data_coding=8)).key_id == "KEY-1"
    assert read(mo(text="K1:KEY-1", data_coding=8)).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    ("coding", "reading", "octets"),
    [
        (0, "ucs2", "K1:KEY-1".encode("utf-16-be")),
        (8, "ucs2-le", "K1:KEY-1".encode("utf-16-le")),
        (8, "octets", b"K1:KEY-1"),
    ],
)
def test_link_may_read_a_data_coding_in_its_own_way(coding, reading, octets):
    message = mo(text=octets, data_coding=coding)
    assert read(message, data_coding={str(coding): reading}).key_id == "KEY-1"
    assert read(message).outcome is Outcome.MALFORMED


@pytest.mark.parametrize("coding", [0, 1, 3, 4, 0xF5, 255])
def test_other_data_codings_are_not_trusted(coding):
    assert read(mo(data_coding=coding)).key_id == "KEY-1"


@pytest.mark.parametrize("command_id", [CommandId.DELIVER_SM, CommandId.DATA_SM])
def test_text_may_be_in_message_payload(command_id):
    message = mo(text="", command_id=command_id, tlvs=((Tag.MESSAGE_PAYLOAD, b"K1:KEY-1"),))
    assert read(message).key_id == "KEY-1"


def test_two_texts_that_differ_are_malformed():
    assert read(mo(text="K1:A", tlvs=((Tag.MESSAGE_PAYLOAD, b"K1:B"),))) == unfit(
        Outcome.MALFORMED, mdn=MDN, why="short_message and message_payload differ"
    )
