"""SMSCs on Net::SMPP and on npm's smpp: what the SMSC is answered, and what is on disk then."""

from __future__ import annotations

from struct import pack

import pytest

from kmp_smsd.simulator.lab import SMPP_PASSWORD
from kmp_smsd.smpp.constants import CommandId, CommandStatus
from tests.peers.conftest import SHORT_CODE, mo
from tests.peers.peers import net_smpp, node_smpp, pdus

ROK, NEVER = CommandStatus.ESME_ROK, CommandStatus.ESME_RX_R_APPN

with_net_smpp = pytest.mark.parametrize("start_peer", [net_smpp], indirect=True)
with_node_smpp = pytest.mark.parametrize("start_peer", [node_smpp], indirect=True)


def test_each_of_many_messages_gets_its_right_answer(lab, start_peer):
    terminals = lab.terminals(60)
    peer = start_peer(lab)
    bind = peer.bound()
    assert bind["command_id"] == CommandId.BIND_TRANSCEIVER
    assert (bind["system_id"], bind["password"], bind["interface_version"]) == ("kmp", SMPP_PASSWORD, 0x34)
    orders, expected = [], []
    for mdn, key in terminals:
        orders.append((mdn, f"K1:{key}"))
        expected.append(ROK)  # bound
    for mdn, key in terminals[:30]:
        orders.append((mdn, f"K1:{key}:meter"))
        expected.append(ROK)  # already_bound
    for mdn, _ in terminals[:20]:
        orders.append((mdn, "Hello"))
        expected.append(NEVER)  # malformed
    for number in range(20):
        orders.append((f"86139{number:08d}", "K1:KEY-0001"))
        expected.append(ROK)  # not_registered
    for number in range(10):
        orders.append((f"1555{number:07d}", "K1:KEY-0001"))
        expected.append(NEVER)  # invalid_mdn
    peer.order(*(mo(number, *order) for number, order in enumerate(orders, 1)))
    assert peer.answers(*range(1, len(orders) + 1)) == expected
    assert lab.counted() == {
        "bound": 60, "already_bound": 30, "malformed": 20, "not_registered": 20, "invalid_mdn": 10,
    }  # fmt: skip
    assert lab.bindings(terminals) == dict(terminals)
    lab.wait_for(lab.nothing_due, "every delivery to be confirmed")
    held = {row["mdn"]: row["key_id"] for row in lab.platforms["metering"].holds()}
    assert held.items() >= set(terminals)


@pytest.fixture
def bound(lab, start_peer):
    """An SMSC, an installation that is bound to it, and ten terminals."""
    peer = start_peer(lab)
    peer.bound()
    return peer, lab, lab.terminals(10)


def pdu(command_id, number, body=b""):
    return {"raw": pack(">IIII", 16 + len(body), command_id, 0, number).hex() + body.hex()}


def body(source_addr, text, sm_length=None, rest=b""):
    addresses = b"\0\1\1" + source_addr + b"\0\1" + SHORT_CODE.encode() + b"\0"
    return addresses + bytes(9) + bytes((len(text) if sm_length is None else sm_length,)) + text + rest


def test_every_sequence_number_comes_back_as_it_went(bound):
    peer, lab, terminals = bound
    numbers = [1, 1000, 0x7FFFFFFE, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF]
    for number, (mdn, key) in zip(numbers, terminals, strict=False):
        peer.order(mo(number, mdn, f"K1:{key}"))
    mdn, key = terminals[-1]
    peer.order(pdu(CommandId.DELIVER_SM, 0, body(mdn.encode() + b"\0", f"K1:{key}".encode())))
    assert peer.answers(*numbers, 0) == [ROK] * (len(numbers) + 1)
    assert lab.counted() == {"bound": len(numbers) + 1}


def test_rubbish_is_answered_by_the_book_and_the_link_stays_bound(bound):
    peer, lab, terminals = bound
    (mdn, key), (other_mdn, other_key), *_ = terminals
    mdn, text = mdn.encode(), f"K1:{key}".encode()
    deliver_sm, nothing = CommandId.DELIVER_SM, None
    rubbish = [
        (deliver_sm, body(mdn + b"\0", text, sm_length=200), CommandStatus.ESME_RINVMSGLEN),
        (deliver_sm, b"\0\1\1" + mdn, CommandStatus.ESME_RINVSRCADR),  # no NUL behind the address
        (deliver_sm, body(b"8" * 40 + b"\0", text), CommandStatus.ESME_RINVSRCADR),
        (deliver_sm, b"", CommandStatus.ESME_RINVSERTYP),
        (deliver_sm, body(mdn + b"\0", text)[:-30], CommandStatus.ESME_RINVDSTADR),
        (CommandId.DATA_SM, b"\xff" * 100, CommandStatus.ESME_RINVSERTYP),
        (CommandId.SUBMIT_SM, body(mdn + b"\0", text), CommandStatus.ESME_RINVBNDSTS),
        (CommandId.BIND_RECEIVER, b"us\0us\0\0\x34\0\0\0", CommandStatus.ESME_RINVBNDSTS),
        (CommandId.OUTBIND, b"us\0us\0", CommandStatus.ESME_RINVCMDID),
        (0x00010200, b"a vendor's own", CommandStatus.ESME_RINVCMDID),
        (CommandId.ALERT_NOTIFICATION, b"\1\1" + mdn + b"\0\1\1" + mdn + b"\0", nothing),
        (CommandId.SUBMIT_SM_RESP, b"id\0", nothing),
        (CommandId.GENERIC_NACK, b"", nothing),
        (0x8ABCDEF0, b"", nothing),
    ]
    peer.order(*(pdu(command_id, number, octets) for number, (command_id, octets, _) in enumerate(rubbish, 1)))
    peer.order(mo(100, other_mdn, f"K1:{other_key}"))
    assert peer.answers(100) == [ROK]
    told = [(told["sequence_number"], told["command_status"]) for told in peer.told if "command_id" in told]
    assert told[1:] == [
        *((number, status) for number, (_, _, status) in enumerate(rubbish, 1) if status is not nothing),
        (100, ROK),
    ]
    assert len(lab.tap.wires) == 1
    assert lab.bindings(terminals) == {other_mdn: other_key}


