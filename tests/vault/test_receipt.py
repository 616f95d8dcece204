from __future__ import annotations

import pytest

from kmp_smsd.vault.receipt import receipt, receipt_matches

KEY = bytes(range(16))
BINDING = (KEY, "8613912345678", "meter", "8A3F", 1732380000000)


def test_receipt_is_the_one_in_the_platform_protocol():
    assert receipt(*BINDING) == "zsK3lg-CzMhj3PeymwM_Gg"
    assert receipt_matches("zsK3lg-CzMhj3PeymwM_Gg", *BINDING)


@pytest.mark.parametrize(
    "other",
    [
        (bytes(16), *BINDING[1:]),
        (KEY, "8613912345679", "meter", "8A3F", 1732380000000),
        (KEY, "8613912345678", "meter2", "8A3F", 1732380000000),
        (KEY, "8613912345678", "meter", "8a3f", 1732380000000),
        (KEY, "8613912345678", "meter", "8A3F", 1732380000001),
    ],
)
def test_receipt_of_anything_else_does_not_match(other):
    assert not receipt_matches(receipt(*other), *BINDING)


@pytest.mark.parametrize("claimed", ["", "zsK3lg-CzMhj3PeymwM_Gg==", "zsK3lg", "ключ", "\ud800", "\0", "x" * 100_000])
def test_rubbish_from_a_platform_is_no_receipt_and_no_error(claimed):
    assert not receipt_matches(claimed, *BINDING)
