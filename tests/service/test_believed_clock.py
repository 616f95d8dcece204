from __future__ import annotations

import pytest

from kmp_smsd.service.believed_clock import BELIEVED_AFTER_S, SET_AHEAD_S, SET_BACK_S, SILENT_S, BelievedClock


class At:
    """A clock that shows 1,000,000 where 50 monotonic seconds have passed."""

    def __init__(self, last_at: float | None = None) -> None:
        self.monotonic, self.ahead_s = 50.0, 999_950.0
        self.clock = BelievedClock(lambda: self.monotonic + self.ahead_s, lambda: self.monotonic, last_at)

    def after(self, seconds: float, set_by: float = 0.0) -> float:
        self.monotonic += seconds
        self.ahead_s += set_by
        return self.clock.now()


@pytest.mark.parametrize("set_by", [0.0, -50_000.0, 0.25, SET_AHEAD_S - 1])
def test_clock_is_believed_that_goes_or_is_corrected(set_by: float) -> None:
    at = At()
    assert at.after(10, set_by) == 1_000_010 + set_by
    assert at.after(10, set_by) == 1_000_020 + 2 * set_by


def test_clock_that_was_set_ahead_is_believed_a_day_later(events: list[dict[str, object]]) -> None:
    at = At()
    assert at.after(10, SET_AHEAD_S) == 1_000_010
    assert at.after(BELIEVED_AFTER_S - 1) == 1_000_010 + BELIEVED_AFTER_S - 1
    assert at.after(1) == 1_000_010 + BELIEVED_AFTER_S + SET_AHEAD_S
    assert at.after(10, SET_AHEAD_S) == 1_000_020 + BELIEVED_AFTER_S + SET_AHEAD_S
    assert [(event["event"], event["seconds"]) for event in events] == [("clock_set_ahead", SET_AHEAD_S)] * 2


def test_clock_that_is_set_right_within_the_day_is_believed_at_once() -> None:
    at = At()
    at.after(10, 9e9)
    assert at.after(10, -9e9) == 1_000_020
    assert at.after(BELIEVED_AFTER_S, 9e9) == 1_000_020 + BELIEVED_AFTER_S


def test_clock_that_is_set_ahead_once_more_is_believed_a_day_after_that(events: list[dict[str, object]]) -> None:
    at = At()
    assert at.after(10, SET_AHEAD_S) == 1_000_010
    assert at.after(BELIEVED_AFTER_S - 1, 9e9) == 1_000_010 + BELIEVED_AFTER_S - 1
    assert at.after(BELIEVED_AFTER_S - 1) == 1_000_010 + 2 * (BELIEVED_AFTER_S - 1)
    assert at.after(1) == 1_000_010 + 2 * BELIEVED_AFTER_S - 1 + SET_AHEAD_S + 9e9
    assert [event["seconds"] for event in events] == [SET_AHEAD_S, 9e9]


def test_clock_that_is_set_ahead_once_more_as_the_day_ends_is_not_believed_with_that() -> None:
    at = At()
    at.after(10, SET_AHEAD_S)
    assert at.after(BELIEVED_AFTER_S, 9e9) == 1_000_010 + BELIEVED_AFTER_S


def test_clock_that_is_set_back_by_a_part_of_what_it_was_set_ahead_is_not_believed() -> None:
    at = At()
    at.after(10, 9e9)
    assert at.after(10, -1e9) == 1_000_020
    assert at.after(BELIEVED_AFTER_S - 10) == 1_000_010 + BELIEVED_AFTER_S + 8e9


@pytest.mark.parametrize(("set_by", "told"), [(-SET_BACK_S, []), (-SET_BACK_S - 1, [SET_BACK_S + 1])])
def test_clock_that_was_set_back_is_told_of_once(
    events: list[dict[str, object]], set_by: float, told: list[float]
) -> None:
    at = At()
    at.after(10, set_by)
    at.after(10)
    assert [event["seconds"] for event in events if event["event"] == "clock_set_back"] == told


@pytest.mark.parametrize("last_at", [1_000_000 - SILENT_S, 999_999, 2_000_000])
def test_clock_of_a_start_is_believed_that_is_not_long_after_the_last_message(last_at: float) -> None:
    assert At(last_at).after(10) == 1_000_010


def test_clock_of_a_start_long_after_the_last_message_is_believed_a_day_later(events: list[dict[str, object]]) -> None:
    at = At(1_000_000 - SILENT_S - 1)
    assert at.after(BELIEVED_AFTER_S - 1) == 1_000_000 - SILENT_S + BELIEVED_AFTER_S - 2
    assert at.after(1) == 1_000_000 + BELIEVED_AFTER_S
    assert [(event["event"], event["seconds"]) for event in events] == [("clock_in_doubt", SILENT_S + 1)]


def test_clock_of_a_start_that_is_set_right_within_the_day_is_believed_at_once() -> None:
    at = At(1_000_000 - 9e5)
    assert at.after(10, -9e5) == 100_010
    assert at.after(10) == 100_020
