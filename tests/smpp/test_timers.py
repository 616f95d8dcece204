from __future__ import annotations

from kmp_smsd.smpp.timers import Deadline, Due, LinkTimer


def test_silent_link_is_enquired_after_its_time_and_dropped_after_the_answers():
    timer = LinkTimer(enquire_after_s=30.0, answer_within_s=10.0, last_heard=100.0)
    assert timer.check(129.9) is Due.NOTHING
    assert timer.check(130.0) is Due.ENQUIRE
    timer = timer.enquired(130.0)
    assert timer.check(139.9) is Due.NOTHING
    assert timer.check(140.0) is Due.DROP


def test_any_sign_of_life_begins_anew():
    timer = LinkTimer(enquire_after_s=30.0, answer_within_s=10.0, last_heard=0.0).enquired(30.0).heard(39.0)
    assert timer.check(68.9) is Due.NOTHING
    assert timer.check(69.0) is Due.ENQUIRE


def test_switched_off_link_timer_never_enquires():
    assert LinkTimer(enquire_after_s=None, answer_within_s=10.0, last_heard=0.0).check(1e9) is Due.NOTHING


def test_deadline_counts_only_while_something_is_awaited():
    deadline = Deadline(within_s=10.0)
    assert not deadline.is_over(1e9)
    assert not deadline.started(5.0).is_over(14.9)
    assert deadline.started(5.0).is_over(15.0)
    assert not deadline.started(5.0).stopped().is_over(1e9)