def test_stream_that_cannot_be_cut_is_given_up_and_the_daemon_binds_again(bound):
    peer, lab, terminals = bound
    mdn, key = terminals[0]
    peer.order({"raw": "0000000c0000000500000000"})
    assert peer.answers(0, command_id=CommandId.GENERIC_NACK) == [CommandStatus.ESME_RINVCMDLEN]
    peer.bound(times=2)
    peer.order(mo(1, mdn, f"K1:{key}"))
    assert peer.answers(1) == [ROK]
    assert lab.bindings(terminals) == {mdn: key}


def test_enquire_link_is_answered_both_ways(lab_with, start_peer):
    lab = lab_with(link={"enquire_after_s": 0.2})
    peer = start_peer(lab)
    peer.bound()
    peer.order({"pdu": "enquire_link", "sequence_number": 4711})
    assert peer.answers(4711, command_id=CommandId.ENQUIRE_LINK_RESP) == [ROK]
    enquired = peer.wait_for("a second enquire_link", lambda: peer.heard(CommandId.ENQUIRE_LINK)[1:])
    assert enquired[0]["sequence_number"] == 3  # after the bind and the first
    assert len(lab.tap.wires) == 1


def test_smsc_that_unbinds_is_answered_and_bound_to_again(bound):
    peer, lab, terminals = bound
    (mdn, key), (other_mdn, other_key), *_ = terminals
    peer.order(mo(1, mdn, f"K1:{key}"), {"pdu": "unbind", "sequence_number": 2})
    assert peer.answers(2, command_id=CommandId.UNBIND_RESP) == [ROK]
    assert peer.answers(1) == [ROK]
    peer.bound(times=2)
    peer.order(mo(3, mdn, f"K1:{key}"), mo(4, other_mdn, f"K1:{other_key}"))
    assert peer.answers(3, 4) == [ROK, ROK]
    assert lab.counted() == {"bound": 2, "already_bound": 1}


def test_smsc_that_knows_no_transceivers_is_bound_to_as_a_receiver(lab_with, start_peer):
    lab = lab_with()
    terminals = lab.terminals(1)
    [(mdn, key)] = terminals
    peer = start_peer(lab, refuse={str(CommandId.BIND_TRANSCEIVER): CommandStatus.ESME_RINVCMDID})
    assert peer.bound(times=2)["command_id"] == CommandId.BIND_RECEIVER
    peer.order(mo(1, mdn, f"K1:{key}"))
    assert peer.answers(1) == [ROK]
    assert lab.bindings(terminals) == {mdn: key}
    assert lab.roles[0].stop() == 0
    assert len(peer.heard(CommandId.UNBIND)) == 1


def test_smsc_that_is_killed_and_starts_again_delivers_the_rest(bound):
    peer, lab, terminals = bound
    answered_before = terminals[:4]
    peer.order(*(mo(number, mdn, f"K1:{key}") for number, (mdn, key) in enumerate(answered_before, 1)))
    assert peer.answers(1, 2, 3, 4) == [ROK] * 4
    peer.order(*(mo(number, mdn, f"K1:{key}") for number, (mdn, key) in enumerate(terminals[4:], 5)))
    lab.tap.shut()
    peer.kill()  # whether it had any of those answers or not, it does not remember
    peer.start()
    lab.tap.open(peer.port)
    peer.bound()
    peer.order(*(mo(number, mdn, f"K1:{key}") for number, (mdn, key) in enumerate(terminals[4:], 1)))
    assert peer.answers(1, 2, 3, 4, 5, 6) == [ROK] * 6
    assert lab.bindings(terminals) == dict(terminals)
    counted = lab.counted()
    assert counted["bound"] == len(terminals)
    assert counted.keys() <= {"bound", "already_bound"}


