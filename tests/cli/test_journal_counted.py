"""What an operator sees of all messages: how many by which link, with which outcome, from what senders."""

from __future__ import annotations

import pytest

from kmp_smsd.cli.settings import now_ms
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import Unfit
from kmp_smsd.domain.spans import HOUR_MS
from tests.cli.site import FIRST
from tests.storage.stock import sync


def refused(sender, link="north", outcome=Outcome.INVALID_MDN):
    return Unfit(outcome=outcome, sender=sender, received_at=0, link=link)


@pytest.fixture
def counted(site, monkeypatch):
    """Messages of three hours; the commands are run in the last one."""
    hour = now_ms() // HOUR_MS
    monkeypatch.setattr("kmp_smsd.cli.journal.now_ms", lambda: hour * HOUR_MS + 1)
    site.ready("K1")
    with site.store() as store:
        store.settle([refused("86199/13")] * 4, (hour - 2) * HOUR_MS)
        store.settle([refused("86199/13")] * 3, (hour - 1) * HOUR_MS)
        store.settle([refused("86177/13", "south"), refused("alnum/6", outcome=Outcome.MALFORMED)], hour * HOUR_MS)
        store.settle([sync(FIRST, "K1"), sync(FIRST, "K1")], hour * HOUR_MS + 1)
    return site


def test_messages_are_counted_by_link_and_outcome(counted):
    header, *lines = counted.ok("journal", "counts").splitlines()
    assert header.split() == ["link", "outcome", "messages"]
    assert [line.split() for line in lines] == [
        ["north", "already_bound", "1"],
        ["north", "bound", "1"],
        ["north", "invalid_mdn", "7"],
        ["north", "malformed", "1"],
        ["south", "invalid_mdn", "1"],
    ]


@pytest.mark.parametrize(("hours", "count"), [(1, None), (2, 3), (3, 7), (1_000_000, 7)])
def test_hours_begin_with_the_one_that_runs(counted, hours, count):
    said = {
        (row["link"], row["outcome"]): row["count"] for row in counted.rows("journal", "counts", "--hours", str(hours))
    }
    assert said.get(("north", "invalid_mdn")) == count
    assert said["north", "bound"] == 1
    rows = counted.rows("journal", "senders", "--hours", str(hours))
    assert {row["sender"]: row["count"] for row in rows}.get("86199/13") == count


def test_senders_without_an_entry_are_counted_by_their_class_the_most_frequent_first(counted):
    header, *lines = counted.ok("journal", "senders").splitlines()
    assert header.split() == ["link", "outcome", "senders", "messages"]
    assert [line.split() for line in lines] == [
        ["north", "invalid_mdn", "86199/13", "7"],
        ["north", "malformed", "alnum/6", "1"],
        ["south", "invalid_mdn", "86177/13", "1"],
    ]
    rows = counted.rows("journal", "senders", "--outcome", "invalid_mdn")
    assert [(row["link"], row["sender"], row["count"]) for row in rows] == [
        ("north", "86199/13", 7),
        ("south", "86177/13", 1),
    ]


def test_nothing_counted_is_said(site):
    site.ready("K1")
    assert site.ok("journal", "counts") == "kmp-smsd: no messages\n"
    assert site.ok("journal", "senders") == "kmp-smsd: no messages without an entry\n"
    assert site.refused("journal", "senders", "--outcome", "lost")[0] == 64
    assert site.refused("journal", "counts", "--hours", "0")[0] == 64
