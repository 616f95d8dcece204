"""Draining, stopping and halting a link, and going on again."""

from __future__ import annotations

from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.smpp.constants import CommandId
from tests.service.link.stage import MO, TEMPORARY, start

# Draining and stopping


def test_draining_answers_what_is_in_hand_then_unbinds_and_closes(smsc):
    smsc.bind()
    smsc.say(CommandId.DELIVER_SM, 5, MO)
    ended = []
    smsc.link.drain().addCallback(ended.append)
    smsc.say(CommandId.DELIVER_SM, 6, MO)
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, TEMPORARY, 6)]
    ((connection, message),) = smsc.receiver.received
    connection.answer([(message, 0)])
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, 0, 5), (CommandId.UNBIND, 0, 2)]
    smsc.say(CommandId.DELIVER_SM, 7, MO)
    smsc.say(CommandId.ENQUIRE_LINK, 8)
    assert smsc.heard() == [(CommandId.DELIVER_SM_RESP, TEMPORARY, 7), (CommandId.ENQUIRE_LINK_RESP, 0, 8)]
    assert not smsc.transport.disconnecting
    smsc.say(CommandId.UNBIND_RESP, 2)
    assert smsc.transport.disconnecting
    assert ended == []
    smsc.lose()
    assert ended == [None]
    assert smsc.link.state.word is LinkWord.STOPPED
    smsc.pass_time(300)
    assert len(smsc.tries) == 1


def test_draining_ends_in_time_where_the_smsc_does_not_answer():
    smsc = start(unbind_timeout_s=10.0)
    smsc.bind()
    smsc.link.drain()
    smsc.pass_time(9.5)
    assert not smsc.transport.disconnecting
    smsc.pass_time(0.5)
    assert smsc.transport.disconnecting


def test_draining_a_link_that_waits_ends_at_once_for_everybody_who_asked(smsc):
    ended = []
    smsc.refuse_connection()
    smsc.link.drain().addCallback(ended.append)
    smsc.link.drain().addCallback(ended.append)
    assert ended == [None, None]
    assert smsc.reactor.getDelayedCalls() == []


def test_draining_a_link_that_connects_gives_the_try_up(smsc):
    ended = []
    connector = smsc.reactor.connectors[-1]
    smsc.link.drain().addCallback(ended.append)
    assert connector.stoppedConnecting
    smsc.refuse_connection()
    assert ended == [None]
    assert smsc.reactor.getDelayedCalls() == []


def test_stopping_the_service_drains_and_starting_it_again_connects(smsc):
    smsc.bind()
    smsc.link.stopService()
    assert smsc.heard() == [(CommandId.UNBIND, 0, 2)]
    smsc.lose()
    smsc.link.startService()
    assert len(smsc.tries) == 2


def test_a_connection_that_is_gone_leaves_no_timer_behind(smsc):
    smsc.bind()
    smsc.link.drain()
    smsc.lose()
    assert smsc.reactor.getDelayedCalls() == []


# Halts


def test_halted_link_drains_and_stays_so_whoever_starts_it(smsc):
    smsc.bind()
    halted = []
    smsc.link.halt().addCallback(halted.append)
    assert smsc.heard() == [(CommandId.UNBIND, 0, 2)]
    smsc.lose()
    assert (smsc.link.state.word, halted) == (LinkWord.STOPPED, [None])
    smsc.link.startService()
    smsc.pass_time(300)
    assert len(smsc.tries) == 1


def test_link_that_goes_on_connects_again(smsc):
    smsc.bind()
    smsc.link.halt()
    smsc.lose()
    smsc.link.go_on()
    assert len(smsc.tries) == 2
    smsc.bind()
    smsc.link.go_on()
    assert smsc.link.state.word is LinkWord.BOUND_TRANSCEIVER


def test_link_that_is_to_go_on_while_it_drains_connects_after_that(smsc):
    smsc.bind()
    smsc.link.halt()
    smsc.link.go_on()
    smsc.link.go_on()
    assert len(smsc.tries) == 1
    smsc.lose()
    assert len(smsc.tries) == 2


def test_link_that_was_halted_again_meanwhile_stays_away(smsc):
    smsc.bind()
    smsc.link.halt()
    smsc.link.go_on()
    smsc.link.halt()
    smsc.lose()
    smsc.pass_time(300)
    assert len(smsc.tries) == 1
