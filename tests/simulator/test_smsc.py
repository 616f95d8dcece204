from __future__ import annotations

import socket
import time
from concurrent.futures import wait

from kmp_smsd.simulator.deliver import deliver_sm_body, with_header
from kmp_smsd.simulator.server import SmscServer
from kmp_smsd.simulator.smsc import SmscSettings
from kmp_smsd.smpp.codec import decode_deliver_sm
from kmp_smsd.smpp.constants import CommandId, CommandStatus, Tag
from kmp_smsd.smpp.events import BindRefused, Bound, Closed, Messages, PeerUnbound
from kmp_smsd.smpp.pdu import Bind
from kmp_smsd.smpp.session import EsmeSession, SessionSettings
from kmp_smsd.smpp.states import State

WITHIN_S = 10.0


class Esme:
    """A session on a blocking socket."""

    def __init__(self, port, command_id=CommandId.BIND_RECEIVER, system_id="esme", password="secret"):
        bind = Bind(command_id=command_id, system_id=system_id, password=password)
        self.session = EsmeSession(SessionSettings(bind=bind))
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)
        self.session.connection_made(time.monotonic())
        self.send()
        self.held = []
        self.first, *self.held = self.read()  # a message may come in the segment of the bind's answer

    def send(self):
        self.socket.sendall(self.session.data_to_send())

    def read(self):
        """Return the events of the next octets; none once the SMSC has closed the connection."""
        events, self.held = self.held, []
        while not events and (data := self.socket.recv(65536)):
            events = self.session.receive_data(data, time.monotonic())
            self.send()
        return events

    def messages(self, count):
        """Return that many messages."""
        found = []
        while len(found) < count:
            events = self.read()
            assert events, "the SMSC closed the connection"
            found += [message for event in events if isinstance(event, Messages) for message in event.messages]
        return found

    def answer(self, *pairs):
        self.session.answer(pairs)
        self.send()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def test_account_is_checked_and_a_transceiver_may_be_refused():
    with SmscServer(SmscSettings(takes_transceivers=False)) as server:
        refusals = {
            CommandStatus.ESME_RINVCMDID: {"command_id": CommandId.BIND_TRANSCEIVER},
            CommandStatus.ESME_RINVSYSID: {"system_id": "other"},
            CommandStatus.ESME_RINVPASWD: {"password": "wrong"},
        }
        for status, fields in refusals.items():
            with Esme(server.port, **fields) as esme:
                assert isinstance(esme.first, BindRefused)
                assert esme.first.command_status == status
        with Esme(server.port) as esme:
            assert esme.first == Bound(CommandId.BIND_RECEIVER, "simulator", 0x34)
        assert (server.counts.binds, server.counts.binds_refused) == (1, 3)


def test_message_is_delivered_and_its_last_status_told():
    with SmscServer() as server, Esme(server.port) as esme:
        for status in (CommandStatus.ESME_ROK, CommandStatus.ESME_RX_R_APPN):
            told = server.send("8613912345678", "K1:A", destination_addr="1069")
            (message,) = esme.messages(1)
            assert (message.source_addr, message.destination_addr) == ("8613912345678", "1069")
            assert message.short_message == b"K1:A"
            esme.answer((message, status))
            assert told.result(WITHIN_S) == status


def test_no_more_messages_are_out_than_the_window_has_room_for():
    with SmscServer(SmscSettings(window=2)) as server, Esme(server.port) as esme:
        told = [server.send("123", str(number)) for number in range(5)]
        seen = []
        while len(seen) < 5:
            got = esme.messages(1)
            seen += [message.short_message for message in got]
            assert server.counts.sent <= len(seen) + 1
            esme.answer(*((message, 0) for message in got))
        assert seen == [b"0", b"1", b"2", b"3", b"4"]
        assert not wait(told, WITHIN_S).not_done


def test_message_put_off_is_sent_again_after_the_retry_time():
    with SmscServer(SmscSettings(retry_after_s=0.1)) as server, Esme(server.port) as esme:
        told = server.send("123", "K1:A")
        for status in (CommandStatus.ESME_RX_T_APPN, CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_ROK):
            (message,) = esme.messages(1)
            assert not told.done()
            esme.answer((message, status))
        assert told.result(WITHIN_S) == CommandStatus.ESME_ROK
        assert (server.counts.sent, server.counts.put_off, server.counts.accepted) == (3, 2, 1)


def test_message_without_an_answer_goes_to_the_next_session():
    with SmscServer() as server:
        told = server.send("123", "K1:A")
        with Esme(server.port) as esme:
            esme.messages(1)
        with Esme(server.port) as esme:
            esme.answer(*((message, 0) for message in esme.messages(1)))
            assert told.result(WITHIN_S) == CommandStatus.ESME_ROK
        assert server.counts.lost == 1


def test_message_without_an_answer_in_time_is_sent_again():
    with SmscServer(SmscSettings(answer_within_s=0.1, retry_after_s=0.1)) as server, Esme(server.port) as esme:
        told = server.send("123", "K1:A")
        esme.messages(1)
        esme.answer(*((message, 0) for message in esme.messages(1)))
        assert told.result(WITHIN_S) == CommandStatus.ESME_ROK


def test_esme_that_is_unbound_answers_first_and_is_then_disconnected():
    with SmscServer() as server, Esme(server.port) as esme:
        told = server.send("123", "K1:A")
        (message,) = esme.messages(1)
        server.unbind()
        assert server.bound == 0
        assert esme.read() == [PeerUnbound()]
        esme.answer((message, 0))
        assert told.result(WITHIN_S) == 0
        assert esme.session.state is State.CLOSED
        assert esme.socket.recv(1) == b""


def test_enquire_links_of_the_smsc_are_counted_as_they_are_answered():
    with SmscServer(SmscSettings(enquire_link_s=0.05)) as server, Esme(server.port) as esme:
        deadline = time.monotonic() + WITHIN_S
        while not server.counts.enquire_links_answered:
            assert time.monotonic() < deadline
            esme.session.receive_data(esme.socket.recv(65536), 0.0)
            esme.send()


def test_esme_may_unbind():
    with SmscServer() as server, Esme(server.port) as esme:
        esme.session.unbind(time.monotonic())
        esme.send()
        assert esme.read() == [Closed("unbound by us")]
        assert server.bound == 0


def test_stored_messages_are_delivered_in_order_and_counted():
    with SmscServer() as server, Esme(server.port) as esme:
        server.store(deliver_sm_body("123", str(number)) for number in range(5))
        messages = esme.messages(5)
        assert [message.short_message for message in messages] == [b"0", b"1", b"2", b"3", b"4"]
        assert server.waiting == 5
        esme.answer(*((message, 0) for message in messages))
        deadline = time.monotonic() + WITHIN_S
        while server.counts.accepted < 5:
            assert time.monotonic() < deadline
        assert server.waiting == 0


def test_server_starts_again_on_its_port():
    server = SmscServer().start()
    port = server.port
    server.stop()
    with server, Esme(port) as esme:
        assert isinstance(esme.first, Bound)


def test_long_text_goes_into_message_payload_and_ucs2_is_written():
    long = decode_deliver_sm(with_header(CommandId.DELIVER_SM, 1, deliver_sm_body("1", "x" * 300)), 1)
    assert (long.short_message, long.tlv(Tag.MESSAGE_PAYLOAD)) == (b"", [b"x" * 300])
    wide = decode_deliver_sm(with_header(CommandId.DELIVER_SM, 1, deliver_sm_body("1", "A", data_coding=8)), 1)
    assert wide.short_message == b"\0A"
