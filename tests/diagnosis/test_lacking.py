"""What a number's requests lack, where a command cannot choose the moment at which it asks."""

from __future__ import annotations

import pytest

from kmp_smsd.diagnosis.lacking import waiting
from kmp_smsd.diagnosis.number import Number
from kmp_smsd.domain.facts import Key

NOW = 1_732_380_000_000


@pytest.mark.parametrize("valid_from", [None, NOW, NOW + 1])
@pytest.mark.parametrize("valid_until", [None, NOW, NOW + 1])
def test_key_is_lacking_while_no_request_is_bound_to_it(valid_from: int | None, valid_until: int | None) -> None:
    key = {"state": "live", "valid_from": valid_from, "valid_until": valid_until}
    number = Number(mdn="8613900000001", now=NOW, is_legal=True, keys={"K1": key})
    (said,) = waiting(number, {"key_id": "K1", "outcome": "key_not_usable", "again_at": None})
    is_bindable = Key(1, True, None, 1, valid_from, valid_until).bindable_at(NOW)
    assert said.startswith("the request with key K1 is to be decided again") == is_bindable
