from __future__ import annotations

import pytest

from kmp_smsd.domain.counted import counted


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (counted(0, "key"), "0 keys"),
        (counted(1, "key"), "1 key"),
        (counted(2_000, "key"), "2,000 keys"),
        (counted(1, "delivery waits", "deliveries wait"), "1 delivery waits"),
        (counted(2, "delivery waits", "deliveries wait"), "2 deliveries wait"),
        (counted(1, "delivery waits", "deliveries wait", more=True), "1+ deliveries wait"),
    ],
)
def test_one_is_one_and_others_are_many(said: str, sentence: str) -> None:
    assert said == sentence
