from __future__ import annotations

import traceback

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.vault.data_key import AlteredKey, DataKey, Wrapped

KEY = bytes(range(16))
texts = st.text(st.characters(codec="utf-8"), max_size=12)


def test_wrapped_key_comes_back():
    data_key = DataKey.new()
    wrapped = data_key.wrap(KEY, "8A3F", "aes", "meter")
    assert data_key.unwrap(wrapped, "8A3F", "aes", "meter") == KEY
    assert (len(wrapped.nonce), len(wrapped.ciphertext)) == (12, 32)


def test_same_key_never_looks_the_same_twice():
    data_key = DataKey.new()
    assert len({data_key.wrap(KEY, "8A3F", "aes", None) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "place", [("8A40", "aes", "meter"), ("8A3F", "sm4", "meter"), ("8A3F", "aes", "pay"), ("8A3F", "aes", None)]
)
def test_key_moved_to_another_row_is_not_delivered(place):
    data_key = DataKey.new()
    with pytest.raises(AlteredKey):
        data_key.unwrap(data_key.wrap(KEY, "8A3F", "aes", "meter"), *place)


def test_key_of_another_import_is_not_delivered():
    data_key = DataKey.new()
    renamed = DataKey("another", data_key.octets)
    with pytest.raises(AlteredKey):
        renamed.unwrap(data_key.wrap(KEY, "8A3F", "aes", None), "8A3F", "aes", None)


@given(st.data())
def test_any_changed_bit_is_noticed(data):
    data_key = DataKey.new()
    wrapped = data_key.wrap(KEY, "8A3F", "aes", None)
    bit = data.draw(st.integers(0, 8 * (12 + 32) - 1))
    octets = bytearray(b"".join(wrapped))
    octets[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AlteredKey):
        data_key.unwrap(Wrapped(bytes(octets[:12]), bytes(octets[12:])), "8A3F", "aes", None)


@given(nonce=st.binary(max_size=200), ciphertext=st.binary(max_size=80))
def test_rubbish_from_the_database_is_an_altered_key(nonce, ciphertext):
    with pytest.raises(AlteredKey):
        DataKey.new().unwrap(Wrapped(nonce, ciphertext), "8A3F", "aes", None)


@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
def test_two_sets_of_ids_never_read_the_same(one, other):
    associated = DataKey("d1", bytes(32))._associated
    assert (associated(*one) == associated(*other)) == (one == other)


def test_wrapping_can_be_undone_without_us():
    data_key = DataKey("d1", bytes(32))
    nonce, ciphertext = data_key.wrap(KEY, "8A3F", "aes", "meter")
    assert AESGCM(bytes(32)).decrypt(nonce, ciphertext, b"2:d14:8A3F3:aes5:meter") == KEY


def test_key_wrapped_by_the_first_version_can_still_be_unwrapped():
    wrapped = Wrapped(
        bytes.fromhex("000102030405060708090a0b"),
        bytes.fromhex("88ca315104f889feca7158eef10ed0039ec0e9270168543184fb122e03ccae06"),
    )
    assert DataKey("d1", bytes(32)).unwrap(wrapped, "8A3F", "aes", None) == KEY


def test_neither_repr_nor_errors_show_a_key():
    data_key = DataKey("d1", b"a secret of thirty-two octets...")
    try:
        data_key.unwrap(Wrapped(bytes(12), bytes(32)), "8A3F", "aes", None)
    except AlteredKey:
        text = traceback.format_exc()
    assert "secret" not in text + repr(data_key) + str(data_key) + f"{[data_key]}"
    assert repr(data_key) == "<DataKey d1>"


def test_data_key_has_32_octets():
    with pytest.raises(ValueError, match=r"^a data key has 32 octets, not 16$"):
        DataKey("d1", bytes(16))


def test_every_data_key_is_new():
    one, other = DataKey.new(), DataKey.new()
    assert one.id != other.id
    assert one.octets != other.octets
