from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.importing.repeated import Repeated


@given(st.lists(st.text("aAbB.", min_size=1, max_size=2), max_size=40))
def test_repeated_are_the_same_that_a_dictionary_finds(texts):
    first, folded = {}, {}
    equal, cases = [], []
    with Repeated() as repeated:
        for line, text in enumerate(texts, start=2):
            repeated.add(line, text)
            if first.setdefault(text, line) != line:
                equal.append((line, first[text]))
            if texts[folded.setdefault(text.lower(), line) - 2] != text:
                cases.append((line, folded[text.lower()]))
        assert sorted(repeated.equal()) == equal
        assert sorted(repeated.differing_in_case()) == cases


def test_full_temporary_directory_is_an_os_error_with_a_sentence():
    with Repeated() as repeated:
        repeated._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(OSError, match="the temporary directory has no room to sort the file's identifiers: "):
            _fill(repeated)


def _fill(repeated):
    for line in range(100_000):
        repeated.add(line, "x" * 64)
