"""Transceiver or receiver: which one is tried, and what an SMSC that takes no transceiver gets."""

from __future__ import annotations

import pytest

from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.smpp.constants import CommandId, CommandStatus
from tests.service.link.stage import start


def bind_sent(smsc):
    """Return the bind on the connection that is being made now."""
    smsc.accept()
    return [command_id for command_id, _, _ in smsc.heard()]


NO_TRANSCEIVER = [
    (CommandId.BIND_TRANSCEIVER_RESP, CommandStatus.ESME_RINVCMDID),
    (CommandId.BIND_TRANSCEIVER_RESP, CommandStatus.ESME_RINVBNDSTS),
    (CommandId.GENERIC_NACK, CommandStatus.ESME_RINVCMDID),
    (CommandId.GENERIC_NACK, CommandStatus.ESME_RUNKNOWNERR),
]


@pytest.mark.parametrize(("answer", "status"), NO_TRANSCEIVER)
def test_smsc_that_takes_no_transceiver_gets_a_receiver(smsc, answer, status):
    smsc.accept()
    smsc.say(answer, 1, b"", status)
    assert smsc.transport.disconnecting
    smsc.lose()
    smsc.reactor.advance(1.0)
    smsc.bind(CommandId.BIND_RECEIVER)
    assert smsc.link.state.word is LinkWord.BOUND_RECEIVER


def test_smsc_that_is_silent_about_a_transceiver_gets_a_receiver():
    smsc = start(bind_timeout_s=5.0)
    smsc.accept()
    smsc.pass_time(5)
    smsc.lose()
    smsc.reactor.advance(1.0)
    assert bind_sent(smsc) == [CommandId.BIND_RECEIVER]


def refuse_transceiver(smsc):
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", CommandStatus.ESME_RINVCMDID)
    smsc.lose()
    smsc.reactor.advance(1.0)


@pytest.mark.parametrize(("lived_s", "mode"), [(29, CommandId.BIND_RECEIVER), (31, CommandId.BIND_TRANSCEIVER)])
def test_transceiver_is_tried_again_after_a_receiver_that_lasted(lived_s, mode):
    smsc = start(stable_after_s=30.0, enquire_after_s=0)
    refuse_transceiver(smsc)
    smsc.bind(CommandId.BIND_RECEIVER)
    smsc.pass_time(lived_s)
    smsc.lose()
    smsc.reactor.advance(2.0)
    assert bind_sent(smsc) == [mode]


def test_transceiver_is_tried_again_where_a_receiver_is_not_taken_either(smsc):
    refuse_transceiver(smsc)
    smsc.accept()
    smsc.say(CommandId.BIND_RECEIVER_RESP, 1, b"", CommandStatus.ESME_RINVCMDID)
    smsc.lose()
    smsc.reactor.advance(2.0)
    assert bind_sent(smsc) == [CommandId.BIND_TRANSCEIVER]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 503 Unavailable"])
def test_connection_that_is_lost_before_the_bind_is_answered_says_nothing_about_transceivers(smsc, said):
    for wait_s in (1.0, 2.0, 4.0):
        smsc.accept()
        smsc.protocol.dataReceived(said)
        smsc.lose()
        smsc.reactor.advance(wait_s)
    assert bind_sent(smsc) == [CommandId.BIND_TRANSCEIVER]


def test_refusal_for_another_reason_moves_on_to_the_next_host():
    smsc = start(hosts=("192.0.2.1:1", "192.0.2.2:2"))
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", CommandStatus.ESME_RUNKNOWNERR)
    smsc.lose()
    smsc.reactor.advance(1.0)
    assert smsc.tries[-1] == ("192.0.2.2", 2)
    assert bind_sent(smsc) == [CommandId.BIND_TRANSCEIVER]


@pytest.mark.parametrize(
    ("bind", "command_ids"),
    [
        ("transceiver", [CommandId.BIND_TRANSCEIVER] * 2),
        ("receiver", [CommandId.BIND_RECEIVER] * 2),
        ("auto", [CommandId.BIND_TRANSCEIVER, CommandId.BIND_RECEIVER]),
    ],
)
def test_bind_says_in_which_modes_is_tried(bind, command_ids):
    smsc = start(bind=bind)
    tried = bind_sent(smsc)
    smsc.say(CommandId.GENERIC_NACK, 1, b"", CommandStatus.ESME_RINVCMDID)
    smsc.lose()
    smsc.reactor.advance(1.0)
    assert tried + bind_sent(smsc) == command_ids
