"""Replies are submitted by a transceiver or by the transmitter of a pair, and are answered or unknown."""

from __future__ import annotations

import pytest

from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.smpp.constants import CommandId, CommandStatus
from kmp_smsd.smpp.events import SubmitAnswered
from kmp_smsd.smpp.submit import SubmitSm
from tests.service.link.stage import MO, Smscs, start

SUBMIT = SubmitSm(
    source_addr_ton=0,
    source_addr_npi=1,
    source_addr="10690001",
    dest_addr_ton=1,
    dest_addr_npi=1,
    destination_addr="8613912345678",
    short_message=b"K1:ok:A:meter",
)


class Pair(Smscs):
    """A receiver and its transmitter; `use` chooses the one that the other methods speak to."""

    def __init__(self, **options):
        super().__init__(bind="pair", **options)
        self.receiving = self.link
        self.transmitting = SmscLink(
            "north (transmitter)",
            self.link.options,
            "secret",
            self.receiver,
            self.reactor,
            receiver_of_pair=self.link,
            monotonic=self.reactor.seconds,
            jitter=lambda: 1.0,
        )
        self.ends = {}

    def connect(self, one, mode):
        """Have the link begin to connect, and bind."""
        one.startService()
        self.bind(mode)
        self.ends[one] = self.protocol, self.transport

    def bind_both(self):
        self.connect(self.receiving, CommandId.BIND_RECEIVER)
        self.connect(self.transmitting, CommandId.BIND_TRANSMITTER)

    def use(self, one):
        self.protocol, self.transport = self.ends[one]


def test_transceiver_submits_and_tells_what_became_of_it(smsc):
    told = []
    assert not smsc.link.can_submit
    assert not smsc.link.submit(SUBMIT, told.append)
    smsc.bind()
    assert smsc.link.can_submit
    assert all(smsc.link.submit(SUBMIT, told.append) for _ in range(3))
    assert smsc.heard() == [(CommandId.SUBMIT_SM, 0, number) for number in (2, 3, 4)]
    smsc.say(CommandId.SUBMIT_SM_RESP, 3, b"id-3\0")
    smsc.say(CommandId.GENERIC_NACK, 2, status=0x58)
    assert told == [SubmitAnswered(3, 0, "id-3"), SubmitAnswered(2, 0x58, "")]
    smsc.lose()
    assert told[2:] == [None]
    assert not smsc.link.can_submit


def test_submit_without_an_answer_is_told_as_unknown_and_the_link_stays():
    smsc, told = start(response_timeout_s=2.0, enquire_after_s=0), []
    smsc.bind()
    smsc.link.submit(SUBMIT, told.append)
    smsc.pass_time(3)
    assert told == [None]
    smsc.say(CommandId.SUBMIT_SM_RESP, 2, b"id\0")
    assert told == [None]
    assert smsc.link.state.traffic.bad_pdus == 1
    assert smsc.link.can_submit


def test_link_that_drains_or_whose_smsc_does_not_read_submits_nothing(smsc):
    smsc.bind()
    smsc.protocol.pauseProducing()
    assert not smsc.link.can_submit
    smsc.protocol.resumeProducing()
    assert smsc.link.can_submit
    told = []
    smsc.link.submit(SUBMIT, told.append)
    smsc.link.drain()
    assert not smsc.link.submit(SUBMIT, told.append)
    assert smsc.heard() == [(CommandId.SUBMIT_SM, 0, 2)]
    smsc.say(CommandId.SUBMIT_SM_RESP, 2, b"id\0")
    assert told == [SubmitAnswered(2, 0, "id")]
    assert smsc.heard() == [(CommandId.UNBIND, 0, 3)]


