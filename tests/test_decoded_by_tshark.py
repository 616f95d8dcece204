"""What we send is what Wireshark's authors understand by SMPP, too."""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack, unpack_from

import pytest

from kmp_smsd.smpp.constants import RESPONSE, CommandId, CommandStatus
from kmp_smsd.smpp.events import Messages
from kmp_smsd.smpp.pdu import BINDS, Bind
from kmp_smsd.smpp.session import EsmeSession, SessionSettings
from kmp_smsd.smpp.submit import SubmitSm, relative_time
from tests.recording import SENT, Stream
from tests.tshark import Seen, dissect, require_tshark

HEADER_OCTETS = 16
DELIVER_SM = bytes.fromhex("00 0101 383633313331 00 0001 3130363930303030 00 00 00 00 00 00 00 00 00 00 04 4b313a41")
DATA_SM = bytes.fromhex("00 0101 383633313331 00 0001 3130363930303030 00 00 00 00 0424 0004 4b313a41")
ADDRESSES = {
    "source_addr_ton": 0, "source_addr_npi": 1, "source_addr": "10690000",
    "dest_addr_ton": 1, "dest_addr_npi": 1, "destination_addr": "8613912345678",
}  # fmt: skip
SUBMITS = (
    SubmitSm(**ADDRESSES, short_message=b"K1:ok:A:meter"),
    SubmitSm(
        **ADDRESSES,
        esm_class=0x40,
        data_coding=4,
        validity_period=relative_time(3600),
        short_message=bytes.fromhex("06050413881f90") + b"K1:ok:A:meter",
    ),
)
OURS = {  # with other responses we only refuse
    "bind_receiver",
    "bind_transmitter",
    "bind_transceiver",
    "submit_sm",
    "deliver_sm_resp",
    "data_sm_resp",
    "enquire_link",
    "enquire_link_resp",
    "unbind",
    "unbind_resp",
    "generic_nack",
}


def pdu(command_id, number, body=b"", status=0):
    return pack(">IIII", HEADER_OCTETS + len(body), command_id, status, number) + body


def messages_of(events):
    return [message for event in events if isinstance(event, Messages) for message in event.messages]


def say_everything(bind):
    """Sessions that hear every kind of request, and end in each of three ways."""
    bind_resp = pdu(bind.command_id | RESPONSE, 1, b"smsc\0")
    unfit = b"".join(pdu(command, 100) for command in (0x15, 0x4, 0x21, 0xB, 0x10200, 0x5, 0x103))
    fit = pdu(CommandId.DELIVER_SM, 0x7FFFFFFF, DELIVER_SM) + pdu(CommandId.DATA_SM, 0x80000000, DATA_SM)
    for end in (
        lambda session: session.unbind(41.0),
        lambda session: session.receive_data(pdu(CommandId.UNBIND, 0xFFFFFFFF), 41.0),
        lambda session: session.receive_data(b"HTTP/1.1 400 Bad Request", 41.0),
    ):
        session = EsmeSession(SessionSettings(bind=bind, enquire_after_s=30.0))
        session.connection_made(0.0)
        events = session.receive_data(bind_resp + unfit + fit, 1.0)
        statuses = (CommandStatus.ESME_RX_T_APPN, CommandStatus.ESME_ROK)
        session.answer(zip(messages_of(events), statuses, strict=False))
        for submit in SUBMITS:
            session.submit(submit, 1.0)
        session.check_timers(40.0)
        end(session)
        session.data_to_send()


def sent(streams: Iterable[Stream]) -> list[Seen]:
    """The PDUs as our own words would have it."""
    found = []
    for number, stream in enumerate(streams):
        octets = bytes(stream)
        at = 0
        while at + HEADER_OCTETS <= len(octets):
            length, command_id, status, sequence_number = unpack_from(">IIII", octets, at)
            if at + length > len(octets):
                break
            at += length
            command = CommandId(command_id).name.lower()
            found.append(Seen(number, length, command, status, sequence_number))
        assert at == len(octets) or stream.heard, f"a PDU that is not whole: {octets[at:].hex()}"
    return found


@pytest.mark.last
def test_every_pdu_that_we_sent_in_this_run_is_decoded_by_tshark(tmp_path):
    require_tshark()
    for mode in BINDS:
        say_everything(Bind(command_id=mode, system_id="kmp", password="secret", address_range="^1069"))
    streams = SENT.streams()
    expected = sent(streams)
    assert {seen.command for seen in expected} >= OURS
    seen, faults = dissect((stream.writes for stream in streams), tmp_path / "sent.pcap")
    assert not faults
    assert seen == expected


def test_damaged_pdus_are_found_out_by_tshark(tmp_path):
    require_tshark()
    session = EsmeSession(SessionSettings(bind=Bind(command_id=CommandId.BIND_RECEIVER, system_id="kmp")))
    session.connection_made(0.0)
    bind = session.data_to_send()
    no_final_nul = bind[:-1] + b"x"
    too_short = pack(">I", len(bind) - 4) + bind[4:]
    cut = pack(">I", len(bind) - 3) + bind[4:-3]
    streams = [[octets + pdu(CommandId.ENQUIRE_LINK, 2)] for octets in (bind, no_final_nul, too_short, cut)]
    seen, faults = dissect(streams, tmp_path / "damaged.pcap")
    assert seen[:2] == sent([Stream(streams[0])])
    assert [fault.split(":")[0] for fault in faults] == ["connection 1", "connection 2", "connection 3"]
