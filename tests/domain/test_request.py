"""What a sender that is no MDN is counted as."""

from __future__ import annotations

import pytest

from kmp_smsd.domain.request import sender_class


@pytest.mark.parametrize(
    ("address", "label"),
    [
        ("8619912345678", "86199/13"),
        ("+8619912345678", "86199/13"),
        ("110", "110/3"),
        ("KEYSY", "alnum/5"),
        ("KEYSX", "alnum/5"),
        ("86199X", "alnum/6"),
        ("\u0661\u0662\u0663", "alnum/3"),  # digits, but not ours
        ("", "alnum/0"),
    ],
)
def test_sender_is_told_by_its_number_range_or_as_a_name_by_its_length_alone(address: str, label: str) -> None:
    assert sender_class(address) == label