@pytest.mark.parametrize("end", [SmscLink.drain, SmscLink.back_off])
def test_answers_to_submits_are_awaited_before_unbinding_but_not_for_ever(end):
    """Some SMSCs answer unbind first, and close."""
    smsc, told = start(unbind_timeout_s=5.0), []
    smsc.bind()
    smsc.link.submit(SUBMIT, told.append)
    smsc.link.submit(SUBMIT, told.append)
    smsc.heard()
    end(smsc.link)
    smsc.say(CommandId.SUBMIT_SM_RESP, 2, b"id\0")
    assert smsc.heard() == []
    smsc.pass_time(4.5)
    assert not smsc.transport.disconnecting
    smsc.pass_time(0.5)
    assert smsc.transport.disconnecting
    smsc.lose()
    assert told == [SubmitAnswered(2, 0, "id"), None]


def test_receiver_submits_nothing():
    other = start(bind="receiver")
    other.bind(CommandId.BIND_RECEIVER)
    assert not other.link.can_submit
    assert other.heard() == []


def test_pair_submits_by_its_transmitter_while_both_are_bound():
    pair, told = Pair(), []
    pair.connect(pair.receiving, CommandId.BIND_RECEIVER)
    assert not pair.receiving.can_submit
    pair.connect(pair.transmitting, CommandId.BIND_TRANSMITTER)
    assert pair.transmitting.state.word is LinkWord.BOUND_TRANSMITTER
    assert pair.receiving.submit(SUBMIT, told.append)
    assert pair.heard() == [(CommandId.SUBMIT_SM, 0, 2)]
    pair.use(pair.receiving)
    assert pair.heard() == []
    pair.lose()
    assert not pair.receiving.can_submit
    assert pair.transmitting.state.word is LinkWord.BOUND_TRANSMITTER


def test_receiver_of_a_pair_lives_without_its_transmitter():
    pair = Pair()
    pair.connect(pair.receiving, CommandId.BIND_RECEIVER)
    pair.transmitting.startService()
    pair.accept()
    pair.heard()
    pair.say(CommandId.BIND_TRANSMITTER_RESP, 1, status=CommandStatus.ESME_RBINDFAIL)
    pair.lose()
    assert pair.transmitting.state.word is LinkWord.WAITING
    assert pair.receiving.state.word is LinkWord.BOUND_RECEIVER
    pair.use(pair.receiving)
    pair.receiver.answer_with = 0
    pair.say(CommandId.DELIVER_SM, 5, MO)
    assert pair.heard() == [(CommandId.DELIVER_SM_RESP, 0, 5)]


def test_transmitter_follows_its_receiver_to_another_host():
    pair = Pair(hosts=("192.0.2.1:2775", "192.0.2.2:2775"), reconnect_min_s=1, stable_after_s=0)
    pair.bind_both()
    assert pair.tries == [("192.0.2.1", 2775)] * 2
    pair.use(pair.receiving)
    pair.lose()
    pair.pass_time(1)
    pair.refuse_connection()
    pair.pass_time(3)
    assert pair.tries[2:] == [("192.0.2.1", 2775), ("192.0.2.2", 2775)]
    pair.bind(CommandId.BIND_RECEIVER)
    pair.use(pair.transmitting)
    assert pair.heard() == [(CommandId.UNBIND, 0, 2)]
    pair.say(CommandId.UNBIND_RESP, 2)
    pair.lose()
    pair.pass_time(2)
    assert pair.tries[4:] == [("192.0.2.2", 2775)]


def test_link_that_should_reply_and_is_bound_as_a_receiver_says_so_once(events):
    smsc = start(reply="confirmed", bind="auto", bind_timeout_s=1.0, reconnect_min_s=1.0, stable_after_s=100)
    for _ in range(2):
        smsc.accept()
        smsc.say(CommandId.BIND_TRANSCEIVER_RESP, 1, status=CommandStatus.ESME_RINVCMDID)
        smsc.lose()
        smsc.pass_time(5)
        smsc.bind(CommandId.BIND_RECEIVER)
        smsc.lose()
        smsc.pass_time(10)
        smsc.link._mode = 0
    warned = [event for event in events if "terminals get no replies" in event["log_format"]]
    assert len(warned) == 1
