"""What is in work at once, and the rates of links and senders."""

from __future__ import annotations

import pytest

from kmp_smsd.storage import StoreUnavailable
from tests.service.by_hand import SmscByHand, link, mo
from tests.service.intake.stage import NEVER, OK, OTHER, TEMPORARY, LinkByHand


def test_more_than_may_be_in_work_is_left_with_the_smsc_at_once(start):
    at = start(north=link(in_flight_max=3), south=link(in_flight_max=3))
    north, south = SmscByHand("north"), SmscByHand("south")
    at.intake.messages(north, (mo(1), mo(2)))
    at.intake.messages(north, (mo(3), mo(4)))
    assert north.statuses() == [(4, TEMPORARY)]
    at.intake.messages(south, (mo(1),))
    assert south.statuses() == []
    at.run()
    assert north.statuses() == [(4, TEMPORARY), (1, OK), (2, OK), (3, OK)]
    at.intake.messages(north, (mo(5), mo(6), mo(7)))
    at.run()
    assert north.statuses()[4:] == [(5, OK), (6, OK), (7, OK)]


@pytest.mark.parametrize("ends", ["settled", "failed", "overdue", "overdue in the queue"])
def test_messages_are_no_longer_in_work_however_they_end(start, ends):
    at = start(north=link(in_flight_max=1, failures_before_unbind=100), south=link(answer_within_s=60))
    if ends == "overdue in the queue":
        at.intake.messages(SmscByHand("south"), (mo(1),))
    at.inbox_fails[:] = [StoreUnavailable("disk full")] if ends == "failed" else []
    at.intake.messages(SmscByHand(), (mo(2),))
    if ends.startswith("overdue"):
        at.reactor.pass_time(3)
    if ends != "overdue in the queue":
        at.run()
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(3),))
    at.run()
    assert smsc.statuses() == [(3, OK)]


def test_message_that_the_store_still_has_is_in_work_though_it_was_answered(start):
    """A stalled store must not be given ever more: its batch counts until it ends."""
    at = start(north=link(in_flight_max=1))
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1),))
    at.reactor.pass_time(3)
    at.intake.messages(smsc, (mo(2),))
    assert smsc.statuses() == [(1, TEMPORARY), (2, TEMPORARY)]


def test_rate_of_a_link(start):
    at = start(north=link(rate_per_s=2), south=link())
    north, south = SmscByHand("north"), SmscByHand("south")
    at.intake.messages(north, tuple(mo(number) for number in range(4)))
    at.intake.messages(south, tuple(mo(number) for number in range(4)))
    at.run()
    assert sorted(north.statuses()) == [(0, OK), (1, OK), (2, TEMPORARY), (3, TEMPORARY)]
    assert south.statuses() == [(number, OK) for number in range(4)]
    at.reactor.advance(0.5)
    at.intake.messages(north, (mo(5), mo(6)))
    at.run()
    assert sorted(north.statuses()[4:]) == [(5, OK), (6, TEMPORARY)]


def test_sender_who_comes_too_often_takes_nothing_from_the_rate_of_its_link(start):
    at = start(sync={"mdn_burst": 1, "mdn_per_minute": 6.0}, north=link(rate_per_s=3))
    smsc = SmscByHand("north")
    at.intake.messages(smsc, tuple(mo(number) for number in range(9)))
    others = ("8613900000005", "8613900000006", "8613900000007")
    at.intake.messages(smsc, tuple(mo(10 + number, source_addr=other) for number, other in enumerate(others)))
    at.run()
    assert [one for one in sorted(smsc.statuses()) if one[1] == OK] == [(0, OK), (10, OK), (11, OK)]


def test_rate_of_a_sender_over_all_links(start):
    at = start(sync={"mdn_burst": 2, "mdn_per_minute": 6.0}, north=link(), south=link())
    north, south = SmscByHand("north"), SmscByHand("south")
    at.intake.messages(north, (mo(1), mo(2, text="hello"), mo(3), mo(4, source_addr=OTHER)))
    at.intake.messages(south, (mo(5),))
    at.run()
    assert sorted(north.statuses()) == [(1, OK), (2, NEVER), (3, TEMPORARY), (4, OK)]
    assert south.statuses() == [(5, TEMPORARY)]
    at.reactor.pass_time(9.5)
    at.intake.messages(south, (mo(6),))
    at.reactor.pass_time(0.6)
    at.intake.messages(south, (mo(7), mo(8)))
    at.run()
    assert sorted(south.statuses()[1:]) == [(6, TEMPORARY), (7, OK), (8, TEMPORARY)]


def test_messages_refused_for_the_rate_are_no_failures_of_the_store(start):
    at = start(north=link(rate_per_s=1, failures_before_unbind=2))
    at.intake.attach(north := LinkByHand("north"))
    at.intake.messages(SmscByHand(), tuple(mo(number) for number in range(10)))
    assert north.backed_off == 0
