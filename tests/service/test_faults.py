from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.faults import Faults
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.errors import NoRoom


@pytest.mark.parametrize("error", [StoreUnavailable("disk full"), NoRoom("disk full")])
def test_unavailable_store_is_told_of_by_the_logger_that_was_given(error, events):
    faults = Faults(Logger("kmp_smsd.service.erasing"), Clock().seconds)
    assert not faults.left_to_tell(Failure(error), "nothing is erased: {reason}")
    told = [(event["log_namespace"], event["log_level"].name, event["log_format"], event["event"]) for event in events]
    assert told == [("kmp_smsd.service.erasing", "error", "nothing is erased: {reason}", "store_unavailable")]
    assert events[0]["reason"] == "disk full"


def test_fault_of_ours_is_left_to_the_caller(events):
    assert Faults(Logger(), Clock().seconds).left_to_tell(Failure(ValueError("a bug")))
    assert events == []


def test_neither_is_told_again_within_ten_seconds(events):
    clock = Clock()
    faults = Faults(Logger(), clock.seconds)
    left = []
    for second in range(21):
        faults.left_to_tell(Failure(StoreUnavailable("disk full")))
        left += [second] if faults.left_to_tell(Failure(ValueError("a bug"))) else []
        clock.advance(1)
    assert len(events) == 3
    assert left == [0, 10, 20]
