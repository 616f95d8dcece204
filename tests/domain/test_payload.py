from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kmp_smsd.domain.payload import MAX_PAYLOAD_OCTETS, Payload, Proof, parse_payload

ID_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MAX_COUNTER = 9_223_372_036_854_775_807

key_ids = st.text(ID_CHARACTERS, min_size=1, max_size=64)
app_ids = st.text(ID_CHARACTERS, min_size=1, max_size=32)
tags = st.builds(str.__add__, st.sampled_from("0123456789ABCDEF"), st.text(CROCKFORD, min_size=12, max_size=12))
proofs = st.builds(Proof, st.integers(1, MAX_COUNTER), tags)
payloads = st.builds(Payload, key_ids, st.none() | app_ids, st.none() | proofs)
padding = st.text("\0 \r\n").map(str.encode)


def written(payload: Payload) -> bytes:
    fields = ["K1", payload.key_id]
    if payload.proof is not None:
        fields += [payload.app_id or "", str(payload.proof.counter), payload.proof.tag]
    elif payload.app_id is not None:
        fields.append(payload.app_id)
    return ":".join(fields).encode("ascii")


@given(payloads, padding)
@example(Payload("k" * 64, "a" * 32, Proof(MAX_COUNTER, "F" * 13)), b"")
def test_every_legal_payload_is_understood_whatever_it_is_padded_with(payload: Payload, pad: bytes) -> None:
    assert parse_payload(written(payload) + pad) == payload


def test_longest_payload_fits_one_message_of_8_bit_octets() -> None:
    longest = Payload("k" * 64, "a" * 32, Proof(MAX_COUNTER, "F" * 13))
    assert len(written(longest)) == MAX_PAYLOAD_OCTETS <= 140


@given(payloads, st.data())
def test_one_changed_octet_is_another_legal_payload_or_nothing(payload: Payload, data: st.DataObject) -> None:
    octets = bytearray(written(payload))
    octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    found = parse_payload(bytes(octets))
    assert found is None or written(found) == bytes(octets).rstrip(b"\0 \r\n")


@given(st.binary(max_size=140))
def test_what_is_understood_says_the_same_when_written_again(octets: bytes) -> None:
    found = parse_payload(octets)
    assert found is None or written(found) == octets.rstrip(b"\0 \r\n")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"K1",
        b"K1:",
        b"K1: ",
        b"K1::meter",
        b"K1:key:",
        b"K1:key::",
        b"K1:key:meter:",
        b"K1:key:meter:1",
        b"K1:key:meter:1:",
        b"K1:key:meter:1:0123456789ABC:",
        b"K1:key:meter:1:0123456789ABC:more",
        b"k1:key",
        b"K2:key",
        b" K1:key",
        b"\0K1:key",
        b"K1:key\nK1:key",
        b"K1:ke y",
        b"K1:key_1",
        b"K1:schl\xfcssel",
        b"K1:" + b"k" * 65,
        b"K1:key:" + b"a" * 33,
        b"K1:key:" + b"a" * 33 + b":1:0123456789ABC",
        b"K1:key\t",
        b"K1:key\x0b",
        b"K1:key\xa0",
        "K1:key".encode("utf-16-be"),
        b"\xff\xfe" + "K1:key".encode("utf-16-le"),
        b"\xef\xbb\xbfK1:key",
        "K1:key\u0663".encode(),  # a digit, but not one of ours
    ],
)
def test_anything_else_is_nothing(octets: bytes) -> None:
    assert parse_payload(octets) is None


@pytest.mark.parametrize("counter", ["1", "10", str(MAX_COUNTER)])
def test_counter_may_be_any_positive_64_bit_number(counter: str) -> None:
    found = parse_payload(f"K1:key::{counter}:0123456789ABC".encode())
    assert found == Payload("key", None, Proof(int(counter), "0123456789ABC"))


@pytest.mark.parametrize(
    "counter", ["0", "01", "-1", "+1", "1.0", "1e3", "0x1", " 1", "", str(MAX_COUNTER + 1), "9" * 20, "\u0661"]
)
def test_no_other_counter_is_one(counter: str) -> None:
    assert parse_payload(f"K1:key::{counter}:0123456789ABC".encode()) is None


@given(st.text(st.characters(max_codepoint=255), min_size=12, max_size=14))
@example("FZZZZZZZZZZZZ")
@example("GZZZZZZZZZZZZ")
@example("0123456789AB")
@example("0123456789ABCD")
@example("0123456789abc")
@example("I000000000000")
@example("0000000000000")
@example("00000000000I0")
@example("00000000000L0")
@example("00000000000O0")
@example("00000000000U0")
def test_tag_is_64_bits_in_thirteen_characters_of_crockford_base32(tag: str) -> None:
    legal = re.fullmatch("[0-9A-F][0-9A-HJKMNP-TV-Z]{12}", tag) is not None
    octets = f"K1:key:app:7:{tag}".encode("latin-1")
    padded = tag != tag.rstrip("\0 \r\n")  # then a shorter tag may be left
    assert padded or parse_payload(octets) == (Payload("key", "app", Proof(7, tag)) if legal else None)


@given(key_ids)
def test_longest_ucs_2_message_of_70_characters_holds_any_key_id_without_an_app(key_id: str) -> None:
    """Nothing here decodes UCS-2; but what a terminal wrote in it arrives as these octets, and must fit."""
    assert len(written(Payload(key_id))) <= 70
    assert parse_payload(written(Payload(key_id)).decode().encode("utf-16-be")) is None


@given(key_ids)
def test_case_matters(key_id: str) -> None:
    upper, lower = parse_payload(f"K1:{key_id.upper()}".encode()), parse_payload(f"K1:{key_id.lower()}".encode())
    assert (upper == lower) == (key_id.upper() == key_id.lower())
