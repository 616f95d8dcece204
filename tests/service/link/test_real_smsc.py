"""A simulated SMSC on a real port."""

from __future__ import annotations

from twisted.internet.pollreactor import PollReactor

from kmp_smsd.service.link import SmscLink
from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.simulator.smsc import Smsc, SmscSettings
from tests.service.by_hand import link
from tests.service.link.stage import MO, TEMPORARY, Receiver


class Loopback:
    """A simulated SMSC and a link in one reactor, which runs until the test has seen what it waits for."""

    def __init__(self, smsc_settings=None):
        self.reactor = PollReactor()
        self.receiver = Receiver()
        self.smsc = Smsc(smsc_settings or SmscSettings(retry_after_s=0.05), self.reactor)
        options = link(hosts=(f"127.0.0.1:{self.smsc.listen()}",), system_id="esme", reconnect_min_s=0.1)
        self.link = SmscLink("real", options, "secret", self.receiver, self.reactor)

    def run(self, *steps):
        """Run each step once its condition holds; the last one ends the run."""
        left = list(steps)
        timed_out = []

        def look():
            while left and left[0][0]():
                left.pop(0)[1]()
            if left:
                self.reactor.callLater(0.01, look)
            else:
                end()

        def end():
            if timer.active():
                timer.cancel()
            self.link.drain().addBoth(lambda _: self.smsc.close().addBoth(lambda _: self.reactor.stop()))

        def give_up():
            timed_out.append(self.smsc.counts)
            left.clear()

        timer = self.reactor.callLater(20.0, give_up)
        self.reactor.callWhenRunning(self.link.startService)
        self.reactor.callWhenRunning(look)
        self.reactor.run(installSignalHandlers=False)
        assert not timed_out


def nothing():
    pass


def test_thousand_messages_cross_a_real_connection():
    loopback = Loopback()
    loopback.receiver.answer_with = 0
    loopback.smsc.store([MO] * 1000)
    loopback.run((lambda: loopback.smsc.waiting == 0, nothing))
    assert loopback.smsc.counts.accepted == loopback.smsc.counts.sent == 1000
    assert loopback.link.state.word is LinkWord.STOPPED


def test_real_smsc_without_transceivers_is_bound_as_receiver():
    loopback = Loopback(SmscSettings(takes_transceivers=False))
    loopback.run((lambda: loopback.smsc.bound == 1, nothing))
    assert (loopback.smsc.counts.binds, loopback.smsc.counts.binds_refused) == (1, 1)


def test_message_that_was_put_off_comes_again():
    loopback = Loopback()
    loopback.receiver.answer_with = TEMPORARY
    statuses = []
    loopback.smsc.send("8613912345678", "K1:A").addCallback(statuses.append)
    loopback.run(
        (lambda: loopback.smsc.counts.put_off >= 2, lambda: setattr(loopback.receiver, "answer_with", 0)),
        (lambda: statuses == [0], nothing),
    )
    assert loopback.smsc.counts.accepted == 1


def test_message_that_was_not_answered_when_the_line_broke_comes_again():
    loopback = Loopback()
    loopback.smsc.store([MO] * 3)

    def cut():
        loopback.receiver.answer_with = 0
        loopback.smsc.drop()

    loopback.run(
        (lambda: len(loopback.receiver.received) == 3, cut),
        (lambda: loopback.smsc.waiting == 0, nothing),
    )
    assert (loopback.smsc.counts.lost, loopback.smsc.counts.accepted, loopback.smsc.counts.binds) == (3, 3, 2)
