"""A link's PDUs in the log: on demand, for a while, never too many, and without what is secret."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from kmp_smsd.service.tracing import BURST, PER_S, Trace
from kmp_smsd.smpp import codec
from kmp_smsd.smpp.constants import CommandId
from kmp_smsd.smpp.trace import Direction

ENQUIRY = codec.encode_empty(CommandId.ENQUIRE_LINK, 1)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def trace(clock):
    return Trace("north", clock, clock.seconds)


def names(events):
    return [event["event"] for event in events]


def test_it_is_off_until_it_is_started_and_says_so(trace, events):
    assert not trace.is_on
    trace.start(10)
    assert trace.is_on
    (said,) = events
    assert (said["event"], said["link"], said["minutes"]) == ("trace_started", "north", 10)


def test_it_ends_by_itself_after_its_minutes(clock, trace, events):
    trace.start(10)
    clock.advance(599)
    assert trace.is_on
    clock.advance(1)
    assert not trace.is_on
    assert names(events) == ["trace_started", "trace_ended"]
    assert events[-1]["reason"] == "its time is over"


def test_started_again_it_goes_on_for_so_many_minutes(clock, trace):
    trace.start(10)
    clock.advance(599)
    trace.start(1)
    clock.advance(59)
    assert trace.is_on
    clock.advance(1)
    assert not trace.is_on
    assert clock.getDelayedCalls() == []


def test_it_ends_once_with_the_reason(clock, trace, events):
    trace.start(10)
    trace.end("the configuration was read again")
    trace.end("the link has stopped")
    assert names(events) == ["trace_started", "trace_ended"]
    assert events[-1]["reason"] == "the configuration was read again"
    assert clock.getDelayedCalls() == []


def test_a_pdu_is_told_with_its_link_and_direction(trace, events):
    trace.start(10)
    trace.tell(Direction.SENT, ENQUIRY)
    said = events[-1]
    assert (said["event"], said["link"], said["direction"]) == ("pdu_traced", "north", "sent")
    assert said["pdu"].startswith("enquire_link: sequence_number=1")


def test_of_a_busy_link_only_some_are_told_and_the_others_counted(clock, trace, events):
    trace.start(10)
    for _ in range(BURST + 7):
        trace.tell(Direction.RECEIVED, ENQUIRY)
    clock.advance(1)
    for _ in range(PER_S + 1):
        trace.tell(Direction.RECEIVED, ENQUIRY)
    assert names(events).count("pdu_traced") == BURST + PER_S
    trace.end("it was asked to")
    assert (events[-1]["pdus"], events[-1]["untold"]) == (BURST + PER_S, 8)
