"""Intake and its links: real ones, and connections that are at fault."""

from __future__ import annotations

import gc

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from kmp_smsd.service.link import SmscLink
from kmp_smsd.simulator.deliver import deliver_sm_body, with_header
from kmp_smsd.smpp.constants import RESPONSE, CommandId
from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import MDN, SmscByHand, alarms, headers, link, mo
from tests.service.intake.stage import OK, TEMPORARY

# With a real link


class Linked:
    """An intake, a real link and its connection in memory."""

    def __init__(self, at):
        self.at = at
        self.link = SmscLink(
            "north", link(), "", at.intake, at.reactor, monotonic=at.reactor.seconds, jitter=lambda: 1.0
        )
        at.intake.attach(self.link)
        self.link.startService()
        self.transport = StringTransport()
        self.transport.setTcpNoDelay = lambda _: None
        self.protocol = at.reactor.tcpClients[-1][2].buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.say(CommandId.BIND_TRANSCEIVER | RESPONSE, 1, b"smsc\0")
        self.heard()

    def say(self, command_id, number, body=b""):
        self.protocol.dataReceived(with_header(command_id, number, body, 0))

    def heard(self):
        return headers(self.transport)


MO_BODY = deliver_sm_body(MDN, "K1:KEY-1")


def test_link_is_alive_while_the_store_hangs(at):
    linked = Linked(at)
    linked.say(CommandId.DELIVER_SM, 5, MO_BODY)
    at.reactor.pass_time(1)
    linked.say(CommandId.ENQUIRE_LINK, 6)
    assert linked.heard() == [(CommandId.ENQUIRE_LINK_RESP, 0, 6)]
    at.run()
    assert linked.heard() == [(CommandId.DELIVER_SM_RESP, OK, 5)]


def test_connection_that_is_gone_gets_nothing(at):
    linked = Linked(at)
    linked.say(CommandId.DELIVER_SM, 5, MO_BODY)
    linked.protocol.connectionLost(Failure(ConnectionDone()))
    at.reactor.pass_time(3)
    at.run()
    assert linked.heard() == []
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.run()
    assert smsc.statuses() == [(1, OK)]


def test_link_unbinds_when_the_store_keeps_failing(start):
    at = start(north=link(failures_before_unbind=1))
    linked = Linked(at)
    at.inbox_fails[:] = [StoreUnavailable("disk full")]
    for number in range(5, 10):
        linked.say(CommandId.DELIVER_SM, number, MO_BODY)
    at.reactor.pass_time(3)
    *answers, unbind = linked.heard()
    assert answers == [(CommandId.DELIVER_SM_RESP, TEMPORARY, number) for number in range(5, 10)]
    assert unbind == (CommandId.UNBIND, 0, 2)


# A fault at one link


class Faulty(SmscByHand):
    """A connection whose answers cannot be sent, for a fault of ours."""

    def answer(self, _pairs):
        raise ValueError("one connection is at fault")


def test_connection_at_fault_costs_no_other_its_answers(start, events):
    at = start(north=link(), south=link())
    south = SmscByHand("south")
    at.intake.messages(SmscByHand("north"), (mo(0),))
    at.intake.messages(Faulty("north"), (mo(1),))
    at.intake.messages(south, (mo(2),))
    at.run()
    assert [len(batch) for batch in at.batches] == [1, 2]
    assert south.statuses() == [(2, OK)]
    assert alarms(events) == ["link {link}: messages that could not be answered: {count}"]


def test_connection_at_fault_holds_up_nobody_where_the_inbox_fails(start):
    at = start(north=link(), south=link())
    south = SmscByHand("south")
    at.inbox_fails.append(StoreUnavailable("full"))
    at.intake.messages(Faulty("north"), (mo(1),))
    at.intake.messages(south, (mo(2),))
    at.run()
    assert south.statuses() == [(2, OK)]


def test_connection_at_fault_costs_no_other_its_answers_when_they_are_late(start):
    at = start(north=link(), south=link())
    bad, south = Faulty("north"), SmscByHand("south")
    at.intake.messages(SmscByHand("north"), (mo(0),))
    at.intake.messages(bad, (mo(1),))
    at.intake.messages(south, (mo(2),))
    at.reactor.pass_time(20)
    assert south.statuses() == [(2, TEMPORARY)]


def test_what_cannot_be_taken_for_settling_is_not_answered_and_holds_up_nobody(start, monkeypatch, events):
    at = start()
    north = SmscByHand("north")
    taken = []
    take = at.intake.settler.take

    def failing_once(received):
        taken.append(received)
        if len(taken) == 1:
            raise ValueError("a fault of ours")
        take(received)

    monkeypatch.setattr(at.intake.settler, "take", failing_once)
    at.intake.messages(north, (mo(1),))
    at.intake.messages(north, (mo(2),))
    at.run()
    assert north.statuses() == [(2, OK)]
    gc.collect()  # Twisted says it then: here, and not while another test listens
    assert [str(event["log_failure"].value) for event in events if "log_failure" in event] == ["a fault of ours"]
