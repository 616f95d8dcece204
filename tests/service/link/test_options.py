"""Which options a session and its socket are told, and that the password is told to nobody else."""

from __future__ import annotations

from kmp_smsd.smpp.constants import CommandId, CommandStatus
from kmp_smsd.smpp.pdu import Bind
from kmp_smsd.smpp.session import SessionSettings
from tests.service.link.stage import Smscs, start


def test_link_leaves_from_the_local_address_that_it_is_told():
    assert start(local_address="192.0.2.9").reactor.tcpClients[0][4] == ("192.0.2.9", 0)


EVERY_OPTION = {
    "hosts": ("a.example:1", "[2001:db8::1]:2"),
    "local_address": "192.0.2.9",
    "system_id": "kmp",
    "allow_long_password": True,
    "bind": "receiver",
    "system_type": "TYPE",
    "interface_version": 0x50,
    "addr_ton": 1,
    "addr_npi": 2,
    "address_range": "1069",
    "connect_timeout_s": 11.5,
    "bind_timeout_s": 12.5,
    "enquire_after_s": 13.5,
    "response_timeout_s": 14.5,
    "pdu_timeout_s": 15.5,
    "unbind_timeout_s": 16.5,
    "max_pdu_octets": 1024,
}


def test_session_and_socket_are_told_every_option_of_the_link():
    smsc = start(**EVERY_OPTION)
    assert smsc.link._sessions == [
        SessionSettings(
            bind=Bind(
                command_id=CommandId.BIND_RECEIVER,
                system_id="kmp",
                password="secret",
                system_type="TYPE",
                interface_version=0x50,
                addr_ton=1,
                addr_npi=2,
                address_range="1069",
                allow_long_password=True,
            ),
            bind_timeout_s=12.5,
            enquire_after_s=13.5,
            response_timeout_s=14.5,
            pdu_timeout_s=15.5,
            unbind_timeout_s=16.5,
            max_pdu_octets=1024,
        )
    ]
    host, port, _, timeout, bind_address = smsc.reactor.tcpClients[0]
    assert (host, port, timeout, bind_address) == ("a.example", 1, 11.5, ("192.0.2.9", 0))


def test_session_waits_as_long_as_the_options_say_where_it_is_told_nothing():
    (told, _), by_itself = Smscs().link._sessions, SessionSettings(bind=Bind(
        command_id=CommandId.BIND_TRANSCEIVER, system_id="kmp", password="secret"
    ))  # fmt: skip
    assert told == by_itself


def test_password_is_neither_shown_nor_logged(smsc, events):
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", CommandStatus.ESME_RINVPASWD)
    smsc.lose()
    assert events
    assert "secret" not in repr(vars(smsc.link)) + repr(smsc.link.state) + repr(events)
