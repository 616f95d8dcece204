from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.monitoring.ages import ago
from kmp_smsd.monitoring.amounts import count, duration, instant, octets, rate


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (0.0004, "<1 ms"),
        (0.0123, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1, "1 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86_400, "1 d"),
        (86_400 * 4 + 3600 * 3, "4 d 3 h"),
    ],
)
def test_a_duration_is_shown_in_its_largest_units(seconds: float, shown: str) -> None:
    assert plain(duration(seconds)) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1.5 * 2**30, "1.5 GiB"), (2**52, "4096.0 TiB")],
)
def test_octets_are_shown_in_binary_units(number: float, shown: str) -> None:
    assert plain(octets(number)) == shown


@pytest.mark.parametrize(
    ("per_second", "shown"),
    [(0, "0.0"), (0.004, "<0.01"), (0.03, "0.03"), (0.25, "0.2"), (41.24, "41.2"), (99.99, "100.0"), (1204.4, "1 204")],
)
def test_a_rate_is_shown_with_the_digits_that_tell(per_second: float, shown: str) -> None:
    assert plain(rate(per_second)) == shown


def test_a_count_is_grouped_and_an_instant_is_utc() -> None:
    assert plain(count(1_048_213)) == "1 048 213"
    assert instant(1_795_819_200_999) == "2026-11-27T22:40:00Z"


@given(st.floats(0, 1e9))
def test_no_line_ends_between_a_number_and_its_unit(seconds: float) -> None:
    number_and_unit = duration(seconds).split(" ")
    assert len(number_and_unit) <= 2
    assert all(len(part.split("\N{NO-BREAK SPACE}")) == 2 for part in number_and_unit)


@pytest.mark.parametrize(
    ("at", "shown"), [(180_000, "3 min ago"), (359_999, "0 s ago"), (360_000, "0 s ago"), (600_000, "in 4 min")]
)
def test_time_is_shown_as_it_looks_from_now_and_as_it_is(at: int, shown: str) -> None:
    words = plain(ago(at, 360_000))
    assert words == f'<time datetime="{instant(at)}" title="{instant(at)}">{shown}</time>'
