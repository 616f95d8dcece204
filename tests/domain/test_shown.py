"""Text that others wrote, in sentences for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.shown import CHARACTERS_MAX, shown


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
