from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.smpp.framing import Framer

ENQUIRE_LINK = bytes.fromhex("00000010 00000015 00000000 00000001")


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), max_size=60))
def test_cutting_the_stream_anywhere_gives_the_same_pdus(bodies, cuts):
    pdus = [(len(body) + 16).to_bytes(4, "big") + bytes(12) + body for body in bodies]
    stream, framer, found = b"".join(pdus), Framer(1000), []
    for size in cuts:
        found += framer.cut(stream[:size])
        stream = stream[size:]
    assert found + framer.cut(stream) == pdus
    assert framer.error is None
    assert not framer.has_partial_pdu


def test_pdu_of_exactly_either_bound_is_cut():
    largest = bytes.fromhex("00000014 00000005 00000000 00000001 00000000")
    framer = Framer(max_pdu_octets=20)
    assert framer.cut(ENQUIRE_LINK + largest) == [ENQUIRE_LINK, largest]


@pytest.mark.parametrize("length", [0, 1, 15, 21, 0x7FFFFFFF, 0xFFFFFFFF])
def test_length_beyond_either_bound_ends_the_cutting(length):
    framer = Framer(max_pdu_octets=20)
    assert framer.cut(ENQUIRE_LINK + length.to_bytes(4, "big") + bytes(16)) == [ENQUIRE_LINK]
    assert framer.error is not None
    assert framer.cut(ENQUIRE_LINK) == []


def test_impossible_length_is_told_before_its_octets_arrive():
    framer = Framer(max_pdu_octets=70_000)
    framer.cut(bytes.fromhex("ffffffff"))
    assert framer.error is not None


@pytest.mark.parametrize(
    ("octets", "guess"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (bytes.fromhex("15030300020228"), "TLS"),
        (b"SSH-2.0-OpenSSH_9.2", "SSH"),
        (b"\r\nlogin: ", "text lines"),
        (bytes.fromhex("80000009 00000000 00000001 00"), "off by 4"),
        (bytes.fromhex("0000000f 00000015"), "at least 16"),
        (bytes.fromhex("00100000 00000015"), "max_pdu_octets"),
    ],
)
def test_peer_that_does_not_speak_smpp_is_named(octets, guess):
    framer = Framer(max_pdu_octets=70_000)
    framer.cut(octets)
    assert guess in str(framer.error)


def test_unfinished_pdu_is_known_to_be_waiting():
    framer = Framer(max_pdu_octets=100)
    framer.cut(ENQUIRE_LINK[:3])
    assert framer.has_partial_pdu
    assert framer.cut(ENQUIRE_LINK[3:]) == [ENQUIRE_LINK]
    assert not framer.has_partial_pdu
