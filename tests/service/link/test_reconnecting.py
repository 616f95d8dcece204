"""When and where a link connects again, and what it says of why it is not connected."""

from __future__ import annotations

import errno

import pytest
from twisted.internet.error import (
    ConnectBindError,
    DNSLookupError,
    TimeoutError,
    getConnectError,
)
from twisted.logger import LogLevel

from kmp_smsd.service.backoff import Backoff
from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.smpp.constants import CommandId, CommandStatus
from tests.service.link.stage import MO, TEMPORARY, start


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (getConnectError((errno.ECONNREFUSED, "")), "Connection refused"),
        (getConnectError((errno.EHOSTUNREACH, "")), "No route to host"),
        (
            ConnectBindError(errno.EADDRNOTAVAIL, ""),
            "from local_address: Cannot assign requested address",
        ),
        (TimeoutError(), "no answer within connect_timeout_s"),
        (DNSLookupError("smsc.example"), "DNS lookup failed: smsc.example"),
    ],
)
def test_why_there_is_no_connection_is_told_in_the_words_of_the_kernel(smsc, error, told):
    smsc.refuse_connection(error)
    assert smsc.link.state.last_error == f"no connection: {told}"


def test_link_comes_back_for_ever_at_growing_waits():
    smsc = start(reconnect_min_s=1.0, reconnect_max_s=8.0)
    waits = []
    for _ in range(6):
        smsc.refuse_connection()
        before, tries = smsc.reactor.seconds(), len(smsc.tries)
        while len(smsc.tries) == tries:
            smsc.reactor.advance(0.25)
        waits.append(smsc.reactor.seconds() - before)
    assert waits == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize(("lived_s", "wait_s"), [(59, 4.0), (61, 1.0)])
def test_only_a_lasting_bind_makes_the_next_wait_short_again(lived_s, wait_s):
    smsc = start(reconnect_min_s=1.0, stable_after_s=60.0, enquire_after_s=0)
    for wait in (1.0, 2.0):
        smsc.refuse_connection()
        smsc.reactor.advance(wait)
    smsc.bind()
    smsc.pass_time(lived_s)
    smsc.lose()
    smsc.reactor.advance(wait_s - 0.1)
    assert len(smsc.tries) == 3
    smsc.reactor.advance(0.1)
    assert len(smsc.tries) == 4


def test_hosts_take_turns():
    smsc = start(hosts=("192.0.2.1:1", "192.0.2.2:2"), reconnect_max_s=1.0)
    for _ in range(3):
        smsc.refuse_connection()
        smsc.reactor.advance(1.0)
    assert smsc.tries == [("192.0.2.1", 1), ("192.0.2.2", 2), ("192.0.2.1", 1), ("192.0.2.2", 2)]


@pytest.mark.parametrize(
    ("status", "wait_s", "is_alarm"),
    [
        (CommandStatus.ESME_RINVPASWD, 450.0, True),
        (CommandStatus.ESME_RINVSYSID, 450.0, True),
        (CommandStatus.ESME_RINVSYSTYP, 450.0, True),
        (CommandStatus.ESME_RPROHIBITED, 450.0, True),
        (CommandStatus.ESME_RALYBND, 90.0, False),
        (CommandStatus.ESME_RBINDFAIL, 90.0, False),
        (CommandStatus.ESME_RTHROTTLED, 1.0, False),
    ],
)
def test_wait_after_a_refused_bind_fits_its_reason(events, status, wait_s, is_alarm):
    smsc = start(
        reconnect_refused_s=300.0, reconnect_already_bound_s=60.0
    )  # and half of it more, by the jitter of these tests
    smsc.accept()
    smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, b"", status)
    smsc.lose()
    smsc.reactor.advance(wait_s - 0.1)
    assert len(smsc.tries) == 1
    smsc.reactor.advance(0.1)
    assert len(smsc.tries) == 2
    assert status.name in smsc.link.state.last_error
    assert any(event["log_level"] is LogLevel.error for event in events) == is_alarm


def test_unbind_of_the_smsc_is_answered_and_the_link_comes_back(smsc):
    smsc.bind()
    smsc.say(CommandId.UNBIND, 9)
    assert smsc.heard() == [(CommandId.UNBIND_RESP, 0, 9)]
    assert smsc.transport.disconnecting
    smsc.lose()
    assert smsc.link.state.word is LinkWord.WAITING
    smsc.reactor.advance(1.0)
    assert len(smsc.tries) == 2


def test_backing_off_unbinds_leaves_new_messages_to_the_smsc_and_comes_back(smsc):
    smsc.bind()
    smsc.link.back_off()
    smsc.link.back_off()
    assert smsc.heard() == [(CommandId.UNBIND, 0, 2)]
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, TEMPORARY, 5)]
    assert smsc.receiver.received == []
    smsc.say(CommandId.UNBIND_RESP, 2)
    smsc.lose()
    smsc.reactor.advance(1.0)
    smsc.bind()
    assert smsc.link.state.word is LinkWord.BOUND_TRANSCEIVER


def test_backoff_is_jittered_between_a_half_and_all_of_its_step():
    assert [Backoff(2.0, 100.0, lambda: 0.0).next_s(), Backoff(2.0, 100.0, lambda: 1.0).next_s()] == [1.0, 2.0]