def test_text_is_found_wherever_the_smsc_puts_it(bound):
    peer, lab, terminals = bound
    texts = [f"K1:{key}" for _, key in terminals]
    ports = bytes.fromhex("06050415811581").hex()
    forms = [
        {"short_message": texts[0], "user_message_reference": "hex:0102"},
        {"short_message": "", "message_payload": texts[1]},
        {"short_message": "hex:" + texts[2].encode("utf-16-be").hex(), "data_coding": 8},
        {"short_message": "hex:" + ports + texts[3].encode().hex(), "esm_class": 0x40, "data_coding": 4},
        {"short_message": "", "message_payload": "hex:" + ports + texts[4].encode().hex(), "esm_class": 0x40},
        {"short_message": texts[5] + " \r\n", "data_coding": 0xF1},
        {"short_message": texts[6], "receipted_message_id": "hex:3132330a00"},  # an ordinary message all the same
        {"short_message": texts[7], "esm_class": 0x04},  # the text is one of ours, but it is a receipt
    ]
    peer.order(
        *(mo(number, mdn, "", **form) for number, ((mdn, _), form) in enumerate(zip(terminals, forms, strict=False), 1))
    )
    assert peer.answers(*range(1, len(forms) + 1)) == [ROK] * len(forms)
    assert lab.counted() == {"bound": len(forms) - 1, "receipt": 1}
    assert lab.bindings(terminals) == dict(terminals[: len(forms) - 1])


@pytest.mark.parametrize("ports", [b"", bytes.fromhex("060504 1388 1f90")])
def test_reply_reaches_the_smsc_with_every_field_as_it_was_meant(lab_with, start_peer, ports):
    lab = lab_with(link={"reply": "confirmed", "bind": "transceiver"})
    [(mdn, key)] = lab.terminals(1)
    peer = start_peer(lab)
    peer.bound()
    text = {"short_message": "hex:" + (ports + f"K1:{key}".encode()).hex(), "esm_class": 0x40 if ports else 0}
    peer.order(mo(1, mdn, "", **text, data_coding=4, dest_addr_ton=3, dest_addr_npi=9))
    assert peer.answers(1) == [ROK]
    (submit,) = peer.wait_for("the reply", lambda: peer.heard(CommandId.SUBMIT_SM))
    swapped = bytes.fromhex("060504 1f90 1388") if ports else b""
    expected = {
        "source_addr": SHORT_CODE, "source_addr_ton": 3, "source_addr_npi": 9,
        "destination_addr": mdn, "dest_addr_ton": 1, "dest_addr_npi": 1,
        "esm_class": 0x40 if ports else 0, "data_coding": 4 if ports else 0,
        "service_type": "", "protocol_id": 0, "priority_flag": 0, "registered_delivery": 0,
        "replace_if_present_flag": 0, "sm_default_msg_id": 0,
        "text": (swapped + f"K1:ok:{key}:meter".encode()).hex(),
    }  # fmt: skip
    assert {name: submit[name] for name in expected} == expected
    lab.wait_for(lambda: [row["state"] for row in lab.listing("replies", "list")] == ["sent"], "its answer")
    assert lab.listing("replies", "list")[0]["message_id"] in ("perl-1", "node-1")
    assert len(peer.heard(CommandId.SUBMIT_SM)) == 1


@with_net_smpp
def test_data_sm_and_optional_parameters_of_net_smpp_are_taken(bound):
    peer, lab, terminals = bound
    (mdn, key), (other_mdn, other_key), *_ = terminals
    data_sm = {"pdu": "data_sm", "sequence_number": 1, "source_addr": mdn, "source_addr_ton": 1, "source_addr_npi": 1}
    peer.order({**data_sm, "destination_addr": SHORT_CODE, "message_payload": f"K1:{key}"})
    assert peer.answers(1, command_id=CommandId.DATA_SM_RESP) == [ROK]
    strange = {"source_port": "hex:1388", "its_reply_type": "hex:01", "sc_interface_version": "hex:34", "5120": 7}
    peer.order(mo(2, other_mdn, f"K1:{other_key}", **strange))
    assert peer.answers(2) == [ROK]
    assert lab.bindings(terminals) == {mdn: key, other_mdn: other_key}


@with_net_smpp
def test_smsc_that_enquires_before_it_answers_the_bind_is_answered(lab, start_peer):
    peer = start_peer(lab, ahead=True)
    peer.bound()
    assert peer.answers(77, command_id=CommandId.ENQUIRE_LINK_RESP) == [ROK]
    peer.order({"pdu": "enquire_link", "sequence_number": 78})
    assert peer.answers(78, command_id=CommandId.ENQUIRE_LINK_RESP) == [ROK]
    assert len(lab.tap.wires) == 1


@with_node_smpp
def test_messages_in_one_segment_with_the_bind_resp_are_answered(lab, start_peer):
    terminals = lab.terminals(20)
    peer = start_peer(lab, first=[mo(number, mdn, f"K1:{key}") for number, (mdn, key) in enumerate(terminals, 1)])
    assert peer.answers(*range(1, 21)) == [ROK] * 20
    assert lab.bindings(terminals) == dict(terminals)
    first_segment = pdus(lab.tap.wires[0].first_segment)
    assert [each.command_id for each in first_segment[:2]] == [
        CommandId.BIND_TRANSCEIVER_RESP,
        CommandId.DELIVER_SM,
    ]
