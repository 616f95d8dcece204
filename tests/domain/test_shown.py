"""Text that others wrote, in sentences for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.shown import CHARACTERS_MAX, masked, masked_in, shown


@given(st.text(st.characters()))  # surrogates too
def test_nothing_that_is_shown_moves_a_cursor_or_fills_a_screen(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= CHARACTERS_MAX


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("x" * 80, "x" * 80),
        ("a" * 50 + "x" * 100_000 + "z" * 27, "a" * 50 + "..." + "z" * 27),
        ("red \x1b[31m", r"red \x1b[31m"),
        ("\udcff\u202e", r"\udcff\u202e"),
        ("\u7535\u8868", "\u7535\u8868"),
    ],
)
def test_short_text_is_shown_whole_and_of_long_text_both_ends(text: str, seen: str) -> None:
    assert shown(text) == seen


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("8613812345678", "86138*****678"),
        ("861381234567890", "86138*******890"),
        ("14155550123", "141*****123"),
        ("10690001", "10*****1"),
        ("12345", "*****"),
        ("", ""),
    ],
)
def test_an_address_is_masked_in_its_middle(address: str, seen: str) -> None:
    assert masked(address) == seen


@given(st.text(max_size=30))
def test_a_masked_address_keeps_its_length_and_hides_five_characters_or_all(address: str) -> None:
    seen = masked(address)
    assert len(seen) == len(address)
    assert seen.count("*") >= min(5, len(address))
    assert all(mark in ("*", character) for mark, character in zip(seen, address, strict=True))


def test_long_numbers_are_masked_in_what_quotes_them() -> None:
    assert masked_in("KeyError: ('8613812345678', 'meter'), line 1234567") == (
        "KeyError: ('86138*****678', 'meter'), line 1*****7"
    )
