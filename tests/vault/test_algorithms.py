from __future__ import annotations

import pytest

from kmp_smsd.vault.algorithms import ALGORITHMS, UnfitKey, fitting, kcv

KEY = bytes(range(16))


@pytest.mark.parametrize(("algorithm", "expected"), [("aes", "BE7ED6"), ("sm4", "C118E5")])
def test_kcv_is_the_one_that_platforms_were_told(algorithm, expected):
    assert kcv(algorithm, KEY) == expected


def test_kcv_of_an_hmac_key_is_six_hexadecimal_digits_and_depends_on_the_key():
    assert kcv("hmac", KEY) == "16B8CF"
    assert kcv("hmac", KEY[::-1]) != "16B8CF"


@pytest.mark.parametrize(("algorithm", "lengths"), [("aes", {16, 24, 32}), ("sm4", {16}), ("hmac", set(range(16, 65)))])
def test_key_has_one_of_the_lengths_of_its_algorithm(algorithm, lengths):
    for length in range(70):
        if length in lengths:
            fitting(algorithm, bytes(length))
        else:
            with pytest.raises(UnfitKey):
                kcv(algorithm, bytes(length))


def test_sentences_name_what_is_wrong_and_never_the_key():
    secret = b"A secret of 18 oct"
    with pytest.raises(UnfitKey, match=r"^a key of aes has 16, 24 or 32 octets, this one has 18$") as length:
        fitting("aes", secret)
    with pytest.raises(UnfitKey, match=r"^the algorithm is not one of aes, sm4, hmac$") as name:
        fitting(secret.decode(), secret)
    assert "secret" not in repr(length.value) + repr(name.value)


def test_algorithms_are_these_three():
    assert set(ALGORITHMS) == {"aes", "sm4", "hmac"}
