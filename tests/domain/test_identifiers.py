from __future__ import annotations

import pytest

from kmp_smsd.domain.identifiers import is_app_id, is_key_id


@pytest.mark.parametrize("text", ["8A3F", "acme-2024.000001", "a", "-", ".", "x" * 64])
def test_key_id_is_up_to_64_of_its_alphabet(text):
    assert is_key_id(text)


@pytest.mark.parametrize("text", ["", "x" * 65, "a b", "a:b", "a_b", "a\n", "a\0", "é", "Ａ", "٣", "a/b"])
def test_anything_else_is_no_key_id(text):
    assert not is_key_id(text)


def test_app_id_is_half_as_long():
    assert is_app_id("x" * 32)
    assert not is_app_id("x" * 33)
    assert not is_app_id("")
    assert not is_app_id("meter\n")
