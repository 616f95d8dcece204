"""Answering and leaving messages, without an intake around it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kmp_smsd.service.answering import Chunk, leave


class Terms:
    """Of a link that left something with its SMSC at 3.0."""

    def __init__(self, link=None):
        self.options = SimpleNamespace(temporary_status=8, failures_before_unbind=2)
        self.link_name = "north"
        self.link = link
        self.failures, self.failed_at = 1, 3.0


class Connection:
    link_name = "north"

    def answer(self, pairs):
        pass


def left(terms, *came_at):
    leave([Chunk(Connection(), terms, ["message"], [], at) for at in came_at], "the store is slow", 9.0)


@pytest.mark.parametrize(
    ("came_at", "failures", "failed_at"),
    [((1.0, 2.0), 1, 3.0), ((1.0, 5.0), 2, 9.0)],
)
def test_it_is_another_time_where_the_last_of_what_is_left_came_since(came_at, failures, failed_at):
    terms = Terms()
    left(terms, *came_at)
    assert (terms.failures, terms.failed_at) == (failures, failed_at)


def test_link_that_left_messages_several_times_rests_where_it_is_still_there():
    rests = []
    terms = Terms(SimpleNamespace(back_off=lambda: rests.append(terms.failures)))
    left(terms, 5.0)
    assert rests == [0]
    gone = Terms()
    left(gone, 5.0)  # its link went with a reload
    assert gone.failures == 2
